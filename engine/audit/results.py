"""What a run leaves when nothing is undone: all rows in one table, the cubes, the summary, and a seal over them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import hashing, serialization
from engine.audit import connections, shards, summary
from engine.audit.connections import RunConnections
from engine.audit.manifest import Condition, Manifest, Place, Role
from engine.audit.shards import Cube, NoShard, Part, Rows
from engine.audit.summary import Summary
from engine.errors import StoreError
from engine.hashing import Schema
from engine.store import files
from engine.store.files import Corrupt, Envelope

SEAL: Final = "seal.json"
TABLE: Final = "rows.parquet"
SUMMARY: Final = "summary.json"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a finished run is made of; the hashes of the files stand beside it."""

    SCHEMA: ClassVar[Schema] = Schema("run-seal/1", "Seal")

    run: str
    shards: int
    shards_hash: str
    """Of the hashes of all shards' rows, condition by condition and block by block."""
    seconds: float
    """What the workers took together."""


def is_finished(place: Place) -> bool:
    """Tell whether the run has its result."""
    return (place.result / SEAL).is_file()


def seal(place: Place, manifest: Manifest) -> None:
    """Write the result of a run whose every shard is there; one that is there already stays. Raises StoreError."""
    receipts = [_receipt(place, condition, block) for condition, block in _every(manifest)]
    with files.disk_errors("writing a result"), files.new_folder(place.result) as new:
        _write(new, place, manifest, from_rows=False)
        result = Seal(
            place.run,
            len(receipts),
            hashing.content_key(tuple(item.rows_hash for item in receipts)),
            sum(item.receipt.seconds for item in receipts),
        )
        hashes = {file.name: files.file_hash(file) for file in sorted(new.iterdir())}
        (new / SEAL).write_bytes(files.pack(Envelope(Seal.SCHEMA, serialization.flatten(result).value, files=hashes)))


def read_seal(place: Place) -> tuple[Seal, dict[str, str]]:
    """Return the seal of a finished run and the hashes of its files. Raises StoreError where it was changed."""
    try:
        with files.disk_errors("reading a result"):
            sealed = files.unpack((place.result / SEAL).read_bytes(), Seal.SCHEMA)
    except Corrupt as error:
        raise StoreError(f"The seal of run {place.run[:12]} was changed after it was written.") from error
    return serialization.rebuild(Seal, sealed.value), sealed.files


def seal_hash(place: Place) -> str:
    """Return the hash of a finished run's seal."""
    with files.disk_errors("reading a result"):
        return files.file_hash(place.result / SEAL)


def read_summary(place: Place, manifest: Manifest) -> Summary:
    """Return the summary of a finished run, checked against its seal. Raises StoreError.

    One that older rules made is not believed: it is made anew from the run's rows.
    """
    _, hashes = read_seal(place)
    result = serialization.rebuild(Summary, json.loads(_sealed(place, SUMMARY, "summary", hashes)))
    return result if result.rules == summary.RULES else _made_anew(place, manifest, hashes)


def _made_anew(place: Place, manifest: Manifest, hashes: dict[str, str]) -> Summary:
    table = pq.read_table(pa.BufferReader(_sealed(place, TABLE, "table of rows", hashes)))
    results = {}
    for condition in manifest.conditions:
        own = pc.and_(pc.equal(table["role"], condition.role), pc.equal(table["condition"], condition.name))
        results[condition.folder] = shards.from_plain([table.filter(own).select([name for name, _ in shards.PLAIN])])
    return summary.summarise(manifest, results, is_interim=False)


def _sealed(place: Place, name: str, what: str, hashes: dict[str, str]) -> bytes:
    """Return a file of the result. Raises StoreError where it is not the one that was sealed."""
    with files.disk_errors("reading a result"):
        content = (place.result / name).read_bytes()
    if hashing.bytes_hash(content) != hashes.get(name):
        raise StoreError(f"The {what} of run {place.run[:12]} was changed after it was written.")
    return content


