"""Audit runs as rows and texts, and the form that plans one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dashboard.panels.audits.counted import Images, image_query, images_of, shown_as
from dashboard.wording import measured
from engine import (
    CHECKS,
    IN_CASCADE,
    LIMITS,
    METRIC_TITLES,
    TIERS,
    Answer,
    AttackSanity,
    ClassResult,
    ConditionResult,
    Decision,
    ModelResult,
    Pairing,
    Rate,
    RunCard,
    RunView,
    Summary,
    condition_name,
    duration,
    left_out,
    run_verdict,
    status_counts,
)

OUTCOMES = {"pass": "✔ pass", "fail": "✘ fail", "inconclusive": "? inconclusive"}
MOST_FLOWS = 3
NOT_EXPLAINED = (
    "Rows without 'Explain' attacked no image, or with other settings or another seed than the levels show, in a run that kept "
    "no images: there it would be another attack."
)
WORST, CLEAN = "worst-case", "clean"
SMALLEST_P = 0.001
INTERVAL: Final = "Clopper-Pearson, 95 %"
"""How every interval of a rate is made; thresholds have the same one at their own confidence."""
VERDICTS: Final = {
    "pass": "✔ pass",
    "fail": "✘ fail",
    "inconclusive": "? inconclusive",
    "nothing to decide": "– no thresholds",
    "": "",
}
"""Of a run in the list."""
SCREENING: Final = "Screening only: no evidence for an approval."
OWN_ATTACKS: Final = "own attacks"
OWN_CHOICE: Final = "Attacks chosen for this audit, no tier: how much it is worth depends on them."
IN_MAP: Final = ("clean", "attack", "premade")
"""Kinds of conditions that have a column in the heat map; noise and the curve stand in the tables."""
FEW: Final = 30
"""Images below which a share is grey and not to be ranked."""
MOST_CLASSES: Final = 40
"""Rows of the heat map; of more classes, those that fare worst."""
STEPS: Final = 10
"""Colours of the heat map, from none to all fooled."""
COLUMNS: Final = ("name", "about", "begun", "seconds", "author", "tier", "state", "verdict")
"""By which the list can be sorted."""
NEWEST: Final = "-begun"
STATES: Final = {
    "running": ("running", "stopping"),
    "stopped": ("interrupted", "cancelled"),
    "finished": ("finished",),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One run in the list."""

    run: str
    name: str
    about: str
    state: str
    share: float
    """Of its shards that are finished, 0 to 1."""
    is_running: bool
    is_stopping: bool
    """It still runs and was asked to stop."""
    can_go_on: bool
    """It was interrupted or cancelled, and can be read."""
    told: str
    """How far it is; empty for a finished run."""
    begun: str = ""
    """UTC, ISO 8601."""
    seconds: float | None = None
    author: str = ""
    tier: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One condition of a run."""

    name: str
    kind: str
    n: int
    accuracy: str
    low: float | None
    high: float | None
    value: float | None
    statuses: str
    into: tuple[tuple[str, str], ...]
    """The commonest confusions, each with the query of its images."""
    images: str
    """Query of the images behind it."""
    link: str
    """Query of the page that explains it; empty where it cannot be explained there."""
    doubts: tuple[str, ...] = ()
    """Why its rates say little."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One class under one condition."""

    accuracy: Rate
    has_few: bool
    step: int
    """Its colour: 0 where all are right, `STEPS` where none is."""
    link: str
    """Query of the page that explains this class under this attack; empty where it cannot be explained there."""
    told: str
    images: str
    """Query of the images behind it."""


