"""What the rows of a run add up to: rates with intervals, worst case, curve, confusion, thresholds, model against model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from engine import class_names, statistics
from engine.attribution.comparison import holm
from engine.audit import doubts, shards
from engine.audit.doubts import Treated
from engine.audit.manifest import BASELINE, CANDIDATE, Condition, Manifest, Role
from engine.audit.plan import CLEAN, WORST_CASE, Threshold
from engine.audit.shards import Rows
from engine.types.core import STATUSES

FEW: Final = 30
"""Images below which a class is greyed and never ranked."""
RULES: Final = 3
"""Version of what rows add up to. 1 passed thresholds without asking whether any image was changed; 2 showed Wilson intervals
beside the Clopper-Pearson ones of thresholds."""
Verdict = Literal["pass", "fail", "inconclusive", "nothing to decide"]
DECISIVE: Final = ("attack", "premade")
"""Kinds of conditions that make the worst case; controls and the curve do not."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of images with its 95 % Clopper-Pearson interval, as thresholds have."""

    n: int
    value: float | None
    """None where n is 0."""
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: np.ndarray) -> Rate:
        """Return the share of (images,) bool."""
        if not len(hits):
            return cls(0, None, None, None)
        share = statistics.clopper_pearson(int(np.count_nonzero(hits)), len(hits))
        return cls(share.n, share.value, share.low, share.high)


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How one class fared."""

    name: str
    accuracy: Rate
    statuses: dict[str, int]
    has_few: bool
    """Fewer than `FEW` images: shown grey, never ranked."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Images of one class that were fooled into another."""

    true: str
    into: str
    images: int


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """How all images fared under one condition."""

    name: str
    kind: str
    attempted: int
    statuses: dict[str, int]
    outside_budget: int
    """Pre-made images that exceed their declared budget; they are left out of every rate."""
    accuracy: Rate
    """Right answers after the attack, of all images that could be judged."""
    resistance: Rate
    """The same of the images that were right without attack."""
    classes: tuple[ClassResult, ...]
    confusion: tuple[Flow, ...]
    """Largest first; every pair of classes that occurred."""
    is_cumulative: bool = False
    """True where only what earlier attacks left was attacked; what those fooled counts as not right in every rate."""
    doubts: tuple[str, ...] = ()
    """Why the rates say little, one sentence each; none while the run goes on."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One strength of an attack."""

    attack: str
    family: str
    """The attack's id without its strength."""
    epsilon: float
    accuracy: Rate


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Everything of one model."""

    role: str
    model: str
    conditions: tuple[ConditionResult, ...]
    worst_case: ConditionResult | None
    """Per image over all attacks and precomputed sets; None where the run has none."""
    curve: tuple[CurvePoint, ...]
    is_monotone: bool
    """Accuracy never rises with the strength of an attack, beyond what its intervals allow."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rows say of a threshold."""

    threshold: Threshold
    outcome: statistics.Outcome
    n: int
    value: float | None
    low: float | None
    """Clopper-Pearson, at the threshold's confidence."""
    high: float | None
    reason: str = ""
    """Why it is inconclusive, as sentences; empty where it is passed or failed."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Candidate against baseline on the same images."""

    name: str
    n: int
    difference: float
    """Accuracy of the candidate minus that of the baseline."""
    low: float
    high: float
    only_candidate: int
    only_baseline: int
    p_value: float
    """Exact McNemar."""
    p_holm: float
    """Adjusted for all pairings of the run."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run says; interim until every shard is there."""

    is_interim: bool
    models: tuple[ModelResult, ...]
    thresholds: tuple[Decision, ...]
    pairings: tuple[Pairing, ...]
    rules: int = 1
    """Which `RULES` made it; a summary of older ones is not read but made anew from the run's rows."""


def summarise(manifest: Manifest, values: Mapping[str, Rows], *, is_interim: bool) -> Summary:
    """Return the summary of rows by condition folder; a condition without rows yet is left out."""
    models: list[ModelResult] = []
    tables: dict[tuple[Role, str], Treated] = {}
    for model in manifest.models:
        fared = _treatments(manifest, model.role, values)
        worst = _worst(manifest, model.role, values)
        every = (*fared, *([worst] if worst else []))
        tables |= {(model.role, item.name): item for item in every}
        result = _model(manifest, model.role, values)
        models.append(result if is_interim else _with_doubts(result, every))
    decided = _undecided(manifest, tables) if is_interim else _decided(manifest, tables)
    return Summary(is_interim, tuple(models), decided, _pairings(manifest, tables), RULES)


def verdict(summary: Summary) -> Verdict:
    """Return what all thresholds together say: `pass` only where there are some and every one is passed."""
    outcomes = {threshold.outcome for threshold in summary.thresholds}
    if not outcomes:
        return "nothing to decide"
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes == {"pass"} else "inconclusive"


