"""Why a good rate may say nothing: no image was changed, too few are there, or noise and weaker settings find more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine import class_names, parameters, statistics
from engine.audit import shards
from engine.audit.manifest import Condition, Manifest
from engine.audit.plan import CLEAN, Threshold
from engine.audit.shards import Rows
from engine.specs.threat_model import Attack
from engine.statistics import Outcome

FEWEST: Final = 2
"""Images below which a share is none."""
TOLERANCE: Final = 1e-6
"""How far, in [0, 1] units, a measured change may exceed a budget: float arithmetic only."""
LARGEST: Final = {"area": 1.0}
"""Sizes that no change exceeds, by norm."""
CONTROL, CURVE, PRECOMPUTED, WORST = "control", "curve", "premade", "worst case"
"""Kinds of conditions; the last one is that of all attacks together."""
UNFINISHED: Final = "The run is not finished, so nothing is decided yet."
NO_ATTACK: Final = "The run has no attack and no precomputed set, so it has no worst case."
STRADDLES: Final = "The interval reaches to both sides of the threshold: more images are needed."


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a change an attack may make."""

    norm: str
    epsilon: float


@dataclass(frozen=True, eq=False, slots=True)
class Treated:
    """How images fared under one condition; one entry per attempted image in every array."""

    name: str
    kind: str
    budgets: tuple[Budget, ...]
    """None without attack and for everyday damage; of the worst case those of its attacks, or else of its precomputed sets."""
    samples: np.ndarray
    labels: np.ndarray
    is_judged: np.ndarray
    was_right: np.ndarray
    """Right without attack."""
    is_right: np.ndarray
    """Right after it, and after all that it came after."""
    is_changed: np.ndarray
    """Some pixel was changed, here or by an attack that fooled the image before."""
    is_fooled: np.ndarray
    """By this very condition."""
    linf: np.ndarray
    l2: np.ndarray
    attack: Attack | None = None
    """None without attack, for a precomputed set, and of the worst case."""

    def on(self, chosen: np.ndarray) -> Treated:
        """Return the chosen images, (images,) bool or indices, alone."""
        arrays = (
            self.samples, self.labels, self.is_judged, self.was_right, self.is_right, self.is_changed, self.is_fooled,
            self.linf, self.l2,
        )  # fmt: skip
        part = Treated(self.name, self.kind, self.budgets, *(array[chosen] for array in arrays))
        return replace(part, attack=self.attack)

    @property
    def is_broken(self) -> np.ndarray:
        """(images,) bool: right without attack, judged, and not right any more."""
        return self.was_right & self.is_judged & ~self.is_right


def treated(name: str, kind: str, budgets: tuple[Budget, ...], own: Rows, attack: Attack | None = None) -> Treated:
    """Return how the images of some rows fared."""
    status = np.array(own.status)
    return Treated(
        name=name,
        kind=kind,
        budgets=budgets,
        samples=np.array(own.samples),
        labels=own.labels,
        is_judged=shards.judged(own),
        was_right=own.before == own.labels,
        is_right=shards.right(own),
        is_changed=np.isin(status, ("fooled", "resisted", "broken_before")),
        is_fooled=(status == "fooled") & shards.judged(own),
        linf=own.linf,
        l2=own.l2,
        attack=attack,
    )


def budgets(manifest: Manifest, condition: Condition) -> tuple[Budget, ...]:
    """Return the budget of a condition's attack, none where it has none."""
    if condition.kind == PRECOMPUTED:
        own = [item for item in manifest.plan.precomputed if item.name == condition.name]
        return tuple(Budget(item.norm, float(parameters.read_fraction("epsilon", item.epsilon))) for item in own)
    if condition.kind in (CLEAN, CONTROL):
        return ()
    spec = condition.attack
    return () if spec.epsilon is None else (Budget(spec.norm.name, float(spec.epsilon)),)


def of_condition(own: Treated, others: Sequence[Treated]) -> tuple[str, ...]:
    """Return why the rates of a condition say little, over all its images; one sentence each."""
    if own.kind == CLEAN:
        return ()
    return tuple(_sentence(item) for item in (*_unchanged(own), *_found_elsewhere(own, others)))


def reason(threshold: Threshold, own: Treated, others: Sequence[Treated], outcome: Outcome) -> str:
    """Return why a threshold is not passed though its figures do not fail, empty where they hold.

    own: the images that the threshold speaks of, under its condition; outcome: what its figures alone say.
    """
    if outcome == "fail":
        return ""
    results = [*_too_little(threshold, own), *_unchanged(own), *_found_elsewhere(own, others)]
    if not results and outcome == "pass":
        results = [*_uncounted(threshold, own, others)]
    if not results and outcome == "inconclusive":
        return STRADDLES
    return " ".join(map(_sentence, results))


def chosen(threshold: Threshold, own: Treated, classes: tuple[str, ...]) -> Treated:
    """Return the images that a threshold speaks of."""
    wanted = np.ones(len(own.labels), dtype=bool)
    if threshold.label:
        wanted &= own.labels == class_names.handles(classes).index(threshold.label)
    if threshold.metric == "resistance":
        wanted &= own.was_right
    return own.on(wanted)