@dataclass(frozen=True, slots=True)
class Heat:
    """Robust accuracy by class and condition."""

    title: str
    columns: tuple[tuple[str, str], ...]
    """Short and full name of every condition."""
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    """A class with its cells; None where a condition has no image of it."""
    every: tuple[Cell, ...]
    """All classes together."""
    classes: int
    """How many there are, in the rows or not."""


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Everything of one model of a run."""

    title: str
    rows: tuple[Row, ...]
    heat: Heat | None
    warning: str
    notes: tuple[str, ...]
    """How to read the rates and the links, where they need an explanation."""


@dataclass(frozen=True, slots=True)
class Versus:
    """Candidate against baseline under one condition, on the same images."""

    name: str
    n: int
    difference: str
    """In points, with its interval."""
    only: tuple[int, int]
    """Images that only the candidate and that only the baseline got right."""
    p: str
    is_worst: bool


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """How far attacks on a run's candidate can be believed: one line per check, and what stands above and below them."""

    title: str
    scope: str
    """What was checked, so that the verdict is not read as one on the run's own figures."""
    verdict: str
    checks: tuple[tuple[str, str, str, str], ...]
    """Name and title, outcome, what was found, and when it fails."""
    about: str


@dataclass(frozen=True, slots=True)
class Agreed:
    """One threshold, what was found, and what that decides."""

    name: str
    outcome: str
    """`pass`, `fail`, `inconclusive`, or empty while nothing is decided."""
    agreed: str
    found: str
    n: int
    interval: str
    """The method and confidence of the interval."""
    reason: str
    """Why it is inconclusive."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One run."""

    line: Line
    facts: tuple[tuple[str, str], ...]
    """What it was made of, to be read beside the figures."""
    banner: str
    """What its tier is worth; empty for one that is evidence."""
    interim: str
    """What must be said while figures will still change; empty for a finished run."""
    thresholds: tuple[Agreed, ...]
    models: tuple[ModelPart, ...]
    pairings: tuple[Versus, ...]
    """The worst case first."""
    verdict: str
    """What all thresholds say together; empty where there are none."""
    left_out: str
    """Which attacks of the tier the model does not allow, and why; empty where all ran."""


def line(card: RunCard) -> Line:
    """Return a run's entry in the list."""
    state, total = card.state, max(1, card.state.total)
    results = [] if state.state == "finished" else [f"{state.done} of {state.total} parts"]
    if state.state == "running" and state.rate:
        results.append(f"{state.rate:.0f} images a second")
    if state.state == "running" and state.seconds_left is not None:
        results.append(f"{duration(state.seconds_left)} left")
    if state.message or card.problem:
        results.append(card.problem or state.message)
    about = f"{card.model} · {card.data} · {card.images:,} images" if card.model else ""
    is_running, can_go_on = state.state == "running", state.state in ("interrupted", "cancelled") and not card.problem
    is_stopping = is_running and state.is_stopping
    shown, share = "stopping" if is_stopping else state.state, state.done / total
    return Line(
        card.run, card.name, about, shown, share, is_running, is_stopping, can_go_on, " · ".join(results), card.begun,
        card.seconds, card.author, tier_title(card.tier), card.verdict,
    )  # fmt: skip


def listed(lines: Sequence[Line], *, order: str, find: str, state: str) -> tuple[Line, ...]:
    """Return the lines that hold a text and are in a state, in an order: a column's name, with `-` for the largest first."""
    name = order.removeprefix("-")
    if name not in COLUMNS:
        name, order = NEWEST.removeprefix("-"), NEWEST
    words = find.casefold().split()
    kept = [one for one in lines if _is_in(one, state) and all(word in _text(one) for word in words)]
    # Equal ones stay as the list has them, the newest first, whichever way round they are sorted.
    return tuple(sorted(kept, key=lambda one: _sorted_by(one, name), reverse=order.startswith("-")))


def _is_in(line: Line, state: str) -> bool:
    if state in STATES:
        return line.state in STATES[state]
    return state not in OUTCOMES or line.verdict == state


def _text(line: Line) -> str:
    shown = (
        line.name,
        line.run,
        line.about,
        line.author,
        line.tier,
        line.state,
        VERDICTS.get(line.verdict, ""),
        line.begun,
    )
    return " ".join(shown).casefold()


def _sorted_by(line: Line, name: str) -> tuple[bool, Any]:
    value = getattr(line, name)
    return (value is not None, value.casefold() if isinstance(value, str) else value or 0.0)


def moment(iso: str) -> str:
    """Return a date and time in UTC to the minute: `2026-11-30 16:14`; empty for none."""
    return iso[:16].replace("T", " ")