def _with_doubts(model_result: ModelResult, fared: tuple[Treated, ...]) -> ModelResult:
    """Return a model's results with what must be doubted of each condition."""
    with_doubts = {item.name: doubts.of_condition(item, fared) for item in fared}
    worst = model_result.worst_case
    return replace(
        model_result,
        conditions=tuple(
            replace(condition, doubts=with_doubts[condition.name]) for condition in model_result.conditions
        ),
        worst_case=None if worst is None else replace(worst, doubts=with_doubts[WORST_CASE]),
    )


def _model(manifest: Manifest, role: Role, values: Mapping[str, Rows]) -> ModelResult:
    ran = [item for item in manifest.of(role) if item.folder in values]
    conditions = tuple(_condition(manifest, item, values[item.folder]) for item in ran)
    worst = _worst_rows(manifest, role, values)
    curve = _curve(ran, conditions)
    return ModelResult(
        role=role,
        model=manifest.model(role).name,
        conditions=conditions,
        worst_case=None if worst is None else _result(manifest, (WORST_CASE, doubts.WORST), worst),
        curve=curve,
        is_monotone=all(_is_monotone(own, curve) for own in {point.family for point in curve}),
    )


def _condition(manifest: Manifest, condition: Condition, own: Rows) -> ConditionResult:
    return replace(_result(manifest, (condition.name, condition.kind), own), is_cumulative=bool(condition.after))


def _result(manifest: Manifest, named: tuple[str, str], own: Rows) -> ConditionResult:
    judged = shards.judged(own)
    right, was_right = shards.right(own), own.before == own.labels
    fooled = [k for k, status in enumerate(own.status) if status == "fooled" and judged[k]]
    flows = Counter((int(own.labels[k]), int(own.after[k])) for k in fooled)
    ranked = sorted(flows.items(), key=lambda item: (-item[1], item[0]))
    classes = class_names.handles(manifest.classes)
    return ConditionResult(
        name=named[0],
        kind=named[1],
        attempted=len(own.samples),
        statuses=_statuses(own, np.ones(len(own.samples), dtype=bool)),
        outside_budget=int((~own.in_budget).sum()),
        accuracy=Rate.of(right[judged]),
        resistance=Rate.of(right[judged & was_right]),
        classes=tuple(_class(manifest, own, label) for label in np.unique(own.labels)),
        confusion=tuple(Flow(classes[true], classes[into], images) for (true, into), images in ranked),
    )


def _class(manifest: Manifest, own: Rows, label: int) -> ClassResult:
    of_class = own.labels == label
    accuracy = Rate.of(shards.right(own)[of_class & shards.judged(own)])
    name = class_names.handles(manifest.classes)[label]
    return ClassResult(name, accuracy, _statuses(own, of_class), accuracy.n < FEW)


def _statuses(own: Rows, chosen: np.ndarray) -> dict[str, int]:
    counts = Counter(status for status, is_own in zip(own.status, chosen, strict=True) if is_own)
    return {status: counts.get(status, 0) for status in STATUSES}


def _treatments(manifest: Manifest, role: Role, values: Mapping[str, Rows]) -> tuple[Treated, ...]:
    """Return how the images of one model fared under every condition that has rows."""
    return tuple(
        doubts.treated(
            item.name,
            item.kind,
            doubts.budgets(manifest, item),
            values[item.folder],
            item.attack if item.is_attacked else None,
        )
        for item in manifest.of(role)
        if item.folder in values
    )


def _worst(manifest: Manifest, role: Role, values: Mapping[str, Rows]) -> Treated | None:
    worst = _worst_rows(manifest, role, values)
    if worst is None:
        return None
    # A precomputed set may have a larger budget than the attacks that were run; it is none of theirs.
    decisive = [item for item in manifest.of(role) if item.kind in DECISIVE]
    attacks = [item for item in decisive if item.kind == "attack"] or decisive
    budgets = [budget for one in attacks for budget in doubts.budgets(manifest, one)]
    return doubts.treated(WORST_CASE, doubts.WORST, tuple(dict.fromkeys(budgets)), worst)


def _worst_rows(manifest: Manifest, role: Role, values: Mapping[str, Rows]) -> Rows | None:
    """Return per image its worst row over all attacks: fooled if any fooled it, else failed if any failed.

    Interim, only images count that have met every attack. None where the run has no attack.
    """
    names = [item.folder for item in manifest.of(role) if item.kind in DECISIVE]
    if not names or not all(name in values for name in names):
        return None
    shared = set.intersection(*(set(values[name].samples) for name in names))
    every = shards.joined([values[name] for name in names])
    judged = shards.judged(every)
    worst: dict[str, tuple[int, int]] = {}
    for place, sample in enumerate(every.samples):
        badness = _badness(every.status[place], bool(judged[place]))
        if sample in shared and badness > worst.get(sample, (-1, 0))[0]:
            worst[sample] = (badness, place)
    chosen = sorted(
        (place for _, place in worst.values()), key=lambda place: (every.labels[place], every.samples[place])
    )
    return shards.picked(every, chosen)


def _badness(status: str, is_judged: bool) -> int:
    """Fooled is worst; an image that could not be judged hides behind any that fooled it, never behind one that did not.

    An image that one attack left as it was and another changed in vain has resisted.
    """
    if not is_judged:
        return 3
    return {"fooled": 4, "clean_wrong": 2, "resisted": 1}.get(status, 0)


