"""The images of a run as rows that are chosen, sorted and handed out block by block, finished or not; and their pictures.

One row is one image under one condition: answers, confidence, status and norms are of both together. The rows of one run are
kept at hand; which of them a question chooses, and in which order, is kept too, so that scrolling only takes rows out.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import class_names
from engine.audit import manifest as manifests
from engine.audit import results, shards
from engine.audit.inside import ATTACKING
from engine.audit.manifest import CANDIDATE, Condition, Manifest, Place, Role
from engine.errors import BadInput, StoreError, UnknownName
from engine.store import files
from engine.store.store import image_hash
from engine.types.core import STATUSES, Status

COLUMNS: Final = (
    "role", "model", "condition", "sample", "name", "true_class", "before", "before_confidence", "after",
    "after_confidence", "status", "linf", "l2", "in_budget", "target", "image_hash",
)  # fmt: skip
"""Of a row, named as in `frames.images`."""
SORTABLE: Final = tuple(name for name in COLUMNS if name not in ("role", "model", "image_hash"))
"""Columns that rows can be sorted by: all that differ between the rows of one model."""
LONGEST: Final = 200
"""Characters of a name that is looked for."""
BATCH: Final = 2_000
"""Rows of a file that are made at a time."""
NUMBERS: Final = ("before_confidence", "after_confidence", "linf", "l2")
CLASSES: Final = {"true_class": "label", "before": "before", "after": "after", "target": "target"}
"""Columns that hold a class, and what the run calls them."""
TEXTS: Final = ("sample", "name")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a run are listed, and in which order."""

    role: Role = CANDIDATE
    conditions: tuple[int, ...] = ()
    """Places among the conditions of the model; none is every attack."""
    is_every_condition: bool = False
    """Whether clean images, noise controls and the curve are listed too, whatever `conditions` says."""
    classes: tuple[int, ...] = ()
    """Indices of true classes; none is all of them."""
    statuses: tuple[Status, ...] = ()
    """How an image ended; none is however it did."""
    into: int | None = None
    """The class that the model answers after the attack; None is any."""
    name: str = ""
    """What its key or name holds, whatever the case."""
    order: str = ""
    """A column of `SORTABLE`, with `-` for the largest first; empty, and among equal rows, as the run holds them."""


@dataclass(frozen=True, eq=False, slots=True)
class RunRows:
    """All rows of a run that are there, in columns."""

    condition: np.ndarray
    """(rows,) int16 places among all conditions of the run."""
    status: np.ndarray
    """(rows,) int8 places in `STATUSES`."""
    columns: dict[str, np.ndarray]
    """By the run's names (rows,): `label`, `before`, `after`, `target`, `in_budget` and `NUMBERS`."""
    texts: dict[str, pa.DictionaryArray]
    """`TEXTS`, each text once."""
    hashes: pa.Array


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """The rows that a selection chooses, in its order."""

    manifest: Manifest
    rows: RunRows
    chosen: np.ndarray
    """(chosen,) int32 places among all rows."""
    is_interim: bool
    """Whether rows are still to come."""

    @property
    def count(self) -> int:
        """Rows that were chosen."""
        return len(self.chosen)

    def block(self, first: int, last: int) -> pa.Table:
        """Return rows `first` to before `last` with `COLUMNS`, classes and conditions by name."""
        at = self.chosen[first:last]
        return pa.table({name: _column(self, name, at) for name in COLUMNS})

    def folders(self, first: int, last: int) -> list[str]:
        """Return the folder of the condition of the same rows."""
        conditions = self.manifest.conditions
        return [conditions[place].folder for place in self.rows.condition[self.chosen[first:last]].tolist()]

    def blocks(self) -> Iterator[pa.Table]:
        """Yield all chosen rows, `BATCH` at a time; at least one block, which may be empty."""
        for first in range(0, max(1, self.count), BATCH):
            yield self.block(first, first + BATCH)