def panel(view: RunView) -> Panel:
    """Return a run with all that its finished shards add up to; its links lead to `attacks` at their default settings."""
    state, summary = view.card.state, view.summary
    interim = ""
    if summary.is_interim:
        interim = (
            f"Interim: {state.done} of {state.total} parts are done. These figures will change; nothing is decided yet."
        )
    return Panel(
        line(view.card),
        _facts(view),
        _banner(view.manifest.plan.tier),
        interim,
        tuple(_threshold(threshold, is_interim=summary.is_interim) for threshold in summary.thresholds),
        tuple(_model(model, view) for model in summary.models if model.conditions),
        tuple(sorted(map(_versus, summary.pairings), key=lambda one: not one.is_worst)),
        _sentence(run_verdict(summary)) if summary.thresholds else "",
        left_out(view.manifest.plan.tier, len(view.manifest.classes)),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def sanity(answer: Answer[AttackSanity], candidate: str) -> SanityCheck:
    """Return the attack sanity panel of a run's candidate; what was not run never reads as passed."""
    value = answer.value
    title = f"Can attacks on {candidate} be trusted?"
    if value is None:
        why = answer.message or "not run yet"
        state = "could not be made" if answer.state == "failed" else "are being made"
        return SanityCheck(
            title,
            "",
            f"The {len(CHECKS)} attack sanity checks {state}: {why}",
            (),
            LIMITS,
        )
    titles = {check.name: check for check in CHECKS}
    checks = tuple(
        (
            f"{result.check} {titles[result.check].title}",
            result.outcome,
            result.sentence,
            titles[result.check].fails_when,
        )
        for result in value.results
    )
    counts = {outcome: len(value.with_outcome(outcome)) for outcome in ("pass", "fail", "not run")}
    results = f"{counts['pass']} passed, {counts['fail']} failed, {counts['not run']} not run"
    verdict = {
        "fail": f"Attacks on {candidate} fail their sanity checks: {results}.",
        "incomplete": f"Nothing speaks against attacks on {candidate}, but not every check was run: {results}.",
        "pass": f"Nothing speaks against attacks on {candidate}: {results}.",
    }[value.verdict]
    scope = (
        f"Checked on the candidate alone, with attacks made for these checks on {value.images} of the run's images; "
        "the run's own attacks and figures are no part of it."
    )
    where = value.conditions
    transferred = f", transfer from {where.reference}" if where.reference else ""
    made = f"seed {where.seed}, {where.device}, {where.precision}{transferred}"
    return SanityCheck(
        title, scope, verdict, checks, f"{value.images} images, budget {value.epsilon}, {made}. {LIMITS}"
    )


def caution(answer: Answer[AttackSanity], summary: Summary) -> str:
    """Return what a passed run must not be taken for, where the checks speak against its attacks; else empty."""
    checks = answer.value
    if summary.is_interim or checks is None or checks.verdict != "fail":
        return ""
    if not any(item.outcome == "pass" and item.threshold.condition != CLEAN for item in summary.thresholds):
        return ""
    return (
        "Thresholds under attack are met, but attacks on this model fail their sanity checks (below): this is no pass."
    )


def rate(result: Rate) -> str:
    """Return a share with its interval, or that there are no images."""
    if result.value is None or result.low is None or result.high is None:
        return "no images"
    return measured(result.value, result.low, result.high)


def _model(model_result: ModelResult, view: RunView) -> ModelPart:
    worst = model_result.worst_case
    rows = [
        _row(condition, _link(condition, model_result, view), images_of(condition, model_result, view))
        for condition in model_result.conditions
    ]
    is_left_out = any(
        condition.kind != CLEAN and not _shown(condition, model_result, view) for condition in model_result.conditions
    )
    if worst is not None:
        rows.append(_row(worst, "", images_of(worst, model_result, view)))
    warning = (
        "" if model_result.is_monotone else "Accuracy rises with epsilon beyond its intervals: gradients may be masked."
    )
    notes = [IN_CASCADE] if any(condition.is_cumulative for condition in model_result.conditions) else []
    notes += [NOT_EXPLAINED] if is_left_out else []
    title = f"{model_result.model} ({model_result.role})"
    return ModelPart(title, tuple(rows), heat(model_result, view), warning, tuple(notes))


def _row(condition_result: ConditionResult, link: str, images: Images) -> Row:
    flows = tuple(
        (f"{flow.true} → {flow.into} ({flow.images})", images("fooled", classes=flow.true, into=flow.into))
        for flow in condition_result.confusion[:MOST_FLOWS]
    )
    accuracy = condition_result.accuracy
    return Row(
        condition_name(condition_result), condition_result.kind, accuracy.n, rate(accuracy), accuracy.low, accuracy.high,
        accuracy.value,
        status_counts(condition_result), flows, images(), link, condition_result.doubts,
    )  # fmt: skip


def _link(condition_result: ConditionResult, model: ModelResult, view: RunView) -> str:
    """Return the query of an image of the run under this very attack; empty where the levels cannot show it."""
    example = view.examples.get((model.role, condition_result.name))
    if example is None or not _shown(condition_result, model, view):
        return ""
    where = {"label": example.label, "outcome": example.outcome, "sample": example.sample}
    return _query(condition_result, model, view, **where)


def _threshold(decision: Decision, *, is_interim: bool) -> Agreed:
    asked = decision.threshold
    where = f"{asked.condition}, class {asked.label}" if asked.label else asked.condition
    shown = "no images yet" if decision.value is None else (
        measured(decision.value, decision.low or 0.0, decision.high or 0.0)
    )  # fmt: skip
    return Agreed(
        asked.name,
        "" if is_interim else decision.outcome,
        f"{METRIC_TITLES[asked.metric]} under {where} at least {100 * asked.at_least:g} %",
        shown,
        decision.n,
        f"Clopper-Pearson, {100 * asked.confidence:g} %",
        "" if is_interim else decision.reason,
    )


def tier_title(tier: str) -> str:
    """Return what the page calls a tier: a plan whose attacks were chosen by hand has none."""
    return tier if tier in TIERS or not tier else OWN_ATTACKS


def _banner(tier: str) -> str:
    if tier in TIERS:
        return "" if TIERS[tier].is_evidence else SCREENING
    return OWN_CHOICE


def _facts(view: RunView) -> tuple[tuple[str, str], ...]:
    card, manifest = view.card, view.manifest
    candidate = manifest.models[0]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions if version)
    facts = (
        ("Candidate", f"{candidate.name} {candidate.content_hash}"),
        ("Baseline", " ".join(f"{one.name} {one.content_hash}" for one in manifest.models[1:])),
        ("Data", f"{manifest.images.data} {manifest.images.content_hash}"),
        ("Images", f"{len(manifest.images.samples):,}, drawn with seed {manifest.plan.images.seed}"),
        ("Began (UTC)", moment(card.begun)),
        ("Took", "" if card.seconds is None else duration(card.seconds)),
        ("By", card.author),
        ("Tier", tier_title(card.tier)),
        ("Attribution", str(manifest.plan.method)),
        ("Seed", str(manifest.plan.seed)),
        ("Versions", versions),
        ("Run", card.run),
    )
    return tuple(fact for fact in facts if fact[1])


