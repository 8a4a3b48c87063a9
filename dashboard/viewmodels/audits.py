"""Audit runs as they stand on the screen: how far each is, and what one has found so far."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from engine import (
    CHECKS,
    LIMITS,
    ON_SURVIVORS,
    Answer,
    ConditionResult,
    Credibility,
    Decision,
    ModelResult,
    Pairing,
    Rate,
    RunCard,
    RunView,
    condition_name,
    duration,
    status_counts,
)

OUTCOMES = {"pass": "✔ met", "fail": "✘ not met", "inconclusive": "? cannot be told with this many images"}
MOST_FLOWS = 3


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
    can_go_on: bool
    """It was interrupted or cancelled, and can be read."""
    told: str


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
    into: str
    link: str
    """Query of the page that explains it; empty where it cannot be explained there."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class under one condition."""

    name: str
    accuracy: str
    value: float | None
    has_few: bool


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Everything of one model of a run."""

    title: str
    rows: tuple[Row, ...]
    classes: tuple[ClassRow, ...]
    """Under the worst case."""
    warning: str
    note: str
    """How to read the rates; empty where they need no explanation."""


@dataclass(frozen=True, slots=True)
class Believed:
    """How far the attacks of a run can be believed: one line per check, and what stands above and below them."""

    verdict: str
    checks: tuple[tuple[str, str, str, str], ...]
    """Name and title, outcome, what was found, and when it fails."""
    about: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One run."""

    line: Line
    interim: str
    """What must be said while figures will still change; empty for a finished run."""
    thresholds: tuple[tuple[str, str, str, str], ...]
    """Name, what was agreed, what was found, outcome."""
    models: tuple[ModelPart, ...]
    pairings: tuple[str, ...]


def line(card: RunCard) -> Line:
    """Return a run's entry in the list."""
    state, total = card.state, max(1, card.state.total)
    told = [f"{state.done} of {state.total} parts"]
    if state.state == "running" and state.rate:
        told.append(f"{state.rate:.0f} images a second")
    if state.state == "running" and state.seconds_left is not None:
        told.append(f"{duration(state.seconds_left)} left")
    if state.message or card.problem:
        told.append(card.problem or state.message)
    about = f"{card.model} · {card.data} · {card.images:,} images" if card.model else ""
    is_running, can_go_on = state.state == "running", state.state in ("interrupted", "cancelled") and not card.problem
    share = state.done / total
    return Line(card.run, card.name, about, state.state, share, is_running, can_go_on, " · ".join(told))


def panel(view: RunView) -> Panel:
    """Return a run with all that its finished shards add up to."""
    state, summary = view.card.state, view.summary
    interim = ""
    if summary.is_interim:
        interim = (
            f"Interim: {state.done} of {state.total} parts are done. These figures will change; nothing is decided yet."
        )
    return Panel(
        line(view.card),
        interim,
        tuple(_threshold(one, is_interim=summary.is_interim) for one in summary.thresholds),
        tuple(_model(one, view.card.data) for one in summary.models),
        tuple(_pairing(one) for one in summary.pairings),
    )


def believed(answer: Answer[Credibility]) -> Believed:
    """Return the credibility panel; what was not run never reads as passed."""
    found = answer.value
    if found is None:
        why = answer.message or "not run yet"
        state = "could not be made" if answer.state == "failed" else "are being made"
        return Believed(
            f"The checks {state}: {why}",
            tuple((f"{c.name} {c.title}", "not run", "", c.fails_when) for c in CHECKS),
            LIMITS,
        )
    titles = {check.name: check for check in CHECKS}
    checks = tuple(
        (f"{one.check} {titles[one.check].title}", one.outcome, one.sentence, titles[one.check].fails_when)
        for one in found.results
    )
    counts = {outcome: len(found.with_outcome(outcome)) for outcome in ("pass", "fail", "not run")}
    told = f"{counts['pass']} passed, {counts['fail']} failed, {counts['not run']} not run"
    verdict = {
        "fail": f"These attacks must not be believed: {told}.",
        "incomplete": f"Nothing speaks against these attacks, but not every check was run: {told}.",
        "pass": f"Nothing speaks against these attacks: {told}.",
    }[found.verdict]
    where = found.conditions
    transferred = f", transfer from {where.reference}" if where.reference else ""
    made = f"seed {where.seed}, {where.device}, {where.precision}{transferred}"
    return Believed(verdict, checks, f"{found.images} images, budget {found.epsilon}, {made}. {LIMITS}")


def rate(found: Rate) -> str:
    """Return a share with its interval, or that there are no images."""
    if found.value is None or found.low is None or found.high is None:
        return "no images"
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _model(found: ModelResult, data: str) -> ModelPart:
    worst = found.worst_case
    rows = [_row(one, found.model, data) for one in found.conditions]
    if worst is not None:
        rows.append(_row(worst, found.model, data))
    warning = (
        ""
        if found.is_monotone
        else "Accuracy rises with an attack's strength beyond its intervals: gradients may be masked."
    )
    classes = (
        tuple(ClassRow(one.name, rate(one.accuracy), one.accuracy.value, one.has_few) for one in worst.classes)
        if worst
        else ()
    )
    note = ON_SURVIVORS if any(one.is_cumulative for one in found.conditions) else ""
    return ModelPart(f"{found.model} ({found.role})", tuple(rows), classes, warning, note)


def _row(found: ConditionResult, model: str, data: str) -> Row:
    flows = ", ".join(f"{flow.true} → {flow.into} ({flow.images})" for flow in found.confusion[:MOST_FLOWS])
    accuracy = found.accuracy
    return Row(
        condition_name(found), found.kind, accuracy.n, rate(accuracy), accuracy.low, accuracy.high, accuracy.value,
        status_counts(found), flows, _link(found, model, data),
    )  # fmt: skip


def _link(found: ConditionResult, model: str, data: str) -> str:
    if found.kind not in ("attack", "control", "curve"):
        return ""
    name, _, settings = found.name.partition(":")
    told = dict(part.split("=", 1) for part in settings.split(",") if "=" in part)
    view = {"model": model, "data": data, "attack": name, "epsilon": told.get("eps")}
    return urlencode({key: value for key, value in view.items() if value})


def _threshold(found: Decision, *, is_interim: bool) -> tuple[str, str, str, str]:
    asked = found.threshold
    where = f"{asked.condition}, class {asked.label}" if asked.label else asked.condition
    agreed = f"{asked.metric} under {where} at least {100 * asked.at_least:g} %"
    shown = "no images" if found.value is None else (
        f"{100 * found.value:.1f} % [{100 * (found.low or 0):.1f}, {100 * (found.high or 0):.1f}], n = {found.n}"
    )  # fmt: skip
    return asked.name, agreed, shown, "not decided yet" if is_interim else OUTCOMES[found.outcome]


def _pairing(found: Pairing) -> str:
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (found.difference, found.low, found.high)]
    return (
        f"{found.name}: candidate minus baseline {points[0]} points [{points[1]}, {points[2]}], n = {found.n}, "
        f"exact McNemar p = {found.p_holm:.2g} (Holm)"
    )