def listing(place: Place, selection: Selection) -> Listing:
    """Return the rows that a selection chooses of a run. Raises UnknownName, StoreError, and BadInput for a wrong selection."""
    manifest = manifests.read(place)
    require(manifest, selection)
    is_interim = not results.is_finished(place)
    mark = _interim_mark(place) if is_interim else _mark(place.result / results.TABLE)
    with LOADING:
        rows = _rows(place, is_interim, mark)
    return Listing(manifest, rows, _chosen(place, is_interim, mark, selection), is_interim)


def require(manifest: Manifest, selection: Selection) -> None:
    """Raise BadInput where a selection names what the run does not have, saying what it has."""
    own, classes = len(manifest.of(manifest.model(selection.role).role)), len(manifest.classes)
    for place in selection.conditions:
        if not 0 <= place < own:
            raise BadInput(f"The {selection.role} has conditions 0 to {own - 1}, got {place}.")
    for label in (*selection.classes, *([] if selection.into is None else [selection.into])):
        if not 0 <= label < classes:
            raise BadInput(f"This run has classes 0 to {classes - 1}, got {label}.")
    for status in selection.statuses:
        if status not in STATUSES:
            raise BadInput(f"An image ends as one of {', '.join(STATUSES)}; got '{str(status)[:40]}'.")
    if len(selection.name) > LONGEST:
        raise BadInput(f"A name that is looked for has at most {LONGEST} characters, got {len(selection.name)}.")
    if selection.order and selection.order.removeprefix("-") not in SORTABLE:
        raise BadInput(f"Rows are sorted by one of {', '.join(SORTABLE)}; got '{selection.order[:40]}'.")


LOADING: Final = threading.Lock()
"""Rows of one run are read once, however many blocks are asked for at the same time."""


def _mark(path: Path) -> tuple[int, ...]:
    """What tells one file from another under its name; raises StoreError."""
    with files.disk_errors("reading a result"):
        status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _interim_mark(place: Place) -> tuple[int, ...]:
    """What tells the finished shards of a run from those of another moment."""
    with files.disk_errors("reading a run"):
        found = sorted((str(path), path.stat().st_mtime_ns) for path in place.shards.glob(f"*/*/{shards.RECEIPT}"))
    return len(found), hash(tuple(found))


@functools.lru_cache(maxsize=1)
def _rows(place: Place, is_interim: bool, mark: tuple[int, ...]) -> RunRows:
    del mark
    manifest = manifests.read(place)
    read, conditions = _of_shards(place, manifest) if is_interim else _of_table(place, manifest)
    statuses, names = _texts(read("status")), ("label", "before", "after", "target", "in_budget", *NUMBERS)
    known = pc.index_in(statuses.dictionary, pa.array(STATUSES)).to_numpy(zero_copy_only=False).astype(np.int8)
    rows = RunRows(
        conditions,
        known[statuses.indices.to_numpy()],
        {name: read(name).to_numpy() for name in names},
        {name: _texts(read(name)) for name in TEXTS},
        _whole(read("image_hash")),
    )
    # What reading took on the way is given back: the process that serves the page keeps to its budget.
    pa.default_memory_pool().release_unused()
    return rows


def _whole(column: pa.ChunkedArray) -> Any:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _texts(column: pa.ChunkedArray) -> pa.DictionaryArray:
    is_encoded = pa.types.is_dictionary(column.type)
    return _whole(column.unify_dictionaries() if is_encoded else column.dictionary_encode())


REPEATED: Final = (*TEXTS, "role", "condition", "status")
"""Columns of texts that stand in many rows."""
Read = Callable[[str], pa.ChunkedArray]
"""From the name of a column to it: one after the other, so that the whole table is never held twice."""
KEPT: Final = (*TEXTS, "label", "before", "after", "target", "in_budget", *NUMBERS, "status", "image_hash")


