"""How fast a run of 50,000 images x 6 conditions lists its images, and how much memory that takes the process that serves it.

`python -m tests.images_table_speed --out DIR` makes the rows of a made-up run in a store of the demo and asks for them in a fresh
process: blocks of 100 rows, other filters and orders, both files; and, of a cube of 5,000 maps, *Inside the model*.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine import hashing, serialization
from engine.audit import listing, results, shards, summary
from engine.audit import manifest as manifests
from engine.audit.inside import Scope, of_run
from engine.audit.listing import Selection
from engine.audit.manifest import Manifest
from engine.audit.results import Seal
from engine.audit.shards import NO_TARGET, Rows
from engine.store import Store, files
from engine.store.files import Envelope
from tests import synthetic_audit

CONDITIONS, MAPS, BLOCK = 6, 5000, 100
REPEATS = 30


def made(root: Path, images: int) -> str:
    """Make the result of a run of so many images in a new store, and return the run's id."""
    # torch, which the process that answers never loads.
    from engine import demo
    from tests import audits

    store = Store(root)
    demo.install(store)
    plan = audits.PLAN.replace("controls = false", "controls = true")
    small = audits.planned(
        store, plan.replace('"fgsm-linf:eps=24/255"', '"fgsm-linf:eps=24/255", "pgd-linf:eps=24/255"')
    )
    model = small.models[0]
    sites = tuple((name, MAPS // len(model.sites)) for name, _ in model.sites)
    labels = tuple(sorted(k % 10 for k in range(images)))
    keys = tuple(f"{k:05d}" for k in range(images))
    chosen = dataclasses.replace(
        small.images,
        samples=keys,
        names=tuple(f"made-up-{key}" for key in keys),
        labels=labels,
        hashes=("0" * 32,) * images,
    )
    manifest = dataclasses.replace(
        small,
        images=chosen,
        models=(dataclasses.replace(model, sites=sites),),
        conditions=small.conditions[:CONDITIONS],
        block=96,
    )
    content = manifests.text(manifest)
    place = manifests.place(store.root, manifests.run_id(content))
    place.result.mkdir(parents=True)
    place.manifest.write_bytes(content)
    values = {one.folder: rows(manifest, k) for k, one in enumerate(manifest.conditions)}
    results._write_table(place.result / results.TABLE, manifest, values)
    complete = summary.summarise(manifest, values, is_interim=False)
    (place.result / results.SUMMARY).write_text(json.dumps(serialization.flatten(complete).value), encoding="utf-8")
    shape = (len(manifest.conditions), 10, manifest.models[0].maps)
    shards.merge(place.result, "candidate", shape, synthetic_audit.parts(images, shape[0], shape[2], shape[1]))
    sealed = Seal(place.run, manifest.shards, "", 1.0)
    hashes = {file.name: files.file_hash(file) for file in sorted(place.result.iterdir())}
    envelope = Envelope(Seal.SCHEMA, serialization.flatten(sealed).value, files=hashes)
    (place.result / results.SEAL).write_bytes(files.pack(envelope))
    return place.run


def rows(manifest: Manifest, seed: int) -> Rows:
    """Return made-up rows of one condition: nine of ten images are fooled."""
    count, generator = len(manifest.images.samples), np.random.default_rng(seed)
    labels = np.array(manifest.images.labels, dtype=np.int32)
    fooled = generator.random(count) < 0.9
    hashes = tuple(hashing.bytes_hash(f"{seed}/{k}".encode()) for k in range(count))
    return Rows(
        samples=manifest.images.samples, names=manifest.images.names, labels=labels, before=labels,
        before_confidence=generator.random(count),
        after=np.where(fooled, generator.integers(0, 10, count), labels).astype(np.int32),
        after_confidence=generator.random(count), status=tuple(np.where(fooled, "fooled", "resisted").tolist()),
        linf=generator.random(count) / 10, l2=generator.random(count), in_budget=np.ones(count, dtype=bool),
        targets=np.full(count, NO_TARGET, dtype=np.int32), image_hashes=hashes, is_scored=fooled,
        score_total=np.ones(count), flow_total=np.ones(count), scores=(), flow=(),
    )  # fmt: skip


def ask(root: Path, run: str) -> dict[str, float]:
    """Ask as the page does, in the process that would serve it."""
    from dashboard import app  # noqa: F401 - what the server holds besides
    from dashboard.panels.images import model as images

    shards.load_libraries()
    place = manifests.place(root, run)
    before = resident()
    every = Selection(is_every_condition=True)
    generator = np.random.default_rng(0)

    def block(selection: Selection) -> float:
        return timed(lambda: block_of(selection))

    def block_of(selection: Selection) -> None:
        found = listing.listing(place, selection)
        first = int(generator.integers(0, max(1, found.count - BLOCK)))
        json.dumps(images.rows(found, run, first, first + BLOCK))

    cold = block(every)
    warm = [block(every) for _ in range(REPEATS)]
    orders = [f"{sign}{name}" for name in listing.SORTABLE for sign in ("", "-")]
    sorted_so = [block(dataclasses.replace(every, order=order)) for order in orders]
    found = [block(dataclasses.replace(every, name=str(k), into=k % 10, order="name")) for k in range(10, 40)]
    peak_rows = resident()
    whole = listing.listing(place, every)
    csv = timed(lambda: [len(part) for part in images.csv(whole)])
    parquet = timed(lambda: [len(part) for part in listing.parquet(whole)])
    with_files = resident()
    scopes = [Scope(group=group, classes=classes, attacks=attacks) for group in ("fooled", "kept")
              for classes in ((), (3,), (1, 5, 7), tuple(range(10))) for attacks in ((), (1,), (2,))]  # fmt: skip
    inside = [timed(lambda one=scope: of_run(place, one)) for scope in scopes]
    return {
        "rows": whole.count,
        "first_block_ms": cold,
        "block_median_ms": float(np.median(warm)),
        "block_largest_ms": max(warm),
        "new_order_median_ms": float(np.median(sorted_so)),
        "new_order_largest_ms": max(sorted_so),
        "new_filter_largest_ms": max(found),
        "csv_s": csv / 1000,
        "parquet_s": parquet / 1000,
        "inside_median_ms": float(np.median(inside)),
        "inside_first_ms": inside[0],
        "inside_largest_later_ms": max(inside[1:]),
        "before_mb": before,
        "with_rows_mb": peak_rows,
        "with_files_mb": with_files,
        "with_inside_mb": resident(),
        "peak_mb": resident("VmHWM"),
    }


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - started)


def resident(what: str = "VmRSS") -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--ask", default="", metavar="RUN", help="Only ask a run that is there.")
    options = parser.parse_args()
    if not options.ask:
        run = made(options.out, options.images)
        command = [sys.executable, "-m", "tests.images_table_speed", "--out", str(options.out), "--ask", run]
        sys.exit(subprocess.run(command, check=False).returncode)
    found = ask(options.out.resolve(), options.ask)
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in found.items()}) + "\n")


if __name__ == "__main__":
    main()
