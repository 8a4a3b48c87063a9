"""Audit runs as rows and texts, and the form that plans one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from dashboard.protocol import Field
from dashboard.wording import measured
from engine import (
    CHECKS,
    IN_CASCADE,
    LIMITS,
    METHODS,
    METRIC_TITLES,
    TIERS,
    Answer,
    AttackCard,
    AttackSanity,
    BadInput,
    ConditionResult,
    DatasetCard,
    Decision,
    ModelCard,
    ModelResult,
    Pairing,
    Rate,
    RunCard,
    RunView,
    SettingCard,
    Summary,
    attack,
    attack_written,
    condition_name,
    duration,
    left_out,
    run_verdict,
    status_counts,
)

OUTCOMES = {"pass": "✔ met", "fail": "✘ not met", "inconclusive": "? cannot be told"}
MOST_FLOWS = 3
EXPLAINED = ("attack", "control", "curve")
"""Kinds of conditions that the levels can show."""
SEED = 0
"""The seed of every attack that the levels show."""
NOT_EXPLAINED = (
    "Rows without 'Explain' attacked no image, or with other settings or another seed than the levels show: there it "
    "would be another attack."
)
WORST, CLEAN = "worst-case", "clean"
SMALLEST_P = 0.001
USUAL_IMAGES: Final = 1000
USUAL_STRENGTH: Final = "8/255"
CUSTOM, NONE = "custom", "none"
CONDITIONS: Final = (("worst-case", "Worst case of all attacks"), ("clean", "Without attack"))
METRICS: Final = (
    ("accuracy", "Accuracy: right of all images"),
    ("robust-on-correct", "Robust accuracy on clean-correct images (1 − attack success rate)"),
)
FIELDS: Final[dict[tuple[str, ...], str]] = {("images", "count"): "count", ("images", "seed"): "seed"}
"""By place in a plan: the field of the form it is filled from, where that has another name."""
NUMBERS: Final = ("at_least", "confidence")
Values = Mapping[str, Any]


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
    doubts: tuple[str, ...] = ()
    """Why its rates say little."""


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
class Panel:
    """One run."""

    line: Line
    interim: str
    """What must be said while figures will still change; empty for a finished run."""
    thresholds: tuple[tuple[str, str, str, str], ...]
    """Name, what was agreed, what was found, and the outcome with its reason where it cannot be told."""
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
    results = [f"{state.done} of {state.total} parts"]
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
    return Line(card.run, card.name, about, shown, share, is_running, is_stopping, can_go_on, " · ".join(results))


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
        interim,
        tuple(_threshold(threshold, is_interim=summary.is_interim) for threshold in summary.thresholds),
        tuple(_model(model, view) for model in summary.models),
        tuple(sorted(map(_versus, summary.pairings), key=lambda one: not one.is_worst)),
        f"Verdict: {run_verdict(summary)}" if summary.thresholds else "",
        left_out(view.manifest.plan.tier, len(view.manifest.classes)),
    )


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
            f"The checks {state}: {why}",
            tuple((f"{c.name} {c.title}", "not run", "", c.fails_when) for c in CHECKS),
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
    rows = [_row(condition, _link(condition, model_result, view)) for condition in model_result.conditions]
    is_left_out = any(
        condition.kind in EXPLAINED and not _is_shown(condition.name, view) for condition in model_result.conditions
    )
    if worst is not None:
        rows.append(_row(worst, ""))
    warning = (
        "" if model_result.is_monotone else "Accuracy rises with epsilon beyond its intervals: gradients may be masked."
    )
    classes = (
        tuple(
            ClassRow(class_.name, rate(class_.accuracy), class_.accuracy.value, class_.has_few)
            for class_ in worst.classes
        )
        if worst
        else ()
    )
    notes = [IN_CASCADE] if any(condition.is_cumulative for condition in model_result.conditions) else []
    notes += [NOT_EXPLAINED] if is_left_out else []
    return ModelPart(f"{model_result.model} ({model_result.role})", tuple(rows), classes, warning, tuple(notes))


def _row(condition_result: ConditionResult, link: str) -> Row:
    flows = ", ".join(f"{flow.true} → {flow.into} ({flow.images})" for flow in condition_result.confusion[:MOST_FLOWS])
    accuracy = condition_result.accuracy
    return Row(
        condition_name(condition_result), condition_result.kind, accuracy.n, rate(accuracy), accuracy.low, accuracy.high,
        accuracy.value,
        status_counts(condition_result), flows, link, condition_result.doubts,
    )  # fmt: skip


def _link(condition_result: ConditionResult, model: ModelResult, view: RunView) -> str:
    """Return the query of an image of the run under this very attack; empty where the levels cannot show it."""
    example = view.examples.get((model.role, condition_result.name))
    if condition_result.kind not in EXPLAINED or example is None or not _is_shown(condition_result.name, view):
        return ""
    own = attack(condition_result.name)
    query = {"model": model.model, "data": view.card.data, "label": example.label, "attack": own.name}
    query |= {"epsilon": own.epsilon_text, "outcome": example.outcome, "sample": example.sample}
    return urlencode({key: value for key, value in query.items() if value})


def _is_shown(name: str, view: RunView) -> bool:
    """Whether the levels show this attack: all but its strength is at its default, and the seed is theirs."""
    try:
        return attack(name).is_standard and view.manifest.plan.seed == SEED
    except BadInput:  # A run of another version, whose attack is no longer there.
        return False


def _threshold(decision: Decision, *, is_interim: bool) -> tuple[str, str, str, str]:
    asked = decision.threshold
    where = f"{asked.condition}, class {asked.label}" if asked.label else asked.condition
    agreed = f"{METRIC_TITLES[asked.metric]} under {where} at least {100 * asked.at_least:g} %"
    shown = "no images" if decision.value is None else (
        f"{measured(decision.value, decision.low or 0.0, decision.high or 0.0)}, n = {decision.n}"
    )  # fmt: skip
    outcome = "not decided yet" if is_interim else OUTCOMES[decision.outcome]
    return asked.name, agreed, shown, f"{outcome}: {decision.reason}" if decision.reason and not is_interim else outcome


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


@dataclass(frozen=True, slots=True)
class Group:
    """Fields under one heading; `rows` names what can be added to it: attacks or thresholds."""

    title: str
    note: str
    fields: tuple[Field, ...]
    rows: str = ""


@dataclass(frozen=True, slots=True)
class AttackChoice:
    """An attack that can be added, with its declared settings."""

    name: str
    title: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """The whole form."""

    groups: tuple[Group, ...]
    attacks: tuple[AttackChoice, ...]
    threshold: tuple[Field, ...]


def build_form(
    models: Sequence[ModelCard], datasets: Sequence[DatasetCard], attacks: Sequence[AttackCard], methods: Sequence[str]
) -> Form:
    """Return the form for what a store holds and the engine offers."""
    strength = next((card.epsilon for card in datasets if card.epsilon), USUAL_STRENGTH)
    choices = tuple(
        AttackChoice(card.name, card.title, tuple(_setting(setting, card, strength) for setting in card.settings))
        for card in attacks
        if not card.is_control
    )
    return Form(
        (_subject(models, datasets), _attacks(strength), _method(methods), _thresholds()),
        choices,
        _threshold_fields(choices),
    )


def plan(values: object) -> dict[str, Any]:
    """Return what was filled in as the table of a plan; what is empty is left out, what is no form stays out.

    Texts that should be numbers and are not stay texts, so that the plan's own check tells what is wrong with them.
    """
    given: Values = values if isinstance(values, Mapping) else {}
    results: dict[str, Any] = {name: _text(given, name) for name in ("name", "model", "baseline", "data", "method")}
    if _text(given, "tier") != CUSTOM:
        results |= {name: _text(given, name) for name in ("tier", "epsilon")}
    results["seed"] = _whole(_text(given, "seed"))
    results["images"] = _filled({"count": _whole(_text(given, "count")), "seed": results["seed"]})
    results["attacks"] = [_attack(row) for row in _rows(given, "attacks")]
    results["controls"] = given.get("controls") is True
    results["thresholds"] = [_agreed(row) for row in _rows(given, "thresholds")]
    return _filled(results)


def field_of(place: Sequence[str | int]) -> str:
    """Return the field that a place in a plan was filled from, for example `count` or `thresholds-0-at_least`."""
    return FIELDS.get(tuple(map(str, place)), "-".join(map(str, place[:2] if place[:1] == ("attacks",) else place)))


def _subject(models: Sequence[ModelCard], datasets: Sequence[DatasetCard]) -> Group:
    names = tuple((card.name, card.name) for card in models)
    data = tuple((card.name, f"{card.name} ({card.count:,} images)") for card in datasets)
    count = min(USUAL_IMAGES, max((card.count for card in datasets), default=USUAL_IMAGES))
    return Group(
        "What is audited",
        "",
        (
            Field("name", "Name", "text", "Audit"),
            Field("model", "Candidate", "menu", names[0][0] if names else "", options=names),
            Field("baseline", "Baseline", "menu", "", "Compared on the same images.", (("", "none"), *names)),
            Field("data", "Data", "menu", data[0][0] if data else "", options=data),
            Field("count", "Images", "text", str(count), "Drawn from every class in proportion."),
            Field("seed", "Seed", "text", "0", "Of the drawn images, the attacks and the references."),
        ),
    )


def _attacks(strength: str) -> Group:
    tiers = tuple((tier.name, tier.title) for tier in TIERS.values())
    result = " ".join(f"{tier.title}: {tier.help}" for tier in TIERS.values())
    return Group(
        "Attacks",
        result,
        (
            Field("tier", "Tier", "menu", "standard", options=(*tiers, (CUSTOM, "Only the attacks added below"))),
            Field("epsilon", "Epsilon of the tier", "text", strength, "Largest change of a pixel, for example 8/255."),
            Field(
                "controls",
                "Noise controls",
                "check",
                "yes",
                "Random noise of the same size as the strongest attack, as a baseline.",
            ),
        ),
        "attacks",
    )


def _method(methods: Sequence[str]) -> Group:
    options = tuple((name, METHODS[name].title) for name in methods)
    return Group(
        "Feature maps",
        "",
        (
            Field(
                "method",
                "Attribution method",
                "menu",
                options[0][0],
                options=(*options, (NONE, "Not scored: answers alone")),
            ),
        ),
    )


def _thresholds() -> Group:
    note = "Agreed now: once the run starts they are part of what it is, like everything above, and cannot be changed."
    return Group("Thresholds", note, (), "thresholds")


def _threshold_fields(attacks: Sequence[AttackChoice]) -> tuple[Field, ...]:
    conditions = (*CONDITIONS, *((attack.name, f"{attack.title} ({attack.name})") for attack in attacks))
    return (
        Field("name", "Name", "text", "withstands the agreed attacks"),
        Field("condition", "Under", "menu", CONDITIONS[0][0], options=conditions),
        Field("metric", "Measured as", "menu", METRICS[0][0], options=METRICS),
        Field("at_least", "At least (0 to 1)", "text", "0.5"),
        Field("confidence", "Confidence (0 to 1)", "text", "0.95", "Of the Clopper-Pearson interval that decides."),
        Field("class", "Class", "text", "", "Empty for all."),
    )


def _setting(card: SettingCard, attack: AttackCard, strength: str) -> Field:
    """Return the field of an attack's setting; the strength of an Linf attack begins as that of the tier does."""
    label = card.name.replace("_", " ").capitalize()
    if card.choices:
        return Field(
            card.name, label, "menu", card.default, card.help, tuple((choice, choice) for choice in card.choices)
        )
    value = strength if card.name == "epsilon" and attack.norm == "linf" else card.default
    return Field(card.name, label, "text", value, f"{card.help} {card.low:g} to {card.high:g}.")


def _attack(row: Values) -> str:
    settings = row.get("settings")
    given = settings if isinstance(settings, Mapping) else {}
    return attack_written(_text(row, "name"), {str(name): _text(given, name) for name in given})


def _agreed(row: Values) -> dict[str, Any]:
    results: dict[str, Any] = {name: _text(row, name) for name in ("name", "condition", "metric", "class")}
    return _filled(results | {name: _number(_text(row, name)) for name in NUMBERS})


def _rows(values: Values, name: str) -> list[Values]:
    result = values.get(name)
    return [item for item in result if isinstance(item, Mapping)] if isinstance(result, list) else []


def _text(values: Values, name: str) -> str:
    result = values.get(name)
    return result.strip() if isinstance(result, str) else ""


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", [])}


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