def read_table(place: Place, columns: Sequence[str]) -> pa.Table:
    """Return columns of the rows of a finished run, all conditions behind one another; raises StoreError."""
    try:
        return pq.read_table(place.result / TABLE, columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise damage(place, TABLE) from error


def damage(place: Place, name: str) -> StoreError:
    """Return the error that names a file of the result which is missing or not as it was sealed, and what to do."""
    is_missing = not (place.result / name).is_file()
    return StoreError(
        f"{name} of the run's result is {'missing' if is_missing else 'damaged'}; rebuild it from the run's shards, on the run's "
        f"page or with python -m engine rebuild {place.run[:12]}."
    )


def is_as_sealed(place: Place, name: str) -> bool:
    """Tell whether a file of the result is the one that was sealed; it is read for it once. Raises StoreError."""
    path = place.result / name
    if not path.is_file():
        return False
    with files.disk_errors("reading a result"):
        status = path.stat()
        return _is_as_sealed(place, name, status.st_mtime_ns, status.st_size)


def require_sealed(place: Place, names: Iterable[str]) -> None:
    """Raise StoreError, naming the file, where one of the result is missing or not the one that was sealed."""
    for name in names:
        if not is_as_sealed(place, name):
            raise damage(place, name)


@functools.lru_cache(maxsize=256)
def _is_as_sealed(place: Place, name: str, changed: int, size: int) -> bool:
    del changed, size
    _, hashes = read_seal(place)
    return files.file_hash(place.result / name) == hashes.get(name)


def make(folder: Path, place: Place, manifest: Manifest) -> None:
    """Write table, cubes and summary of a run whose every shard is there into a folder; raises StoreError."""
    _plain.cache_clear()
    _write(folder, place, manifest, from_rows=False)


def interim(place: Place, manifest: Manifest) -> Summary:
    """Return what the finished shards add up to so far."""
    return summary.summarise(manifest, gathered(place, manifest), is_interim=True)


def open_cube(place: Place, role: Role) -> Cube:
    """Return the cube of one model of a finished run; raises StoreError."""
    return Cube(place.result, role)


def write_interim_cube(folder: Path, place: Place, manifest: Manifest, role: Role) -> None:
    """Write into a folder the cube of what is there of a run that goes on; raises StoreError."""
    parts = (
        (index, shards.part(place, condition.folder, block))
        for index, condition in enumerate(manifest.of(role))
        for block in range(manifest.blocks)
        if manifest.scores(condition) and _is_there(place, condition, block)
    )
    shards.merge(folder, role, cube_shape(manifest, role), parts)


def _is_there(place: Place, condition: Condition, block: int) -> bool:
    try:
        shards.glance(place, condition.folder, block)
    except NoShard:
        return False
    return True


def open_connections(place: Place, role: Role) -> RunConnections:
    """Return the connections of one model of a finished run; raises StoreError."""
    return RunConnections(place.result, role)


def gathered(place: Place, manifest: Manifest) -> dict[str, Rows]:
    """Return the rows, without maps, of every condition that has a shard, block by block."""
    return {folder: shards.from_plain(parts) for folder, parts in plain_tables(place, manifest).items()}


def plain_tables(place: Place, manifest: Manifest) -> dict[str, list[pa.Table]]:
    """Return the same rows as tables, one for each block that is there, by the folder of the condition; raises StoreError."""
    results: dict[str, list[pa.Table]] = {}
    for condition, block in _every(manifest):
        try:
            receipt = shards.glance(place, condition.folder, block)
        except NoShard:
            continue
        part = _plain(place.shard(condition.folder, block) / shards.ROWS, receipt.rows_hash)
        results.setdefault(condition.folder, []).append(part)
    return results


@functools.lru_cache(maxsize=4096)
def _plain(path: Path, rows_hash: str) -> pa.Table:
    """A shard never changes: interim results are asked for again and again, each time of a few more shards."""
    del rows_hash
    return shards.read_plain(path)


def contradictions(place: Place, manifest: Manifest) -> list[str]:
    """Return what a finished run's result says otherwise than its shards do, one sentence each; made anew and compared.

    A summary that older rules made is never read (`read_summary`), so it is not compared either.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        _plain.cache_clear()
        _write(path, place, manifest, from_rows=True)
        return [
            f"{file.name} is not what the shards add up to"
            for file in sorted(path.iterdir())
            if files.file_hash(file) != files.file_hash(place.result / file.name)
            and not (file.name == SUMMARY and _is_outdated(place))
        ]


def _is_outdated(place: Place) -> bool:
    return bool(json.loads((place.result / SUMMARY).read_bytes()).get("rules", 1) != summary.RULES)


def _write(folder: Path, place: Place, manifest: Manifest, *, from_rows: bool) -> None:
    """Write table, cubes and summary; the cubes from the shards' parts, or from their rows all over again."""
    result = gathered(place, manifest)
    _write_table(folder / TABLE, manifest, result)
    for model in manifest.models if manifest.is_scored else ():
        parts = _parts(place, manifest, model.role, from_rows=from_rows)
        shards.merge(folder, model.role, cube_shape(manifest, model.role), parts)
        widths = tuple(channels for _, channels in model.sites)
        connections.merge(folder, model.role, widths, _connected(place, manifest, model.role), len(manifest.classes))
    complete = summary.summarise(manifest, result, is_interim=False)
    (folder / SUMMARY).write_text(json.dumps(serialization.flatten(complete).value, indent=1), encoding="utf-8")


def _every(manifest: Manifest) -> Iterator[tuple[Condition, int]]:
    for condition in manifest.conditions:
        for block in range(manifest.blocks):
            yield condition, block


def _receipt(place: Place, condition: Condition, block: int) -> shards.Checked:
    try:
        return shards.glance(place, condition.folder, block)
    except NoShard as error:
        raise StoreError(f"Block {block} of {condition.folder} is missing; run the audit again.") from error


def cube_shape(manifest: Manifest, role: Role) -> tuple[int, int, int]:
    """Return how many conditions, classes and feature maps the cube of a model has."""
    return len(manifest.of(role)), len(manifest.classes), manifest.model(role).maps


def _parts(place: Place, manifest: Manifest, role: Role, *, from_rows: bool) -> Iterator[tuple[int, Part]]:
    """Yield what each shard adds, always in the same order: the last bits of a sum depend on it."""
    scored = [(index, one) for index, one in enumerate(manifest.of(role)) if manifest.scores(one)]
    for index, condition in scored:
        for block in range(manifest.blocks):
            if from_rows:
                yield index, shards.cube_part(shards.read(place.shard(condition.folder, block) / shards.ROWS))
            else:
                yield index, shards.part(place, condition.folder, block)


def _connected(place: Place, manifest: Manifest, role: Role) -> list[tuple[int, Path]]:
    """Return the files of connections of a model: blocks without a sampled image that is scored have none."""
    paths = [
        (index, place.shard(condition.folder, block) / connections.PART)
        for index, condition in enumerate(manifest.of(role))
        if manifest.connects(condition)
        for block in range(manifest.blocks)
    ]
    return [(index, path) for index, path in paths if path.is_file()]


def _write_table(path: Path, manifest: Manifest, values: dict[str, Rows]) -> None:
    tables = []
    for condition in manifest.conditions:
        table = shards.plain_table(values[condition.folder])
        for name in ("kind", "condition", "role"):
            value = {"kind": condition.kind, "condition": condition.name, "role": condition.role}[name]
            table = table.add_column(0, name, pa.array([value] * len(table), type=pa.string()))
        tables.append(table)
    pq.write_table(pa.concat_tables(tables), path, compression="zstd", use_dictionary=False)
