"""Shards: rows of one block of images under one condition, their sums by channel, written whole and checked by a receipt."""

from __future__ import annotations

import importlib
import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import serialization
from engine.audit import connections
from engine.audit.connections import Sampled
from engine.audit.manifest import Condition, Manifest, Place
from engine.errors import BadInput, StoreError
from engine.hashing import Schema
from engine.store import files
from engine.store.files import Corrupt, Envelope

LARGEST: Final = 65504.0
"""Largest float16; a score is one on average, so only a network of that many maps could reach it."""
NO_TARGET: Final = -1
PLAIN: Final[tuple[tuple[str, Any], ...]] = (
    ("sample", pa.string()),
    ("name", pa.string()),
    ("label", pa.int32()),
    ("before", pa.int32()),
    ("before_confidence", pa.float64()),
    ("after", pa.int32()),
    ("after_confidence", pa.float64()),
    ("status", pa.string()),
    ("linf", pa.float64()),
    ("l2", pa.float64()),
    ("in_budget", pa.bool_()),
    ("target", pa.int32()),
    ("image_hash", pa.string()),
    ("is_scored", pa.bool_()),
    ("score_total", pa.float64()),
    ("flow_total", pa.float64()),
)
"""The columns before those of the feature maps."""


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """One entry per image in every field, sorted by class."""

    samples: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    """(images,) int32 class indices."""
    before: np.ndarray
    """(images,) int32: what the model says of the image."""
    before_confidence: np.ndarray
    after: np.ndarray
    """(images,) int32: what it says of the stored 8-bit image."""
    after_confidence: np.ndarray
    status: tuple[str, ...]
    """`engine.types.core.Status`; without attack `clean_wrong` or `unperturbed`."""
    linf: np.ndarray
    """(images,) float64: largest change of a pixel, in [0, 1] units."""
    l2: np.ndarray
    in_budget: np.ndarray
    """(images,) bool."""
    targets: np.ndarray
    """(images,) int32: the class a targeted attack aimed at, `NO_TARGET` where there was none."""
    image_hashes: tuple[str, ...]
    """Of the stored image, (height, width, channels) uint8 as the model takes it."""
    is_scored: np.ndarray
    """(images,) bool: whether its feature maps were scored; elsewhere they are zero."""
    score_total: np.ndarray
    """(images,) float64: what |score| sums to over all maps before scaling."""
    flow_total: np.ndarray
    scores: tuple[np.ndarray, ...]
    """Per site (images, channels) float16, signed: 1 is what a map has on average over the network. Empty if unscored."""
    flow: tuple[np.ndarray, ...]
    """Attack conductance, scaled alike. Empty where nothing is attacked."""


def scaled(per_site: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return per site (images, channels) float16 scaled to a mean |value| of one per image, and (images,) the totals."""
    maps = sum(site.shape[1] for site in per_site)
    total = sum((np.abs(site.astype(np.float64)).sum(axis=1) for site in per_site), np.zeros(len(per_site[0])))
    factor = np.divide(maps, total, out=np.zeros_like(total), where=total > 0)[:, None]
    return tuple(np.clip(site * factor, -LARGEST, LARGEST).astype(np.float16) for site in per_site), total


def write_rows(path: Path, rows: Rows, sites: Sequence[str], about: dict[str, str]) -> None:
    """Write rows as Parquet: plain columns, then `score_003` and `flow_003` per site, named in the file's metadata."""
    arrays = [pa.array(column, type=kind) for column, (_, kind) in zip(_columns(rows), PLAIN, strict=True)]
    fields = [pa.field(name, kind, nullable=False) for name, kind in PLAIN]
    for kind, values in (("score", rows.scores), ("flow", rows.flow)):
        for index, site in enumerate(values):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(site)), site.shape[1]))
            known = {"site": sites[index], "meaning": f"{kind} of each feature map, 1 is the mean over the network"}
            fields.append(pa.field(f"{kind}_{index:03d}", arrays[-1].type, nullable=False, metadata=known))
    schema = pa.schema(fields, metadata={**about, "sites": json.dumps(list(sites))})
    table = pa.Table.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, fields, strict=True)], schema=schema
    )
    # No byte-stream-split: DuckDB and Polars fail on float16 in it. No dictionaries: they double what a reader holds.
    pq.write_table(table, path, compression="zstd", use_dictionary=False, use_byte_stream_split=False)


