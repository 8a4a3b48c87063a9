"""A damaged result of a finished run made anew from its shards: only what then is, byte for byte, what was sealed is put back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine import hashing
from engine.audit import manifest as manifests
from engine.audit import results, shards
from engine.audit.manifest import Manifest, Place
from engine.audit.runs import AuditLog
from engine.audit.shards import NoShard
from engine.errors import BadInput, StoreError
from engine.store import files

REBUILT: Final = "rebuilt"
"""Event of the log; its detail names the files."""
Report = Callable[[int, int, str], None]


def damaged(place: Place) -> tuple[str, ...]:
    """Return the names of the result's files that are missing or not as they were sealed; none of a run that goes on.

    Raises UnknownName for a run that is not there, and StoreError where the seal itself was changed.
    """
    manifests.read(place)
    if not results.is_finished(place):
        return ()
    _, hashes = results.read_seal(place)
    return tuple(name for name in sorted(hashes) if not results.is_as_sealed(place, name))


def mark(place: Place) -> str:
    """Return a key of how the result's files lie there now: each damage is another piece of work."""
    states = [
        (path.name, path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(place.result.iterdir())
        if path.is_file()
    ]
    return hashing.content_key(repr(states))


def rebuild(root: Path, run: str, report: Report) -> tuple[str, ...]:
    """Put back every damaged file of a run's result, and return their names.

    Raises BadInput for a run that is not finished, and StoreError, leaving everything as it is, where a shard is damaged too or
    the shards do not add up to what was sealed.
    """
    place = manifests.place(root, run)
    manifest = manifests.read(place)
    if not results.is_finished(place):
        raise BadInput(
            "The run is not finished, so it has no result that could be rebuilt; the same audit goes on with it."
        )
    wrong = damaged(place)
    if not wrong:
        return ()
    _require_shards(place, manifest, report)
    _, hashes = results.read_seal(place)
    report(0, 0, "Adding up all shards")
    with (
        files.disk_errors("rebuilding a result"),
        tempfile.TemporaryDirectory(dir=place.folder, prefix=files.PREFIX) as name,
    ):
        made = Path(name)
        results.make(made, place, manifest)
        for one in wrong:
            if not (made / one).is_file() or files.file_hash(made / one) != hashes[one]:
                raise StoreError(
                    f"{one} of the run's result is damaged, and what its shards add up to is not what was sealed; nothing was "
                    "changed. Restore it from a copy of the store."
                )
        for one in wrong:
            (made / one).replace(place.result / one)
    AuditLog(root).append(run, REBUILT, ", ".join(wrong))
    return wrong


def _require_shards(place: Place, manifest: Manifest, report: Report) -> None:
    for done, condition in enumerate(manifest.conditions):
        report(done, len(manifest.conditions), "Checking the shards")
        for block in range(manifest.blocks):
            try:
                shards.require_whole(place, condition.folder, block)
            except NoShard as error:
                raise StoreError(
                    f"Block {block} of {condition.folder} is damaged too ({error or 'it is missing'}), so the result cannot be "
                    "rebuilt; restore the run from a copy of the store."
                ) from error
