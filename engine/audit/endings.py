"""How each image of a run ended under each condition, and what follows: which class fools into which, and accuracy by strength.

An image is the unit: where several attacks are chosen, it counts once, by what any of them did to it. So the intervals of
Clopper and Pearson hold as they do for a threshold.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import statistics
from engine.audit import inside, results
from engine.audit import manifest as manifests
from engine.audit.inside import ATTACKING, Scope
from engine.audit.manifest import Condition, Manifest, Place
from engine.audit.shards import Rows
from engine.audit.summary import FEW, CurvePoint, Rate
from engine.errors import BadInput
from engine.statistics import Estimate
from engine.store import files
from engine.types.core import STATUSES

ABSENT: Final = -1
"""Status of an image that has not met a condition yet."""
FOOLED, BROKEN = (STATUSES.index(name) for name in ("fooled", "broken_before"))
MET: Final = tuple(STATUSES.index(name) for name in ("fooled", "resisted", "unperturbed"))
"""Statuses of images that were right without attack and met this one."""
COLUMNS: Final = ("before", "after", "status", "in_budget")
CURVED: Final = ("attack", "curve")
"""Kinds of conditions that are points of a curve."""


@dataclass(frozen=True, eq=False, slots=True)
class Endings:
    """Arrays (conditions, images), in the order of the manifest."""

    before: np.ndarray
    """int32 class without attack."""
    after: np.ndarray
    """int32 class of the stored image."""
    status: np.ndarray
    """int8, index into `STATUSES`; `ABSENT` where the condition was not met yet."""
    is_judged: np.ndarray
    """bool: it was met, the attack did not break down, and a precomputed image keeps its budget."""

    def is_fooled(self, conditions: Sequence[int]) -> np.ndarray:
        """Return (conditions, images) bool: fooled, of those that could be judged."""
        chosen = list(conditions)
        fooled: np.ndarray = (self.status[chosen] == FOOLED) & self.is_judged[chosen]
        return fooled

    def has_met(self, conditions: Sequence[int]) -> np.ndarray:
        """Return (conditions, images) bool: right without attack, attacked, and judged."""
        chosen = list(conditions)
        met: np.ndarray = np.isin(self.status[chosen], MET) & self.is_judged[chosen]
        return met

    def is_right(self, condition: int, labels: np.ndarray) -> np.ndarray:
        """Return (images,) bool: right without attack and still right, as `shards.right` has it."""
        kept = (self.before[condition] == labels) & (self.after[condition] == labels)
        right: np.ndarray = kept & (self.status[condition] != BROKEN) & (self.status[condition] != ABSENT)
        return right


@dataclass(frozen=True, slots=True)
class ConfusionFlow:
    """Images of one true class that the chosen attacks fooled into another."""

    label: int
    into: int
    images: int
    share: Estimate
    """Of the images of the class that were right without attack and met the attacks; Clopper-Pearson, 95 %."""
    condition: int
    """Place, among the conditions of the model, of the first attack that did this."""
    sample: str
    """The first image that it did this to."""

    @property
    def has_few(self) -> bool:
        """Fewer than `FEW` images of the class: shown grey, not to be ranked."""
        return self.share.n < FEW


@dataclass(frozen=True, slots=True)
class Confusion:
    """Where fooled images end, for one scope of a run."""

    scope: Scope
    attacks: tuple[int, ...]
    """Places of the attacks behind it."""
    attacked: tuple[tuple[int, int], ...]
    """Class index and number of its images that were right without attack and met the attacks; classes without are left out."""
    fooled: int
    """Images that any of the attacks fooled."""
    pairs: int
    """Pairs of classes that occurred."""
    flows: tuple[ConfusionFlow, ...]
    """The pairs that were counted out, the most images first."""
    broken: int
    """Images under which one of the attacks broke down or left its budget; they count by the other attacks alone."""
    curve: tuple[CurvePoint, ...]
    """Accuracy over the images of the chosen classes, of the families of the chosen attacks, by family and strength."""
    is_interim: bool

    @property
    def n(self) -> int:
        """Images of all classes that were right without attack and met the attacks."""
        return sum(count for _, count in self.attacked)


def of_run(place: Place) -> Endings:
    """Return how the images of a run ended, finished or as far as it has come; raises UnknownName, StoreError."""
    manifest = manifests.read(place)
    if not results.is_finished(place):
        return of_rows(manifest, results.gathered(place, manifest))
    results.require_sealed(place, [results.TABLE])
    with files.disk_errors("reading a result"):
        status = (place.result / results.TABLE).stat()
    return _of_finished(place, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _of_finished(place: Place, changed: int, size: int) -> Endings:
    """Kept: the rows of 50,000 images under six conditions take 3 MB here, and half a second to read."""
    del changed, size
    manifest = manifests.read(place)
    shape = len(manifest.conditions), len(manifest.images.samples)
    table = results.read_table(place, COLUMNS)
    codes = pc.index_in(table["status"], value_set=pa.array(STATUSES)).to_numpy().astype(np.int8)
    before, after, in_budget = (table[name].to_numpy() for name in ("before", "after", "in_budget"))
    judged = in_budget & (codes != STATUSES.index("failed"))
    return Endings(*(values.reshape(shape) for values in (before, after, codes, judged)))


def of_rows(manifest: Manifest, values: Mapping[str, Rows]) -> Endings:
    """Return the same of the rows that are there, by condition folder."""
    shape = len(manifest.conditions), len(manifest.images.samples)
    before, after = np.full(shape, ABSENT, dtype=np.int32), np.full(shape, ABSENT, dtype=np.int32)
    status, judged = np.full(shape, ABSENT, dtype=np.int8), np.zeros(shape, dtype=bool)
    places = {sample: place for place, sample in enumerate(manifest.images.samples)}
    for k, condition in enumerate(manifest.conditions):
        if condition.folder in values:
            rows = values[condition.folder]
            own = [places[sample] for sample in rows.samples]
            before[k, own], after[k, own] = rows.before, rows.after
            status[k, own] = [STATUSES.index(one) for one in rows.status]
            judged[k, own] = rows.in_budget & (status[k, own] != STATUSES.index("failed"))
    return Endings(before, after, status, judged)


def confusion(place: Place, scope: Scope, most: int | None = None) -> Confusion:
    """Return where fooled images of a scope end; its group does not matter. Raises UnknownName, BadInput, StoreError.

    most: pairs of classes that are counted out, those with the most images; None is all of them.
    """
    manifest = manifests.read(place)
    own = own_places(manifest, scope)
    endings, labels = of_run(place), np.array(manifest.images.labels)
    chosen = attacks_of(manifest, scope)
    rows = [own[k] for k in chosen]
    in_scope = inside.in_classes(manifest, scope)
    met, fooled = endings.has_met(rows) & in_scope, endings.is_fooled(rows) & in_scope
    counts = Counter(labels[met.any(axis=0)].tolist())
    pairs = _Pairs.of(fooled, endings.after[rows], labels)
    broken = (endings.status[rows] != ABSENT) & ~endings.is_judged[rows] & in_scope
    return Confusion(
        scope=scope,
        attacks=chosen,
        attacked=tuple(sorted(counts.items())),
        fooled=int(fooled.any(axis=0).sum()),
        pairs=len(pairs.images),
        flows=tuple(pairs.flow(k, chosen, counts, manifest.images.samples) for k in range(len(pairs.images))[:most]),
        broken=int(broken.any(axis=0).sum()),
        curve=_curve(manifest, scope, endings, (labels, in_scope)),
        is_interim=not results.is_finished(place),
    )


def own_places(manifest: Manifest, scope: Scope) -> list[int]:
    """Return, for every condition of the model in order, its place among all conditions of the run."""
    return [place for place, one in enumerate(manifest.conditions) if one.role == scope.role]


def attacks_of(manifest: Manifest, scope: Scope) -> tuple[int, ...]:
    """Return the chosen attacks as places among the conditions of the model, all of them by default; raises BadInput."""
    manifest.model(scope.role)
    known = tuple(place for place, one in enumerate(manifest.of(scope.role)) if one.kind in ATTACKING)
    inside.require_choice(manifest, scope, known)
    if not known:
        raise BadInput("This run has no attack, so no image could be fooled.")
    return scope.attacks or known


@dataclass(frozen=True, eq=False, slots=True)
class _Pairs:
    """Pairs of classes that occurred, the most images first: an image counts once for each class that an attack took it to."""

    labels: np.ndarray
    into: np.ndarray
    images: np.ndarray
    first: np.ndarray
    """(pairs, 2): row and image of the first entry."""

    @classmethod
    def of(cls, fooled: np.ndarray, after: np.ndarray, labels: np.ndarray) -> _Pairs:
        rows, images = np.nonzero(fooled)
        width, count = int(after.max(initial=0)) + 1, fooled.shape[1]
        codes = labels[images].astype(np.int64) * width + after[rows, images]
        pairs, first = np.unique(codes, return_index=True)
        once = np.unique(codes * count + images) // count
        sizes = np.bincount(np.searchsorted(pairs, once), minlength=len(pairs))
        order = np.lexsort((pairs, -sizes))
        entries = np.stack([rows, images], axis=1)[first[order]]
        return cls(pairs[order] // width, pairs[order] % width, sizes[order], entries)

    def flow(
        self, place: int, chosen: Sequence[int], counts: Mapping[int, int], samples: Sequence[str]
    ) -> ConfusionFlow:
        label, images = int(self.labels[place]), int(self.images[place])
        row, image = self.first[place].tolist()
        share = statistics.clopper_pearson(images, counts[label])
        return ConfusionFlow(label, int(self.into[place]), images, share, chosen[row], samples[image])


def _curve(
    manifest: Manifest, scope: Scope, endings: Endings, images: tuple[np.ndarray, np.ndarray]
) -> tuple[CurvePoint, ...]:
    labels, in_scope = images
    own, places = manifest.of(scope.role), own_places(manifest, scope)
    wanted = {own[k].attack.without_epsilon for k in scope.attacks if own[k].kind == "attack"}
    points = []
    for condition, place in zip(own, places, strict=True):
        if condition.kind not in CURVED or condition.after or (scope.attacks and not _is_of(condition, wanted)):
            continue
        judged = endings.is_judged[place] & in_scope
        rate = Rate.of(endings.is_right(place, labels)[judged])
        points.append(
            CurvePoint(condition.name, condition.attack.without_epsilon, float(condition.attack.budget), rate)
        )
    families = Counter(point.family for point in points)
    several = [point for point in points if families[point.family] > 1]
    return tuple(sorted(several, key=lambda point: (point.family, point.epsilon)))


def _is_of(condition: Condition, families: set[str]) -> bool:
    return condition.attack.without_epsilon in families