def _curve(ran: Sequence[Condition], results: Sequence[ConditionResult]) -> tuple[CurvePoint, ...]:
    """Every attack at every strength it was run at, by family and strength."""
    points = []
    for condition, one in zip(ran, results, strict=True):
        if condition.kind in ("attack", "curve") and not one.is_cumulative:
            spec = condition.attack
            points.append(CurvePoint(one.name, spec.without_epsilon, float(spec.budget), one.accuracy))
    families = Counter(point.family for point in points)
    several = [point for point in points if families[point.family] > 1]
    return tuple(sorted(several, key=lambda point: (point.family, point.epsilon)))


def _is_monotone(name: str, curve: tuple[CurvePoint, ...]) -> bool:
    """Tell whether no point's interval lies wholly above that of a weaker strength."""
    own = [point.accuracy for point in curve if point.family == name and point.accuracy.n]
    return not any(
        (later.low or 0.0) > (earlier.high or 0.0) for k, earlier in enumerate(own) for later in own[k + 1 :]
    )


def _undecided(manifest: Manifest, tables: Mapping[tuple[Role, str], Treated]) -> tuple[Decision, ...]:
    """Return the figures of the thresholds while the run goes on: part of its images decides nothing."""
    decisions = _decisions(manifest, tables, others=[])
    return tuple(replace(item, outcome="inconclusive", reason=doubts.UNFINISHED) for item in decisions)


def _decided(manifest: Manifest, tables: Mapping[tuple[Role, str], Treated]) -> tuple[Decision, ...]:
    others = [one for (role, name), one in tables.items() if role == CANDIDATE and name != WORST_CASE]
    return _decisions(manifest, tables, others=others)


def _decisions(
    manifest: Manifest, tables: Mapping[tuple[Role, str], Treated], *, others: list[Treated]
) -> tuple[Decision, ...]:
    """Return what the rows say of every threshold; others: the conditions that may find more than its own."""
    decisions = []
    for threshold in manifest.plan.thresholds:
        own = tables.get((CANDIDATE, threshold.condition))
        if own is None:
            decisions.append(Decision(threshold, "inconclusive", 0, None, None, None, doubts.NO_ATTACK))
        elif empty := doubts.nothing_chosen(threshold, own, manifest.classes):
            decisions.append(Decision(threshold, "inconclusive", 0, None, None, None, empty))
        else:
            decisions.append(_decision(threshold, doubts.chosen(threshold, own, manifest.classes), others))
    return tuple(decisions)


def _decision(threshold: Threshold, own: Treated, others: list[Treated]) -> Decision:
    """Decide by the whole interval, and pass only where nothing speaks against what the figures were made from."""
    count, n = int((own.is_right & own.is_judged).sum()), int(own.is_judged.sum())
    outcome = statistics.decide(count, n, threshold.at_least, threshold.confidence)
    reason = doubts.reason(threshold, own, others, outcome)
    if reason:
        outcome = "inconclusive"
    if not n:
        return Decision(threshold, outcome, 0, None, None, None, reason)
    clopper_pearson = statistics.clopper_pearson(count, n, threshold.confidence)
    return Decision(threshold, outcome, n, clopper_pearson.value, clopper_pearson.low, clopper_pearson.high, reason)


def _pairings(manifest: Manifest, tables: Mapping[tuple[Role, str], Treated]) -> tuple[Pairing, ...]:
    """Compare the models under every condition that both have met, on the images that were judged for both."""
    if not manifest.plan.baseline:
        return ()
    names = [item.name for item in manifest.of(CANDIDATE)] + [WORST_CASE]
    both = [name for name in names if (CANDIDATE, name) in tables and (BASELINE, name) in tables]
    counts = [(name, *_crossed(tables[CANDIDATE, name], tables[BASELINE, name])) for name in both]
    counts = [count for count in counts if sum(count[1:])]
    if not counts:
        return ()
    adjusted = holm(np.array([statistics.mcnemar(count[2], count[3]) for count in counts]))
    pairings = []
    for (name, both_right, first, second, neither), p_holm in zip(counts, adjusted, strict=True):
        gap = statistics.paired_difference(both_right, first, second, neither)
        p_value = statistics.mcnemar(first, second)
        pairings.append(Pairing(name, gap.n, gap.value, gap.low, gap.high, first, second, p_value, float(p_holm)))
    return tuple(pairings)


def _crossed(first: Treated, second: Treated) -> tuple[int, int, int, int]:
    """Return how many images, judged for both, both, only the first, only the second and neither got right."""
    first, second = first.on(first.is_judged), second.on(second.is_judged)
    shared, own, other = np.intersect1d(first.samples, second.samples, return_indices=True)
    a, b = first.is_right[own], second.is_right[other]
    del shared
    return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def of_clean(result: ModelResult) -> ConditionResult | None:
    """Return a model's result without attack, None where it is not there yet."""
    return next((condition for condition in result.conditions if condition.name == CLEAN), None)
