"""The cube: n, sum and sum of squares per condition, outcome, class and map, so that no filter opens a shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np

from engine.audit.rows import Rows
from engine.errors import BadInput, StoreError

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


def part(rows: Rows) -> Part:
    """Return what a block adds, computed from the values as stored so that anybody can compute it again."""
    group = _groups(rows)
    found = sorted({(int(g), int(c)) for g, c in zip(group, rows.labels, strict=True) if g >= 0})
    maps = sum(site.shape[1] for site in rows.scores)
    shape = (len(found), len(MEASURES), maps)
    sums, squares, n = np.zeros(shape), np.zeros(shape), np.zeros(len(found))
    values = [np.abs(_joined(rows.scores, len(rows.samples), maps)), _joined(rows.flow, len(rows.samples), maps)]
    for place, (one, label) in enumerate(found):
        chosen = (group == one) & (rows.labels == label)
        n[place] = chosen.sum()
        for measure, value in enumerate(values):
            sums[place, measure] = value[chosen].sum(axis=0)
            squares[place, measure] = (value[chosen] ** 2).sum(axis=0)
    return Part(np.array(found, dtype=np.int32).reshape(-1, 2), n, sums, squares)


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
        try:
            self._n = np.load(_file(folder, name, "n"), allow_pickle=False)
            self._sums = np.load(_file(folder, name, "sums"), mmap_mode="r", allow_pickle=False)
            self._squares = np.load(_file(folder, name, "squares"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError("The run has no readable cube; run the audit again to build it.") from error

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._n.shape[2] - 1

    def statistics(
        self, condition: int, group: Group, measure: Measure = "score", labels: Sequence[int] | None = None
    ) -> MapStatistics:
        """Return mean and variance of every map over the images of some classes, all of them by default."""
        if not 0 <= condition < len(self._n):
            raise BadInput(f"This cube has conditions 0 to {len(self._n) - 1}, got {condition}.")
        chosen = [self.classes] if labels is None else list(labels)
        if not all(0 <= label <= self.classes for label in chosen):
            raise BadInput(f"A class index must lie in 0 to {self.classes - 1}, got {chosen[:8]}.")
        place = condition, GROUPS.index(group)
        n = float(self._n[(*place, chosen)].sum())
        cells = (*place, MEASURES.index(measure))
        total = self._sums[cells][chosen].sum(axis=0)
        squares = self._squares[cells][chosen].sum(axis=0)
        mean = total / max(n, 1.0)
        variance = np.maximum(squares - n * mean**2, 0.0) / max(n - 1.0, 1.0)
        return MapStatistics(int(n), mean, variance if n > 1 else np.zeros_like(mean))


def _file(folder: Path, name: str, what: str) -> Path:
    return folder / f"cube-{name}-{what}.npy"


def _groups(rows: Rows) -> np.ndarray:
    """(images,) int: index into `GROUPS`, -1 for images that count nowhere."""
    found = np.full(len(rows.samples), -1)
    for place, status in enumerate(rows.status):
        if rows.is_scored[place]:
            found[place] = GROUPS.index("fooled") if status == "fooled" else GROUPS.index("kept")
    return found


def _joined(per_site: Sequence[np.ndarray], images: int, maps: int) -> np.ndarray:
    """(images, maps) float64; zeros where nothing was measured."""
    if not per_site:
        return np.zeros((images, maps))
    return np.concatenate(per_site, axis=1).astype(np.float64)
