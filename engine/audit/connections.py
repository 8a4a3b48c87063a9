"""The connections of a run: of each sampled image in its shard, and summed by condition, outcome and class in the result."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, final

import numpy as np

from engine import serialization
from engine.errors import StoreError
from engine.hashing import Schema
from engine.store import files
from engine.store.files import Corrupt, Envelope
from engine.types.core import Connection, Link, Side, entries_of

PART: Final = "_connections.npz"
"""In a shard, skipped by readers of whole Parquet folders."""
ABOUT: Final = "about"
"""Member of a part that holds everything but its arrays, as JSON in UTF-8 with the name of its schema."""


@dataclass(frozen=True, eq=False, slots=True)
class Sampled:
    """The connections of the sampled images of one block, one entry per image."""

    SCHEMA: ClassVar[Schema] = Schema("run-connections-part/1")

    samples: tuple[str, ...]
    groups: np.ndarray
    """(images,) int32: index into `shards.GROUPS`."""
    labels: np.ndarray
    """(images,) int32: true class."""
    links: tuple[tuple[int, int], ...]
    """Source and target site of each; the last targets are the logits (rows: true class, answer)."""
    matrices: tuple[np.ndarray, ...]
    """Per link (images, target channels, width) float32, mean over references; width: see `sources`."""
    sources: tuple[np.ndarray, ...]
    """Per link (target channels, width) int32: the source map of each entry; without rows where entries stand for all maps."""
    completeness: np.ndarray
    """(images, links) float32: error of the sum of contributions, relative to their mass."""

    @classmethod
    def of(cls, links: Sequence[tuple[int, int]], images: Sequence[SampledImage]) -> Sampled:
        """Return what some images have, at least one, without entries that are zero in all of them."""
        stacks = [np.stack([image.matrices[k] for image in images]).astype(np.float32) for k in range(len(links))]
        known = [entries_of((stack != 0).any(axis=0)) for stack in stacks]
        return cls(
            samples=tuple(image.sample for image in images),
            groups=np.array([image.group for image in images], dtype=np.int32),
            labels=np.array([image.label for image in images], dtype=np.int32),
            links=tuple(links),
            matrices=tuple(_taken(stack, sources) for stack, sources in zip(stacks, known, strict=True)),
            sources=tuple(np.zeros((0, 0), np.int32) if sources is None else sources for sources in known),
            completeness=np.stack([image.completeness for image in images]).astype(np.float32),
        )

    def whole(self, link: int, image: int, channels: int) -> np.ndarray:
        """Return the whole matrix (target channels, source channels) of one image."""
        entries, sources = self.matrices[link][image], self.sources[link]
        if not len(sources):
            return entries
        result = np.zeros((len(entries), channels), entries.dtype)
        np.put_along_axis(result, sources.astype(np.int64), entries, axis=1)
        return result


@dataclass(frozen=True, eq=False, slots=True)
class SampledImage:
    """The connections of one image."""

    sample: str
    group: int
    """Index into `shards.GROUPS`."""
    label: int
    matrices: tuple[np.ndarray, ...]
    """Per link (target channels, source channels)."""
    completeness: np.ndarray
    """(links,)."""


def _taken(stack: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
    if sources is None:
        return stack
    return np.take_along_axis(stack, sources[None].astype(np.int64), axis=2)


def write_part(path: Path, sampled: Sampled) -> None:
    """Write the connections of a block."""
    flat = serialization.flatten(sampled)
    about = json.dumps({"schema": Sampled.SCHEMA.name, "value": flat.value}, sort_keys=True).encode()
    files.write(path, {ABOUT: np.frombuffer(about, np.uint8), **flat.arrays})


def read_part(path: Path) -> Sampled:
    """Return the connections of a block; raises StoreError, naming the file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays: dict[str, np.ndarray] = {name: stored[name] for name in stored.files}
        about = json.loads(arrays.pop(ABOUT).tobytes())
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path.name} of {path.parent.name} cannot be read; run the audit again.") from error
    if about.get("schema") != Sampled.SCHEMA.name:
        raise StoreError(
            f"{path.name} holds '{str(about.get('schema'))[:80]}', and this Faultline looks for '{Sampled.SCHEMA.name}'."
        )
    return serialization.rebuild(Sampled, about["value"], arrays)