def read(path: Path) -> Rows:
    """Return the rows of one file. Raises StoreError."""
    return _rows(_table(path, None))


def read_plain(path: Path) -> pa.Table:
    """Return the rows of one file without the maps, as a table: a tenth of what `Rows` takes. Raises StoreError."""
    return _table(path, [name for name, _ in PLAIN])


def from_plain(tables: Sequence[pa.Table]) -> Rows:
    """Return the rows of several plain tables behind one another."""
    return _rows(pa.concat_tables(tables))


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several blocks behind one another, with maps where every block has them."""
    rows = _rows(pa.concat_tables([plain_table(part) for part in parts]))
    scores = tuple(np.concatenate(site) for site in zip(*(part.scores for part in parts), strict=True))
    flow = tuple(np.concatenate(site) for site in zip(*(part.flow for part in parts), strict=True))
    return replace(rows, scores=scores, flow=flow)


def plain_table(rows: Rows) -> pa.Table:
    """Return rows without maps as a table."""
    arrays = [pa.array(column, type=kind) for column, (_, kind) in zip(_columns(rows), PLAIN, strict=True)]
    return pa.Table.from_arrays(arrays, names=[name for name, _ in PLAIN])


def picked(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Return some rows, by index."""
    index = np.asarray(chosen, dtype=np.int64)
    result = _rows(plain_table(rows).take(index))
    scores, flow = (tuple(site[index] for site in values) for values in (rows.scores, rows.flow))
    return replace(result, scores=scores, flow=flow)


def judged(rows: Rows) -> np.ndarray:
    """Return (images,) bool: the attack did not break down, and a pre-made image keeps its budget."""
    return rows.in_budget & np.array([status != "failed" for status in rows.status], dtype=bool)


def right(rows: Rows) -> np.ndarray:
    """Return (images,) bool: right without attack and still right, here and under every attack that this one came after.

    A wrong image that noise puts right by chance is no success.
    """
    is_unbroken = np.array([status != "broken_before" for status in rows.status], dtype=bool)
    return (rows.before == rows.labels) & (rows.after == rows.labels) & is_unbroken


def _table(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path.name} cannot be read as Parquet.") from error


def _columns(rows: Rows) -> list[Any]:
    return [
        rows.samples, rows.names, rows.labels, rows.before, rows.before_confidence, rows.after, rows.after_confidence,
        rows.status, rows.linf, rows.l2, rows.in_budget, rows.targets, rows.image_hashes, rows.is_scored,
        rows.score_total, rows.flow_total,
    ]  # fmt: skip


def _rows(table: pa.Table) -> Rows:
    rows: list[Any] = [_plain(table[name]) for name, _ in PLAIN]
    return Rows(*rows, *(_maps(table, prefix) for prefix in ("score_", "flow_")))


def _plain(column: pa.ChunkedArray) -> Any:
    if column.type == pa.string():
        return tuple(column.to_pylist())
    return column.to_numpy()


def _maps(table: pa.Table, prefix: str) -> tuple[np.ndarray, ...]:
    maps = []
    for name in table.column_names:
        if name.startswith(prefix) and name != f"{prefix}total":
            column = table[name].combine_chunks()
            maps.append(column.flatten().to_numpy().reshape(len(column), -1))
    return tuple(maps)


def load_libraries() -> None:
    """Load what pyarrow loads by itself with the first table: pandas, 0.4 s and 32 MB.

    Called before there is something to interrupt and before other threads draw: pyarrow swallows whatever happens in that
    moment, a polite request to end among it, and plotly would find a half-imported module in another thread.
    """
    importlib.import_module("pandas")


Group = Literal["fooled", "kept"]
GROUPS: Final[tuple[Group, ...]] = ("fooled", "kept")
"""Images that were fooled, and images that kept their right answer (without attack: all right ones); never mixed."""
Measure = Literal["score", "flow"]
MEASURES: Final[tuple[Measure, ...]] = ("score", "flow")


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """What one block adds: entries for the (group, class) cells that it has images of, in order."""

    cells: np.ndarray
    """(cells, 2) int32: group, class."""
    n: np.ndarray
    """(cells,) float64."""
    sums: np.ndarray
    """(cells, measures, maps) float64: of |score| and of the signed flow."""
    squares: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class MapStatistics:
    """Mean and variance of every map over the chosen images."""

    n: int
    mean: np.ndarray
    """(maps,) float64, sites behind one another: |score|, where 1 is a map of average importance, or the signed flow."""
    variance: np.ndarray
    """(maps,) float64, of the sample (n - 1). Zero for fewer than two images."""


