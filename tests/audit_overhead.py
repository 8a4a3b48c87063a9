"""What jobs, receipts and disk cost beside the computing: `python -m tests.audit_overhead RUN_FOLDER`, made by one worker.

Shards follow one another, so what lies between two receipts and was not computing is overhead. The first shard of each
model is left out: it loads the network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    receipts = sorted(Path(sys.argv[1]).glob("shards/*/*/_receipt.json"), key=lambda one: one.stat().st_mtime_ns)
    told = [json.loads(receipt.read_text())["content"]["value"] for receipt in receipts]
    ends = np.array([receipt.stat().st_mtime_ns / 1e9 for receipt in receipts])
    computing = np.array([item["seconds"] for item in told])
    seen: set[str] = set()
    chosen = []
    for place, one in enumerate(told):
        role = one["condition"].split("-")[1]
        if place and role in seen:
            chosen.append(place)
        seen.add(role)
    between = np.diff(ends, prepend=ends[0])[chosen]
    extra = between - computing[chosen]
    sys.stdout.write(
        f"{len(chosen)} shards, {computing[chosen].mean():.2f} s of computing each; beside it {1000 * extra.mean():.0f} ms "
        f"(median {1000 * np.median(extra):.0f} ms) = {100 * extra.sum() / computing[chosen].sum():.1f} %\n"
    )


if __name__ == "__main__":
    main()