@dataclass(frozen=True, slots=True)
class Index:
    """What the rows of the table of sums stand for."""

    SCHEMA: ClassVar[Schema] = Schema("run-connections/1")

    links: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, int], ...]
    """Per link the rows (maps of the target) and entries of each row; the links stand behind one another in a row of the table."""
    is_sparse: tuple[bool, ...]
    """Whether a link's entries are of the source maps that the table of sources names, or of all of them in order."""
    cells: tuple[tuple[int, int, int], ...]
    """Condition (its place among those of the model), group, and true class of each row; the number of classes is all of them."""
    n: tuple[int, ...]
    """Images that each row sums over."""
    completeness: tuple[float, ...]
    """Per link the largest error of any image."""


def index_file(role: str) -> str:
    """Return the name of the file that says what the sums of a model are."""
    return f"connections-{role}.json"


def sums_file(role: str) -> str:
    """Return the name of the file with the sums: (cells, entries) float32."""
    return f"connections-{role}-sums.npy"


def sources_file(role: str) -> str:
    """Return the name of the file with the source maps of sparse links: (entries,) int32, link by link."""
    return f"connections-{role}-sources.npy"


Parts = Sequence[tuple[int, Path]]
"""The condition (its place among those of the model) and the file of every part, in the order in which they are added."""


def merge(folder: Path, role: str, widths: tuple[int, ...], parts: Parts, classes: int) -> None:
    """Write the sums of all parts of a model by condition, outcome and true class; nothing where there is no part.

    widths: feature maps of every site.
    """
    if not parts:
        return
    seen = _Seen.of(parts, widths, classes)
    cells = sorted(seen.counts)
    starts = np.cumsum([0, *(rows * width for rows, width in seen.shapes)])
    table = np.lib.format.open_memmap(folder / sums_file(role), "w+", np.float32, (len(cells), int(starts[-1])))
    places = {cell: row for row, cell in enumerate(cells)}
    for condition, path in parts:
        sampled = read_part(path)
        for image in range(len(sampled.samples)):
            row = np.concatenate([_taken(sampled.whole(k, image, widths[link[0]])[None], seen.sources[k])[0].ravel()
                                  for k, link in enumerate(seen.links)])  # fmt: skip
            for cell in _cells(condition, sampled, image, classes):
                table[places[cell]] += row
    table.flush()
    index = Index(
        links=seen.links,
        shapes=seen.shapes,
        is_sparse=tuple(sources is not None for sources in seen.sources),
        cells=tuple(cells),
        n=tuple(seen.counts[cell] for cell in cells),
        completeness=tuple(float(error) for error in seen.completeness),
    )
    sparse = [sources.ravel() for sources in seen.sources if sources is not None]
    np.save(folder / sources_file(role), np.concatenate([np.zeros(0, np.int32), *sparse]), allow_pickle=False)
    sealed = Envelope(Index.SCHEMA, serialization.flatten(index).value)
    (folder / index_file(role)).write_bytes(files.pack(sealed))


Cell = tuple[int, int, int]