def cube_part(rows: Rows) -> Part:
    """Return what a block adds, computed from the values as stored so that anybody can compute it again."""
    group = _groups(rows)
    result = sorted({(int(g), int(c)) for g, c in zip(group, rows.labels, strict=True) if g >= 0})
    maps = sum(site.shape[1] for site in rows.scores)
    shape = (len(result), len(MEASURES), maps)
    sums, squares, n = np.zeros(shape), np.zeros(shape), np.zeros(len(result))
    values = [np.abs(_joined(rows.scores, len(rows.samples), maps)), _joined(rows.flow, len(rows.samples), maps)]
    for place, (one, label) in enumerate(result):
        chosen = (group == one) & (rows.labels == label)
        n[place] = chosen.sum()
        for measure, value in enumerate(values):
            sums[place, measure] = value[chosen].sum(axis=0)
            squares[place, measure] = (value[chosen] ** 2).sum(axis=0)
    return Part(np.array(result, dtype=np.int32).reshape(-1, 2), n, sums, squares)


def merge(folder: Path, name: str, shape: tuple[int, int, int], parts: Iterable[tuple[int, Part]]) -> None:
    """Write the cube of (condition, part) pairs, added in the order given.

    shape: conditions, classes, maps. One more class holds the sum over all. Files: `cube-NAME-n.npy` (conditions,
    groups, classes + 1), and the same with `sums` and `squares` (conditions, groups, measures, classes + 1, maps), float64.
    """
    conditions, classes, maps = shape
    full = (conditions, len(GROUPS), len(MEASURES), classes + 1, maps)
    n = np.zeros((conditions, len(GROUPS), classes + 1))
    sums, squares = (
        np.lib.format.open_memmap(_file(folder, name, what), "w+", np.float64, full) for what in ("sums", "squares")
    )
    for condition, one in parts:
        for place, (group, label) in enumerate(one.cells):
            for target in (label, classes):
                n[condition, group, target] += one.n[place]
                sums[condition, group, :, target] += one.sums[place]
                squares[condition, group, :, target] += one.squares[place]
    sums.flush()
    squares.flush()
    np.save(_file(folder, name, "n"), n, allow_pickle=False)


@final
class Cube:
    """A merged cube, memory-mapped: only what a question touches is read."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open a cube of a folder; raises StoreError."""
        self._n = _opened(_file(folder, name, "n"), dimensions=3)
        self._sums = _opened(_file(folder, name, "sums"), dimensions=5)
        self._squares = _opened(_file(folder, name, "squares"), dimensions=5)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._n.shape[2] - 1

    def statistics(
        self, condition: int, group: Group, measure: Measure = "score", labels: Sequence[int] | None = None
    ) -> MapStatistics:
        """Return mean and variance of every map over the images of some classes, all of them by default."""
        return self.pooled((condition,), group, measure, labels)

    def pooled(
        self, conditions: Sequence[int], group: Group, measure: Measure = "score", labels: Sequence[int] | None = None
    ) -> MapStatistics:
        """Return the same over several conditions; an image counts once for each of them that it met."""
        chosen = [self.classes] if labels is None else list(labels)
        self._require(conditions, chosen)
        cells = [(condition, GROUPS.index(group), MEASURES.index(measure)) for condition in conditions]
        nothing = np.zeros(self._sums.shape[-1])
        n = float(sum(self._n[(*cell[:2], chosen)].sum() for cell in cells))
        total = sum((self._sums[cell][chosen].sum(axis=0) for cell in cells), nothing)
        squares = sum((self._squares[cell][chosen].sum(axis=0) for cell in cells), nothing)
        mean = total / max(n, 1.0)
        variance = np.maximum(squares - n * mean**2, 0.0) / max(n - 1.0, 1.0)
        return MapStatistics(int(n), mean, variance if n > 1 else np.zeros_like(mean))

    def counts(self, conditions: Sequence[int], group: Group) -> np.ndarray:
        """Return (classes,) int64: images of each class over several conditions, once for each that they met."""
        self._require(conditions, ())
        chosen = self._n[list(conditions), GROUPS.index(group), : self.classes]
        return chosen.sum(axis=0).astype(np.int64)

    def sums(self, conditions: Sequence[int], group: Group, measure: Measure, labels: Sequence[int]) -> np.ndarray:
        """Return (labels, maps) float64: what every map sums to over the images of each class and several conditions."""
        self._require(conditions, labels)
        nothing = np.zeros((len(labels), self._sums.shape[-1]))
        cells = [(condition, GROUPS.index(group), MEASURES.index(measure)) for condition in conditions]
        return sum((self._sums[cell][list(labels)] for cell in cells), nothing)

    def _require(self, conditions: Sequence[int], labels: Sequence[int]) -> None:
        wrong = [condition for condition in conditions if not 0 <= condition < len(self._n)]
        if wrong:
            raise BadInput(f"This cube has conditions 0 to {len(self._n) - 1}, got {wrong[0]}.")
        if not all(0 <= label <= self.classes for label in labels):
            raise BadInput(f"A class index must lie in 0 to {self.classes - 1}, got {list(labels)[:8]}.")