def _of_table(place: Place, manifest: Manifest) -> tuple[Read, np.ndarray]:
    """The rows of a finished run and the places of their conditions; raises StoreError for a table that is not the sealed one."""
    path = place.result / results.TABLE
    _, hashes = results.read_seal(place)
    with files.disk_errors("reading a result"):
        if files.file_hash(path) != hashes.get(path.name):
            raise StoreError(
                f"{path.name} of the run's result was changed after it was written; restore it from a copy of the store."
            )

    def read(name: str) -> pa.ChunkedArray:
        encoded = [name] if name in REPEATED else []
        with files.disk_errors("reading a result"), pq.ParquetFile(path, read_dictionary=encoded) as file:
            return file.read([name], use_threads=False)[name]

    roles, names = (_texts(read(name)) for name in ("role", "condition"))
    planned = {(one.role, one.name): index for index, one in enumerate(manifest.conditions)}
    known = [
        [planned.get((role, name), -1) for name in names.dictionary.to_pylist()]
        for role in roles.dictionary.to_pylist()
    ]
    places = np.array(known, dtype=np.int16)[roles.indices.to_numpy(), names.indices.to_numpy()]
    return read, places


def _of_shards(place: Place, manifest: Manifest) -> tuple[Read, np.ndarray]:
    """The rows of the shards that are there, and the places of their conditions; raises BadInput for none."""
    held = results.plain_tables(place, manifest)
    parts = [
        (index, table.select(KEPT))
        for index, condition in enumerate(manifest.conditions)
        for table in held.get(condition.folder, ())
    ]
    if not parts:
        raise BadInput("No part of this run is finished yet, so there is no image to list.")
    places = np.repeat([index for index, _ in parts], [len(table) for _, table in parts]).astype(np.int16)
    return pa.concat_tables([table for _, table in parts]).column, places


@functools.lru_cache(maxsize=6)
def _chosen(place: Place, is_interim: bool, mark: tuple[int, ...], selection: Selection) -> np.ndarray:
    manifest = manifests.read(place)
    rows = _rows(place, is_interim, mark)
    chosen = np.flatnonzero(_matching(manifest, rows, selection)).astype(np.int32)
    if selection.order:
        keys = _keys(manifest, rows, selection.order.removeprefix("-"))[chosen]
        # Turned round and not read backwards: equal rows stay in the run's order either way.
        chosen = chosen[np.argsort(-keys if selection.order.startswith("-") else keys, kind="stable")]
    chosen.setflags(write=False)
    return chosen


def _matching(manifest: Manifest, rows: RunRows, selection: Selection) -> np.ndarray:
    """Return (rows,) bool."""
    own = [index for index, one in enumerate(manifest.conditions) if one.role == selection.role]
    named = own if selection.is_every_condition else [own[place] for place in selection.conditions]
    attacks = [index for index in own if manifest.conditions[index].kind in ATTACKING]
    result: np.ndarray = np.isin(rows.condition, named or attacks)
    if selection.classes:
        result &= np.isin(rows.columns["label"], selection.classes)
    if selection.statuses:
        result &= np.isin(rows.status, [STATUSES.index(status) for status in selection.statuses])
    if selection.into is not None:
        result &= rows.columns["after"] == selection.into
    if selection.name:
        result &= _holding(rows.texts["sample"], selection.name) | _holding(rows.texts["name"], selection.name)
    return result


def _holding(texts: pa.DictionaryArray, part: str) -> np.ndarray:
    found = pc.match_substring(texts.dictionary, part, ignore_case=True).to_numpy(zero_copy_only=False)
    result: np.ndarray = found[texts.indices.to_numpy()]
    return result


