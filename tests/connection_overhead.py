"""What storing connections costs an audit: `python -m tests.connection_overhead STORE MODEL DATA TIER`.

Computes one block of a tier under every condition and tells the processor time of its connections beside the rest,
as if the block held the sample's share of images, and their bytes.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from engine.audit import compute
from engine.models import register
from engine.serialization import size
from engine.store import Store
from tests import audits

PLAN = """
model = "{}"
data = "{}"
tier = "{}"
epsilon = "8/255"
threads = 1

[images]
count = 1000
"""


def main() -> None:
    store, name = Store(sys.argv[1], create=False), sys.argv[2]
    manifest = audits.planned(store, PLAN.format(name, sys.argv[3], sys.argv[4]))
    bundle, data = register.bundle(store, name), store.dataset(sys.argv[3])
    block = manifest.connected[len(manifest.connected) // 2] // manifest.block
    rows = manifest.rows(block)
    spent: list[float] = []
    sampled = compute._sampled

    def timed(*given: Any) -> Any:
        started = time.process_time()
        result = sampled(*given)
        spent.append(time.process_time() - started)
        return result

    compute._sampled = timed
    whole = taken = 0.0
    share = len(manifest.connected) / len(manifest.images.samples)
    for condition in manifest.of("candidate"):
        started = time.process_time()
        found = compute.compute(
            compute.Subject(bundle, data, manifest, condition), store, range(rows.start, rows.stop), lambda _done: None
        )
        seconds = time.process_time() - started
        held = found.connections
        images = len(held.samples) if held else 0
        own = spent[-1] if held else 0.0
        whole += seconds - own
        taken += own * share * len(found.rows.samples) / max(images, 1)
        sys.stdout.write(
            f"{condition.name}: {seconds:.1f} s for {len(found.rows.samples)} images, of these {spent[-1]:.2f} s for the "
            f"connections of {images} ({size(held) / max(images, 1) / 1024:.0f} KiB each)\n"
            if held
            else f"{condition.name}: {seconds:.1f} s, no connections\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"{100 * taken / whole:.2f} % slower\n")


if __name__ == "__main__":
    main()