def _cells(condition: int, sampled: Sampled, image: int, classes: int) -> Iterator[Cell]:
    for label in (int(sampled.labels[image]), classes):
        yield condition, int(sampled.groups[image]), label


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    """What all parts together hold, before they are summed."""

    links: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, int], ...]
    sources: list[np.ndarray | None]
    counts: dict[Cell, int]
    completeness: np.ndarray

    @classmethod
    def of(cls, parts: Parts, widths: tuple[int, ...], classes: int) -> _Seen:
        used: list[np.ndarray] = []
        links: tuple[tuple[int, int], ...] = ()
        counts: dict[Cell, int] = {}
        errors = []
        for condition, path in parts:
            sampled = read_part(path)
            links = sampled.links
            used = used or [
                np.zeros((len(sampled.matrices[k][0]), widths[link[0]]), bool) for k, link in enumerate(links)
            ]
            errors.append(sampled.completeness.max(axis=0))
            for image in range(len(sampled.samples)):
                for k, link in enumerate(links):
                    used[k] |= sampled.whole(k, image, widths[link[0]]) != 0
                for cell in _cells(condition, sampled, image, classes):
                    counts[cell] = counts.get(cell, 0) + 1
        sources = [entries_of(one) for one in used]
        shapes = tuple(one.shape if own is None else own.shape for one, own in zip(used, sources, strict=True))
        return cls(links, shapes, sources, counts, np.max(errors, axis=0))


@dataclass(frozen=True, eq=False, slots=True)
class Mean:
    """Connections of one side, mean over sampled images: per link (target channels, width) float32."""

    n: int
    matrices: tuple[np.ndarray, ...]


@final
class RunConnections:
    """The summed connections of one model of a finished run; only the rows that a question touches are read."""

    def __init__(self, folder: Path, role: str) -> None:
        """Open what a result holds; raises StoreError, naming the file."""
        try:
            sealed = files.unpack((folder / index_file(role)).read_bytes(), Index.SCHEMA)
            self.index = serialization.rebuild(Index, sealed.value)
            self._sums: np.ndarray = np.load(folder / sums_file(role), mmap_mode="r", allow_pickle=False)
            self._sources: np.ndarray = np.load(folder / sources_file(role), allow_pickle=False)
        except (OSError, ValueError, EOFError, Corrupt) as error:
            raise StoreError(
                f"The connections of the run's result ({index_file(role)} and its tables) are damaged; restore them from a copy "
                "of the store."
            ) from error

    def mean(self, conditions: Sequence[int], group: int, labels: Iterable[int] | None, classes: int) -> Mean:
        """Return the mean over the sampled images of some conditions, an outcome and some classes (None is all).

        group: index into `shards.GROUPS`; classes: how many the model has.
        """
        wanted = {(one, group, label) for one in conditions for label in labels or (classes,)}
        rows = [row for row, cell in enumerate(self.index.cells) if cell in wanted]
        n = sum(self.index.n[row] for row in rows)
        total = np.zeros(self._sums.shape[1], np.float64)
        for row in rows:
            total += self._sums[row]
        return Mean(n, self._split((total / max(n, 1)).astype(np.float32)))

    def _split(self, row: np.ndarray) -> tuple[np.ndarray, ...]:
        sizes = np.cumsum([rows * width for rows, width in self.index.shapes])
        parts = np.split(row, sizes[:-1])
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.index.shapes, strict=True))

    def connections(self, sides: dict[Side, Mean], links: Sequence[Link]) -> tuple[Connection, ...]:
        """Return one connection per link of the model, in that order; raises StoreError where one was not stored."""
        known = {ends: k for k, ends in enumerate(self.index.links)}
        sources = self._sources_by_link()
        results = []
        for link in links:
            k = known.get((link.source, link.target))
            if k is None:
                raise StoreError("The connections of this run are of other links than the model has.")
            clean, adversarial = sides["clean"].matrices[k], sides["adversarial"].matrices[k]
            error = self.index.completeness[k]
            results.append(Connection(link.source, link.target, clean, adversarial, error, sources[k]))
        return tuple(results)

    def _sources_by_link(self) -> list[np.ndarray | None]:
        results: list[np.ndarray | None] = []
        start = 0
        for (rows, width), is_sparse in zip(self.index.shapes, self.index.is_sparse, strict=True):
            own = self._sources[start : start + rows * width].reshape(rows, width) if is_sparse else None
            start += rows * width if is_sparse else 0
            results.append(own)
        return results