def heat(model: ModelResult, view: RunView, most: int | None = MOST_CLASSES) -> Heat | None:
    """Return robust accuracy by class and condition, the worst case last; None for a run of one class, or without rows.

    most: classes at most, those that fare worst where there are more, or None for all of them.
    """
    shown = [condition for condition in model.conditions if condition.kind in IN_MAP]
    shown += [model.worst_case] if model.worst_case and len(shown) > 2 else []
    if not shown or len(shown[0].classes) < 2:
        return None
    by_condition = [{class_.name: class_ for class_ in condition.classes} for condition in shown]
    names = _shown_classes(shown[-1], [class_.name for class_ in shown[0].classes], most)
    links = [(_link_maker(one, model, view), images_of(one, model, view)) for one in shown]
    rows = tuple(
        (
            name,
            tuple(
                _cell(condition, own.get(name), *link)
                for condition, own, link in zip(shown, by_condition, links, strict=True)
            ),
        )
        for name in names
    )
    columns = tuple((short_name(condition.name), condition_name(condition)) for condition in shown)
    return Heat(
        f"{model.model}, class by class",
        columns,
        rows,
        tuple(_total(one, images()) for one, (_, images) in zip(shown, links, strict=True)),
        len(shown[0].classes),
    )


def _total(condition: ConditionResult, images: str) -> Cell:
    accuracy = condition.accuracy
    told = f"All classes under {condition_name(condition)}: {rate(accuracy)} ({INTERVAL}), n = {accuracy.n}"
    return Cell(accuracy, accuracy.n < FEW, round(STEPS * (1 - (accuracy.value or 0.0))), "", told, images)


