"""One shard of an audit run, from its request to its files; one that is there whole is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.audit import manifest as manifests
from engine.audit import places, shards, survivors
from engine.audit.manifest import Condition, Manifest
from engine.audit.places import Place
from engine.audit.shards import NoShard, Receipt
from engine.blocks import walk as blocks
from engine.errors import UnknownName
from engine.models.bundle import ModelBundle
from engine.store import Store

Report = Callable[[int, int, str], None]


class Cancelled(Exception):
    """The run was told to stop."""


def make(store: Store, load: Callable[[str], ModelBundle], request: tuple[str, str, int], report: Report) -> None:
    """Make the shard (run, condition folder, block) unless it is there; leave nothing where the run was cancelled.

    load: returns the bundle of a stored model. Raises BadInput, StoreError.
    """
    run, folder, block = request
    place = places.place(store.root, run)
    manifest = manifests.read(place)
    condition = _condition(manifest, folder, block)
    try:
        shards.check(place, folder, block)
    except NoShard:
        try:
            _made(store, load, (place, manifest, condition, block), report)
        except Cancelled:
            return


def _made(
    store: Store,
    load: Callable[[str], ModelBundle],
    task: tuple[Place, Manifest, Condition, int],
    report: Report,
) -> None:
    place, manifest, condition, block = task
    rows = manifest.rows(block)

    def check(done: int) -> None:
        if place.cancel.exists():
            raise Cancelled
        report(done, rows.stop - rows.start, f"{condition.name}, block {block + 1} of {manifest.blocks}")

    check(0)
    bundle = load(manifest.model(condition.role).name)
    blocks.require_fit(manifest, condition, bundle)
    started = time.perf_counter()
    broken = survivors.broken(place, condition, [block])
    subject = blocks.Subject(bundle, store.dataset(manifest.images.data), manifest, condition, broken)
    found = blocks.compute(subject, store, range(rows.start, rows.stop), check)
    seconds = time.perf_counter() - started
    receipt = Receipt(place.run, condition.folder, block, len(found.rows.samples), seconds, str(bundle.device))
    shards.write(place, manifest, condition, receipt, found)


def _condition(manifest: Manifest, folder: str, block: int) -> Condition:
    for one in manifest.conditions:
        if one.folder == folder and 0 <= block < manifest.blocks:
            return one
    raise UnknownName("shard", f"{folder}, block {block}", [one.folder for one in manifest.conditions])