def nothing_chosen(threshold: Threshold, own: Treated, classes: tuple[str, ...]) -> str:
    """Return why a threshold speaks of nothing under a condition, as a sentence; empty where it speaks of some images."""
    if len(classes) < 2:
        return "The model has a single class and is right whatever it is shown."
    handles = class_names.handles(classes)
    if threshold.label not in ("", *handles):
        # Runs made before a name that stands twice was refused may ask for one of two.
        return f"more than one class is called '{threshold.label}'; name it by its index"
    of_class = own.on(own.labels == handles.index(threshold.label)) if threshold.label else own
    which = f" of class '{threshold.label}'" if threshold.label else ""
    if not len(of_class.labels):
        return f"The run holds no image{which}."
    if threshold.metric == "resistance" and not of_class.was_right.any():
        count = len(of_class.labels)
        return f"None of the {count} images{which} was right without attack, so there was nothing to withstand."
    return ""


def _too_little(threshold: Threshold, own: Treated) -> Iterator[str]:
    count, judged = len(own.labels), int(own.is_judged.sum())
    if threshold.at_least <= 0:
        yield "a threshold of 0 is reached by every model"
    if not judged:
        yield f"none of the {count} images could be judged: the attack broke down, or they exceed their budget"
    elif judged < FEWEST:
        yield "a single image makes no share"


def _unchanged(own: Treated) -> Iterator[str]:
    right = int((own.was_right & own.is_judged).sum())
    changed = int((own.was_right & own.is_judged & own.is_changed).sum())
    if own.kind == CLEAN or not own.is_judged.any():
        return
    if not right:
        yield "no image was right without attack, so none was attacked"
    elif not changed:
        yield f"none of the {right} images that were right without attack was changed, so nothing was withstood"


def _uncounted(threshold: Threshold, own: Treated, others: Sequence[Treated]) -> Iterator[str]:
    """Tell of images that stand in no figure as what they are, where the threshold would not hold if they were no success."""
    if own.kind == CLEAN:
        return
    untouched = own.is_right & own.is_judged & ~own.is_changed
    if not _holds(threshold, own, untouched | ~own.is_judged):
        yield (
            f"{_images(untouched)} left as they were, {_images(~own.is_judged)} not judged: without counting those as withstood "
            "the threshold is not reached"
        )
    elsewhere = np.zeros(len(own.labels), dtype=bool)
    for other in _searchers(own, others):
        elsewhere |= _fooled_by(own, other)
    elsewhere &= own.is_right & own.is_judged
    if not _holds(threshold, own, elsewhere):
        yield (
            f"{_images(elsewhere)} right under it but fooled by noise or a weaker setting: with those counted as fooled "
            "the threshold is not reached"
        )


def _holds(threshold: Threshold, own: Treated, lost: np.ndarray) -> bool:
    """Tell whether a threshold is passed with some more images counted as not right; those not judged count only if lost."""
    counted = own.is_judged | lost
    right = int((own.is_right & own.is_judged & ~lost).sum())
    return statistics.decide(right, int(counted.sum()), threshold.at_least, threshold.confidence) == "pass"


def _found_elsewhere(own: Treated, others: Sequence[Treated]) -> Iterator[str]:
    """Tell where an attack finds nothing and others do, or less than noise or a weaker setting, within its budget."""
    searchers = {other.name for other in _searchers(own, others)}
    for other in others:
        here, there = _paired(own, other)
        both = own.on(here[own.is_judged[here] & other.is_judged[there]])
        theirs, ours = int(_fooled_by(both, other).sum()), int(both.is_broken.sum())
        if theirs > ours and (not ours or other.name in searchers):
            yield (
                f"it fools {ours or 'none'} of {len(both.labels)} images, and {other.name} fools {theirs} of them within its budget"
            )


def _searchers(own: Treated, others: Iterable[Treated]) -> Iterator[Treated]:
    """Yield what must not find more than an attack: noise, and the same attack when weaker; for the worst case every curve."""
    if not own.budgets:
        return
    for other in others:
        if other.kind == CONTROL or _is_weaker(other.attack, own.attack) or (other.kind == CURVE and own.kind == WORST):
            yield other


def _is_weaker(one: Attack | None, other: Attack | None) -> bool:
    """Tell whether two attacks are the same but for their strength, and the first is the weaker one."""
    if one is None or other is None:
        return False
    return one.without_epsilon == other.without_epsilon and one.budget < other.budget


def _fooled_by(own: Treated, other: Treated) -> np.ndarray:
    """Return (images of `own`,) bool: another condition fools the image with a change that this one's budget allows."""
    result = np.zeros(len(own.labels), dtype=bool)
    here, there = _paired(own, other)
    for budget in own.budgets:
        result[here] |= (other.is_fooled & (_size(other, budget.norm) <= budget.epsilon + TOLERANCE))[there]
    return result


def _size(treated: Treated, norm: str) -> np.ndarray:
    """Return (images,) the size of each change in a norm, at most: where it is not stored, that is the budget in this norm.

    What has no such budget may be of any size.
    """
    if norm in ("linf", "l2"):
        return treated.linf if norm == "linf" else treated.l2
    kept = [item.epsilon for item in treated.budgets if item.norm == norm]
    if treated.attack is not None and treated.attack.norm.name == norm:
        kept.append(float(treated.attack.budget))
    return np.full(len(treated.labels), min(kept, default=LARGEST.get(norm, np.inf)))


def _paired(own: Treated, other: Treated) -> tuple[np.ndarray, np.ndarray]:
    """Return where the images that two conditions share stand in each; mostly all do, in one order."""
    if np.array_equal(own.samples, other.samples):
        every = np.arange(len(own.samples))
        return every, every
    _, here, there = np.intersect1d(own.samples, other.samples, return_indices=True)
    return here, there


def _images(chosen: np.ndarray) -> str:
    count = int(chosen.sum())
    return f"{count} image{'' if count == 1 else 's'}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
