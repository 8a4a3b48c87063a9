"""How fast a cube answers and how much memory that takes: `python -m tests.synthetic_audit --out DIR`.

Makes the cube of a made-up run (50,000 images x 6 conditions x 5,000 maps, in blocks of 96) and asks it in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.audit import shards
from engine.audit.shards import Cube, Part

BLOCK = 96
QUESTIONS = 300


def parts(images: int, conditions: int, maps: int, classes: int) -> Iterator[tuple[int, Part]]:
    """Yield what each block adds: one class per block, as images are sorted by class, scores exponential."""
    generator = np.random.default_rng(0)
    for condition in range(conditions):
        for first in range(0, images, BLOCK):
            count = min(BLOCK, images - first)
            values = generator.standard_exponential((count, maps), dtype=np.float32).astype(np.float16)
            values = values.astype(np.float64)
            cells = np.array([[first // BLOCK % 2, first * classes // images]], dtype=np.int32)
            sums, squares = np.zeros((1, 2, maps)), np.zeros((1, 2, maps))
            sums[0, 0], squares[0, 0] = values.sum(axis=0), (values**2).sum(axis=0)
            yield condition, Part(cells, np.array([float(count)]), sums, squares)


def ask(folder: Path) -> dict[str, float]:
    """Ask for random classes, conditions and outcomes, with the ranking a screen needs."""
    opened = Cube(folder, "candidate")
    generator = np.random.default_rng(1)
    seconds, processor = [], []
    for _ in range(QUESTIONS):
        condition, group = int(generator.integers(6)), shards.GROUPS[int(generator.integers(2))]
        count = int(generator.integers(0, opened.classes + 1))
        labels = generator.permutation(opened.classes)[:count].tolist() if count else None
        started, begun = time.perf_counter(), time.process_time()
        found = opened.statistics(condition, group, labels=labels)
        np.argpartition(-found.mean, 20)[:20]
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - begun)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {
        "first_ms": 1000 * seconds[0],
        "median_ms": 1000 * float(np.median(seconds)),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
        "processor_p99_ms": 1000 * float(np.quantile(processor, 0.99)),
        "processor_largest_ms": 1000 * max(processor),
        "peak_memory_mb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--conditions", type=int, default=6)
    parser.add_argument("--maps", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--ask", action="store_true", help="Only ask a cube that is there.")
    options = parser.parse_args()
    if not options.ask:
        options.out.mkdir(parents=True)
        shape = (options.conditions, options.classes, options.maps)
        found = parts(options.images, options.conditions, options.maps, options.classes)
        shards.merge(options.out, "candidate", shape, found)
        command = [sys.executable, "-m", "tests.synthetic_audit", "--out", str(options.out), "--ask"]
        sys.exit(subprocess.run(command, check=False).returncode)
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in ask(options.out).items()}) + "\n")


if __name__ == "__main__":
    main()