def _shown_classes(last: ConditionResult, names: list[str], most: int | None) -> list[str]:
    if most is None or len(names) <= most:
        return names
    ranked = sorted(
        (class_ for class_ in last.classes if class_.accuracy.value is not None),
        key=lambda class_: (class_.has_few, class_.accuracy.value or 0.0),
    )
    worst = {class_.name for class_ in ranked[:most]}
    return [name for name in names if name in worst]


def _cell(
    condition: ConditionResult, own: ClassResult | None, link: Callable[[ClassResult], str], images: Images
) -> Cell | None:
    if own is None or own.accuracy.value is None:
        return None
    step = round(STEPS * (1 - own.accuracy.value))
    told = f"{own.name} under {condition_name(condition)}: {rate(own.accuracy)} ({INTERVAL}), n = {own.accuracy.n}"
    return Cell(own.accuracy, own.has_few, step, link(own), told, images(classes=own.name))


def short_name(name: str) -> str:
    """Return what stands above a column: the attack and its epsilon, without its other settings."""
    stem, _, settings = name.partition(":")
    epsilon = next((part.removeprefix("eps=") for part in settings.split(",") if part.startswith("eps=")), "")
    return f"{stem} {epsilon}".strip()


def _link_maker(condition: ConditionResult, model: ModelResult, view: RunView) -> Callable[[ClassResult], str]:
    """Return what makes the query of a class under this attack: of an image it fooled, else of one that withstood."""
    if not _shown(condition, model, view):
        return lambda _: ""

    def link(own: ClassResult) -> str:
        outcome = next((name for name in ("fooled", "resisted") if own.statuses.get(name)), "")
        return _query(condition, model, view, label=own.name, outcome=outcome) if outcome else ""

    return link


def example_query(view: RunView, role: str, names: Sequence[str], classes: Sequence[str], outcome: str) -> str:
    """Return the query of an image that one of some conditions left so; empty where the levels can show none of them.

    classes: handles of true classes, any of which will do; none is any class.
    """
    (model,) = [one for one in view.summary.models if one.role == role]
    for condition in model.conditions:
        if condition.name not in names or not _shown(condition, model, view):
            continue
        example = view.examples.get((role, condition.name))
        if example and example.outcome == outcome and (not classes or example.label in classes):
            return _query(condition, model, view, label=example.label, outcome=outcome, sample=example.sample)
        for own in condition.classes:
            if own.statuses.get(outcome) and (not classes or own.name in classes):
                return _query(condition, model, view, label=own.name, outcome=outcome)
    return ""


def _shown(condition: ConditionResult, model: ModelResult, view: RunView) -> dict[str, str]:
    return shown_as(view.manifest, view.card.run, (condition.kind, condition.name, model.role))


def _query(condition: ConditionResult, model: ModelResult, view: RunView, **where: str) -> str:
    return image_query(view.manifest, view.card.run, (condition.kind, condition.name, model.role), where)


def _versus(pairing: Pairing) -> Versus:
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (pairing.difference, pairing.low, pairing.high)]
    return Versus(
        pairing.name,
        pairing.n,
        f"{points[0]} [{points[1]}, {points[2]}]",
        (pairing.only_candidate, pairing.only_baseline),
        f"< {SMALLEST_P}" if pairing.p_holm < SMALLEST_P else f"{pairing.p_holm:.3f}",
        pairing.name == WORST,
    )