def _keys(manifest: Manifest, rows: RunRows, column: str) -> np.ndarray:
    """Return (rows,) numbers whose order is that of a column."""
    if column in TEXTS:
        texts = rows.texts[column]
        return _ranks(texts.dictionary)[texts.indices.to_numpy()]
    if column in CLASSES:
        ranks = _ranks(pa.array(class_names.handles(manifest.classes)))
        # What has no class, a target that there is not, comes after all classes.
        places = rows.columns[CLASSES[column]]
        return np.where(places < 0, len(ranks), ranks[places])
    if column == "status":
        return _ranks(pa.array(STATUSES))[rows.status]
    if column == "condition":
        return rows.condition
    return rows.columns[column].astype(np.float64)


def _ranks(texts: pa.Array) -> np.ndarray:
    result = np.empty(len(texts), dtype=np.int32)
    result[pc.sort_indices(texts).to_numpy()] = np.arange(len(texts), dtype=np.int32)
    return result


def _column(listing: Listing, name: str, at: np.ndarray) -> pa.Array:
    rows, manifest = listing.rows, listing.manifest
    if name in TEXTS:
        return rows.texts[name].dictionary.take(rows.texts[name].indices.take(pa.array(at)))
    if name in CLASSES:
        return _named(rows.columns[CLASSES[name]][at], class_names.handles(manifest.classes))
    if name == "status":
        return _named(rows.status[at], STATUSES)
    if name == "image_hash":
        return rows.hashes.take(pa.array(at))
    of_condition: dict[str, Callable[[Condition], str]] = {
        "role": lambda one: one.role,
        "model": lambda one: manifest.model(one.role).name,
        "condition": lambda one: one.name,
    }
    if name in of_condition:
        return _named(rows.condition[at], [of_condition[name](one) for one in manifest.conditions])
    return pa.array(rows.columns[name][at])


def _named(places: np.ndarray, names: Any) -> pa.Array:
    """Return the name at each place; null for a place below 0."""
    indices = pa.array(places.astype(np.int32), mask=places < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(names), type=pa.string())).cast(pa.string())


@dataclass(slots=True)
class _Sink:
    """A file that is handed on as it is written."""

    written: list[bytes] = field(default_factory=list)
    size: int = 0
    closed: bool = False

    def write(self, content: bytes) -> int:
        self.written.append(bytes(content))
        self.size += len(content)
        return len(content)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        return

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        content = b"".join(self.written)
        self.written.clear()
        return content


def parquet(listing: Listing) -> Iterator[bytes]:
    """Yield the whole listing as a Parquet file, as it is made: no more than `BATCH` rows are held."""
    sink, blocks = _Sink(), listing.blocks()
    first = next(blocks)
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        yield sink.taken()
        for block in blocks:
            writer.write_table(block)
            yield sink.taken()
    yield sink.taken()


@functools.lru_cache(maxsize=2)
def image_places(place: Place) -> dict[str, int]:
    """Where each image stands in a run, whose manifest never changes."""
    return {sample: index for index, sample in enumerate(manifests.read(place).images.samples)}


def picture(place: Place, folder: str, sample: str, expected: str) -> np.ndarray:
    """Return what the run stored of an image under a condition, (height, width, channels) uint8.

    folder: of the condition; expected: the hash that the run's row gives. Raises UnknownName for what the run does not hold,
    BadInput where it kept no images, and StoreError where the picture is not the one of that hash.
    """
    manifest, places = manifests.read(place), image_places(place)
    if folder not in {one.folder for one in manifest.conditions}:
        raise UnknownName("condition", folder, [one.folder for one in manifest.conditions])
    if sample not in places:
        raise UnknownName("sample", sample, [])
    if not manifest.plan.images.is_kept:
        raise BadInput("This run kept hashes of its images only (images.keep = false), so there is no picture of them.")
    block, row = divmod(places[sample], manifest.block)
    held = shards.images(place, folder, block)
    if not row < len(held):
        raise StoreError(f"Block {block} of {folder} holds {len(held)} images; image {row} of it is missing.")
    found = np.ascontiguousarray(held[row])
    if image_hash(found) != expected:
        raise StoreError(f"The stored picture of sample {sample} under {folder} is not the one the run judged.")
    return found