def _opened(path: Path, *, dimensions: int) -> np.ndarray:
    """Return an array of a cube, mapped into memory; raises StoreError, naming the file."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path.name} of the run's result is missing; python -m engine rebuild makes it anew."
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"{path.name} of the run's result is damaged; python -m engine rebuild makes it anew."
        ) from error
    if array.ndim != dimensions:
        raise StoreError(f"{path.name} of the run's result is damaged; python -m engine rebuild makes it anew.")
    return array


def _file(folder: Path, name: str, what: str) -> Path:
    return folder / f"cube-{name}-{what}.npy"


def _groups(rows: Rows) -> np.ndarray:
    """(images,) int: index into `GROUPS`, -1 for images that count nowhere."""
    full = np.full(len(rows.samples), -1)
    for place, status in enumerate(rows.status):
        if rows.is_scored[place]:
            full[place] = group_of(status)
    return full


def group_of(status: str) -> int:
    """Return the index into `GROUPS` of a scored image."""
    return GROUPS.index("fooled" if status == "fooled" else "kept")


def _joined(per_site: Sequence[np.ndarray], images: int, maps: int) -> np.ndarray:
    """(images, maps) float64; zeros where nothing was measured."""
    if not per_site:
        return np.zeros((images, maps))
    return np.concatenate(per_site, axis=1).astype(np.float64)


ROWS: Final = "rows.parquet"
PART: Final = "_cube.npz"
IMAGES: Final = "_images.npy"
RECEIPT: Final = "_receipt.json"
"""Names with an underscore are skipped by readers of whole Parquet folders."""
log = logging.getLogger(__name__)


class NoShard(Exception):
    """The shard is not there, or is damaged."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was written; the hashes of the files stand beside it."""

    SCHEMA: ClassVar[Schema] = Schema("shard-receipt/1", "Receipt")

    run: str
    condition: str
    block: int
    images: int
    seconds: float
    """What the worker took; the only thing here that another worker would write differently."""
    device: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A receipt with the hash of the shard's rows."""

    receipt: Receipt
    rows_hash: str


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What a worker computed for a shard."""

    rows: Rows
    images: np.ndarray | None
    """(images, height, width, channels) uint8, or None where images are not kept."""
    connections: Sampled | None = None
    """Of the block's sampled images; None where it has none, or none that is scored."""


def write(place: Place, manifest: Manifest, condition: Condition, receipt: Receipt, result: Found) -> None:
    """Store a shard; one that is there already stays. Raises StoreError when the disk refuses."""
    sites = [name for name, _ in manifest.model(condition.role).sites] if manifest.scores(condition) else []
    about = {"run": place.run, "condition": condition.name, "role": condition.role, "block": str(receipt.block)}
    with (
        files.disk_errors("writing a shard"),
        files.new_folder(place.shard(condition.folder, receipt.block)) as new,
    ):
        write_rows(new / ROWS, result.rows, sites, about)
        if manifest.scores(condition):
            files.write(new / PART, _arrays(cube_part(result.rows)))
        if result.images is not None:
            np.save(new / IMAGES, result.images, allow_pickle=False)
        if result.connections is not None:
            connections.write_part(new / connections.PART, result.connections)
        hashes = {file.name: files.file_hash(file) for file in sorted(new.iterdir())}
        sealed = Envelope(Receipt.SCHEMA, serialization.flatten(receipt).value, files=hashes)
        (new / RECEIPT).write_bytes(files.pack(sealed))


def require_whole(place: Place, condition: str, block: int) -> Checked:
    """Return the receipt of a shard whose every file is as it was written; raises NoShard, saying what is not."""
    folder = place.shard(condition, block)
    try:
        sealed = _sealed(folder)
        for file, expected in sealed.files.items():
            if files.file_hash(folder / file) != expected:
                raise NoShard(f"{file} differs from what was written")
        return _checked(sealed, (place.run, condition, block))
    except FileNotFoundError as error:
        raise NoShard(f"{Path(str(error.filename)).name} is missing") from error
    except Corrupt as error:
        raise NoShard(f"{RECEIPT} {error}") from error


def check(place: Place, condition: str, block: int) -> Checked:
    """Return the same, and take a damaged shard away, so that it is made again instead of trusted. Raises NoShard."""
    try:
        return require_whole(place, condition, block)
    except NoShard as error:
        if place.shard(condition, block).exists():
            log.warning("Discarding shard %s, block %d: %s.", condition, block, error)
            with files.disk_errors("discarding a damaged shard"):
                files.discard(place.shard(condition, block))
        raise


def glance(place: Place, condition: str, block: int) -> Checked:
    """Return the receipt of a shard without reading its other files; raises NoShard."""
    try:
        return _checked(_sealed(place.shard(condition, block)), (place.run, condition, block))
    except (FileNotFoundError, NotADirectoryError, Corrupt) as error:
        raise NoShard from error


def part(place: Place, condition: str, block: int) -> Part:
    """Return what a shard adds to the cube, checked against its hash; raises StoreError."""
    with files.disk_errors("reading a shard"):
        content = (place.shard(condition, block) / PART).read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Part(arrays["cells"], arrays["n"], arrays["sums"], arrays["squares"])


def statuses(place: Place, condition: str, block: int) -> dict[str, str]:
    """Return how each sample of a shard fared, from rows that are as they were written; raises NoShard."""
    file = place.shard(condition, block) / ROWS
    if not file.is_file() or files.file_hash(file) != glance(place, condition, block).rows_hash:
        raise NoShard
    table = read_plain(file)
    return dict(zip(table["sample"].to_pylist(), table["status"].to_pylist(), strict=True))


def images(place: Place, condition: str, block: int) -> np.ndarray:
    """Return the kept images of a shard, (images, height, width, channels) uint8, memory-mapped; raises StoreError."""
    with files.disk_errors("reading the images of a shard"):
        return np.load(place.shard(condition, block) / IMAGES, mmap_mode="r", allow_pickle=False)


def _arrays(one: Part) -> dict[str, np.ndarray]:
    return {"cells": one.cells, "n": one.n, "sums": one.sums, "squares": one.squares}


def _sealed(folder: Path) -> Envelope:
    return files.unpack((folder / RECEIPT).read_bytes(), Receipt.SCHEMA)


def _checked(sealed: Envelope, expected: tuple[str, str, int]) -> Checked:
    receipt = serialization.rebuild(Receipt, sealed.value)
    if (receipt.run, receipt.condition, receipt.block) != expected:
        raise Corrupt("belongs to another block or run")
    return Checked(receipt, sealed.files[ROWS])


def broken(place: Place, condition: Condition, blocks: Sequence[int]) -> frozenset[str]:
    """Return the samples of some blocks that an attack before this condition has fooled; none where it runs on all.

    Raises StoreError where one of those shards is not there or is damaged: the same audit, taken up again, makes it anew.
    """
    texts: set[str] = set()
    for folder in condition.after:
        for block in blocks:
            try:
                fared = statuses(place, folder, block)
            except NoShard as error:
                raise StoreError(f"Block {block} of {folder} is missing or damaged; run the audit again.") from error
            texts |= {sample for sample, status in fared.items() if status == "fooled"}
    return frozenset(texts)
