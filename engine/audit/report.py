"""A run in words and figures: forecast, report, progress, what the page watches, images to look at."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from engine import class_names, serialization
from engine.audit import manifest as manifests
from engine.audit import results, runs, shards, summary, tiers
from engine.audit.manifest import CANDIDATE, Condition, Manifest, Place, Role
from engine.audit.plan import METRIC_TITLES
from engine.audit.runs import AuditLog, History, Run, State, state_of
from engine.audit.shards import Rows
from engine.audit.summary import ConditionResult, Decision, ModelResult, Pairing, Rate, Summary, Verdict, of_clean
from engine.audit.tiers import CHECKED_IMAGES
from engine.errors import EngineError
from engine.specs import catalogue, threat_model
from engine.specs.threat_model import Cost
from engine.store import Store, files
from engine.types.checks import Setup
from engine.types.core import Status
from engine.types.requests import Pace

HOUR, MINUTE = 3600, 60
ORDER: Final[tuple[Status, ...]] = ("clean_wrong", "fooled", "resisted", "unperturbed", "failed", "broken_before")
STATUS: Final[dict[Status, str]] = {
    "clean_wrong": "clean wrong",
    "fooled": "fooled",
    "resisted": "resisted",
    "unperturbed": "unperturbed",
    "failed": "failed",
    "broken_before": "not attacked: broken already",
}
UNATTACKED: Final[dict[Status, str]] = {**STATUS, "unperturbed": "right", "clean_wrong": "wrong"}
"""The same without an attack."""

VERDICTS: Final[dict[Verdict, str]] = {
    "pass": "PASS: every threshold is met.",
    "fail": "FAIL: not every threshold is met.",
    "inconclusive": "INCONCLUSIVE: not every threshold could be decided; the reason stands beside it.",
    "nothing to decide": "none: no thresholds were agreed before this run, so it decides nothing.",
}
IN_CASCADE: Final = (
    "In the cascade: attacked were only images that no earlier attack broke; those count as broken here too."
)


def duration(seconds: float) -> str:
    """Return a length of time in the two largest units."""
    whole = round(seconds)
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // MINUTE} min {whole % MINUTE} s" if whole >= MINUTE else f"{whole} s"


def about(seconds: float) -> str:
    """Return a length of time as exactly as an estimate deserves: whole seconds below two minutes, then whole minutes."""
    return (
        f"{seconds:.0f} s" if seconds < 2 * MINUTE else duration(MINUTE * round(seconds / MINUTE)).removesuffix(" 0 s")
    )


def run_verdict(result: Summary) -> str:
    """Return what the thresholds of a run say together, in one line."""
    if result.is_interim:
        return "not decided yet: the run is not finished."
    return VERDICTS[summary.verdict(result)]


def left_out(tier: str, classes: int) -> str:
    """Return which attacks of a tier do not apply to a model of so many classes, and why; empty where all do."""
    result = tiers.left_out(tier, classes)
    return f"Left out of the tier '{tier}': {' '.join(result)}" if result else ""


def status_counts(condition_result: ConditionResult) -> str:
    """Return how the images of a condition ended, for example `85 clean wrong, 915 fooled`."""
    words = UNATTACKED if condition_result.kind == "clean" else STATUS
    results = [
        f"{condition_result.statuses[name]} {words[name]}" for name in ORDER if condition_result.statuses.get(name)
    ]
    if condition_result.outside_budget:
        results.append(f"{condition_result.outside_budget} outside their budget, left out")
    return ", ".join(results)


def condition_name(condition_result: ConditionResult) -> str:
    """Return a condition's name, the share of the area where its id holds one, and that it ran in the cascade where it did."""
    is_area = condition_result.kind in ATTACKING and catalogue.measure_of(condition_result.name).scale == "area"
    notes = [
        catalogue.attack(condition_result.name).strength_text if is_area else "",
        "in the cascade" if condition_result.is_cumulative else "",
    ]
    shown = ", ".join(filter(None, notes))
    return f"{condition_result.name} ({shown})" if shown else condition_result.name


ATTACKING: Final = ("attack", "control", "curve")
"""Kinds of conditions whose name is the id of an attack."""
CASCADE: Final = (0.02, 0.5)
"""Shares of images that the attacks on every image leave, between which the estimate runs: an ordinary network, a robust one."""
SOME_BUDGET: Final = Fraction(8, 255)
"""What the checks cost does not depend on their budget."""
JUDGED: Final[dict[str, Cost]] = {"clean": Cost(0, 1), "premade": Cost(0, 2)}
"""What images cost that are not attacked here, by kind of condition."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run costs: from few unbroken images to many. Attacks that stop early make it less."""

    images: int
    passes_low: float
    """Per image and over all models, in units of one forward with backward; scoring feature maps is not in it."""
    passes_high: float
    seconds_low: float
    """In all, on one worker, with the scoring of feature maps."""
    seconds_high: float
    checks_seconds: float
    """Of the attack sanity checks, which are made once somebody opens the run's page; at most."""


def forecast(manifest: Manifest, paces: Mapping[Role, Pace]) -> Forecast:
    """Return what a run costs at the measured pace of each of its models."""
    costs = [list(_costs(manifest, paces, share)) for share in CASCADE]
    passes = [sum(item[0] for item in own) for own in costs]
    images = len(manifest.images.samples)
    seconds = [images * sum(item[1] for item in own) for own in costs]
    return Forecast(images, passes[0], passes[1], seconds[0], seconds[1], _checks(manifest, paces[CANDIDATE]))


def forecast_text(name: str, forecast: Forecast) -> str:
    """Return an estimate in one line, for example `standard: 51 to 93 passes per image, 12 to 25 min on one worker`."""
    passes = _between(f"{forecast.passes_low:.0f}", f"{forecast.passes_high:.0f}")
    time = _between(about(forecast.seconds_low), about(forecast.seconds_high))
    checks = f"its page's checks take another {about(forecast.checks_seconds)}"
    return f"{name}: {forecast.images:,} images, {passes} passes per image, about {time} on one worker; {checks}"


def _costs(manifest: Manifest, paces: Mapping[Role, Pace], share: float) -> Iterator[tuple[float, float]]:
    """Yield passes and seconds per image of every condition if a share of the images survives what comes before."""
    for condition in manifest.conditions:
        pace, cost = paces[condition.role], _cost(condition, len(manifest.classes))
        weight = share if condition.after else 1.0
        seconds = _seconds(cost, pace)
        explained = pace.explain_seconds if manifest.scores(condition) else 0.0
        yield weight * seconds / pace.pass_seconds, weight * (seconds + explained)


def _cost(condition: Condition, classes: int) -> Cost:
    return JUDGED.get(condition.kind) or tiers.cost(condition.attack, classes)


def _checks(manifest: Manifest, pace: Pace) -> float:
    every, left = tiers.check_cost(Setup("", SOME_BUDGET), len(manifest.classes))
    images = min(len(manifest.images.samples), tiers.CHECKED_IMAGES)
    return images * (_seconds(every, pace) + CASCADE[1] * _seconds(left, pace))


def _seconds(cost: Cost, pace: Pace) -> float:
    """Per image."""
    return cost.passes * pace.pass_seconds + cost.forwards * pace.forward_seconds


def _between(low: str, high: str) -> str:
    """Return a range; a unit that both ends share is written once."""
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    is_shared = unit and high.count(" ") == 1 and high.endswith(f" {unit}")
    return f"{number if is_shared else low} to {high}"


SHOWN = 3
"""Largest confusions told of each condition."""


def as_json(run: Run, state: State, result: Summary, seconds: float) -> dict[str, Any]:
    """Return what `audit --json` prints."""
    candidate, others = result.models[0], result.models[1:]
    results = {
        "run": run.id,
        "status": state.state,
        "is_interim": result.is_interim,
        "message": state.message,
        "shards": {"done": state.done, "total": state.total},
        "plan": run.manifest.plan.name,
        "data": run.manifest.images.data,
        **_model(candidate),
        "left_out": list(tiers.left_out(run.manifest.plan.tier, len(run.manifest.classes))),
        "verdict": "inconclusive" if result.is_interim else summary.verdict(result),
        "thresholds": [_threshold(threshold) for threshold in result.thresholds],
        "seconds": round(seconds, 3),
    }
    if others:
        results["baseline"] = _model(others[0])
        results["comparison"] = [_pairing(pairing) for pairing in result.pairings]
    return results


def text(run: Run, state: State, summary: Summary) -> str:
    """Return the table that `audit` prints."""
    lines = [f"Run {run.id}: {state.state}{f' ({state.message})' if state.message else ''}"]
    if state.state in ("interrupted", "cancelled"):
        lines.append("The same command goes on.")
    if summary.is_interim:
        lines.append(
            f"INTERIM: {state.done} of {state.total} shards. Blocks hold few classes each, so these figures will change."
        )
    for model in summary.models:
        images = len(run.manifest.images.samples)
        lines.append(f"{model.model} ({model.role}), {images} images planned; Clopper-Pearson intervals, 95 %")
        for item in (*model.conditions, *([model.worst_case] if model.worst_case else [])):
            lines += [_line(item), *(f"    ? {doubt}" for doubt in item.doubts)]
        if any(condition.is_cumulative for condition in model.conditions):
            lines.append(f"  {IN_CASCADE}")
        if not model.is_monotone:
            lines.append("  Accuracy rises with epsilon beyond its intervals: gradients may be masked.")
    lines += [_pairing_line(pairing) for pairing in summary.pairings]
    lines += [left_out(run.manifest.plan.tier, len(run.manifest.classes))]
    lines += [_threshold_line(threshold) for threshold in summary.thresholds]
    lines.append(f"Verdict: {run_verdict(summary)}")
    return "\n".join(filter(None, lines))


def progress_line(state: State) -> str:
    """Return how far a run is, in one line."""
    parts = [f"{state.done}/{state.total} shards"]
    if state.rate:
        parts.append(f"{state.rate:.1f} images/s")
    if state.seconds_left is not None and state.state == "running":
        parts.append(f"{duration(state.seconds_left)} left")
    if state.state != "running":
        parts.append(state.state)
    return ", ".join(parts) + (f": {state.message}" if state.message else "")


def interim_line(summary: Summary) -> str:
    """Return the candidate's worst case so far, marked as interim."""
    worst = summary.models[0].worst_case
    if worst is None or not worst.accuracy.n:
        return ""
    return f"; interim worst case {_rate(worst.accuracy)}"


def _model(model: ModelResult) -> dict[str, Any]:
    clean = of_clean(model)
    attacked = [condition for condition in model.conditions if condition is not clean]
    return {
        "model": model.model,
        "clean": None if clean is None else {**_accuracy(clean.accuracy, "accuracy"), **_details(clean)},
        "conditions": {item.name: _attacked(item) for item in attacked},
        "worst_case": None if model.worst_case is None else _attacked(model.worst_case),
        "curve": [
            {
                "attack": item.attack,
                "epsilon": item.epsilon,
                "strength": catalogue.measure_of(item.attack).text(item.epsilon),
                **_accuracy(item.accuracy, "robust_accuracy"),
            }
            for item in model.curve
        ],
        "curve_is_monotone": model.is_monotone,
    }


def _attacked(one: ConditionResult) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "is_cumulative": one.is_cumulative,
        **_accuracy(one.accuracy, "robust_accuracy"),
        "fooled": one.statuses["fooled"],
        "resistance": _accuracy(one.resistance, "value"),
        "outside_budget": one.outside_budget,
        **_details(one),
    }


def _details(one: ConditionResult) -> dict[str, Any]:
    classes = {
        own.name: {**_accuracy(own.accuracy, "accuracy"), "statuses": own.statuses, "has_few": own.has_few}
        for own in one.classes
    }
    confusion = [{"true": flow.true, "into": flow.into, "images": flow.images} for flow in one.confusion]
    return {
        "attempted": one.attempted,
        "statuses": one.statuses,
        "doubts": list(one.doubts),
        "classes": classes,
        "confusion": confusion,
    }


def _accuracy(rate: Rate, name: str) -> dict[str, Any]:
    return {"n": rate.n, name: rate.value, "low": rate.low, "high": rate.high}


def _threshold(one: Decision) -> dict[str, Any]:
    asked = serialization.flatten(one.threshold).value
    asked["class"] = asked.pop("label")
    rate = {"n": one.n, "value": one.value, "low": one.low, "high": one.high}
    return {**asked, "outcome": one.outcome, "reason": one.reason, **rate}


def _pairing(one: Pairing) -> dict[str, Any]:
    return serialization.flatten(one).value


def _line(one: ConditionResult) -> str:
    flows = ", ".join(f"{flow.true} -> {flow.into} {flow.images}" for flow in one.confusion[:SHOWN])
    name, counts = condition_name(one), status_counts(one)
    return f"  {name:<42} {_rate(one.accuracy)}  ({counts}){f'  {flows}' if flows else ''}"


def _pairing_line(one: Pairing) -> str:
    return (
        f"  {CANDIDATE} - baseline, {one.name}: {100 * one.difference:+.1f} points "
        f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}], n = {one.n}, McNemar p = {one.p_value:.2g} "
        f"(Holm {one.p_holm:.2g})"
    )


def _threshold_line(one: Decision) -> str:
    asked = one.threshold
    where = f"{asked.condition}{f', class {asked.label}' if asked.label else ''}"
    result = "no images" if one.value is None else (
        f"{100 * one.value:.1f} % [{100 * (one.low or 0):.1f}, {100 * (one.high or 0):.1f}], n = {one.n}"
    )  # fmt: skip
    return (
        f"Threshold '{asked.name}': {one.outcome.upper()}: {METRIC_TITLES[asked.metric]} under {where} at least "
        f"{100 * asked.at_least:g} %, found {result} (Clopper-Pearson {100 * asked.confidence:g} %)"
        f"{f'. {one.reason}' if one.reason else ''}"
    )


def _rate(rate: Rate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "no images"
    return f"{100 * rate.value:5.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}], n = {rate.n}"


COLUMNS: Final = ("role", "condition", "sample", "label", "after", "status")


@dataclass(frozen=True, slots=True)
class Example:
    """An image of a condition: of the most frequent confusion where any was fooled, else the first that resisted."""

    sample: str
    label: str
    """Name of its class, or `name@index` where the name stands twice."""
    outcome: Literal["fooled", "resisted"]


Examples = dict[tuple[str, str], Example]
"""By role and condition; one under which no image was fooled or resisted has none."""


def of_run(place: Place, manifest: Manifest) -> Examples:
    """Return the examples of a finished run; raises StoreError."""
    table = results.read_table(place, COLUMNS)
    handles = class_names.handles(manifest.classes)
    is_own = {
        (condition.role, condition.name): pc.and_(
            pc.equal(table["role"], condition.role), pc.equal(table["condition"], condition.name)
        )
        for condition in manifest.conditions
    }
    return _examples({where: table.filter(mask) for where, mask in is_own.items()}, handles)


def of_rows(values: Mapping[str, Rows], manifest: Manifest) -> Examples:
    """Return the examples of what a run has so far, its rows by condition folder."""
    tables: dict[tuple[str, str], pa.Table] = {
        (condition.role, condition.name): shards.plain_table(values[condition.folder])
        for condition in manifest.conditions
        if condition.folder in values
    }
    return _examples(tables, class_names.handles(manifest.classes))


def _examples(tables: Mapping[tuple[str, str], pa.Table], classes: Sequence[str]) -> Examples:
    examples = {where: _fooled(table, classes) or _resisted(table, classes) for where, table in tables.items()}
    return {where: one for where, one in examples.items() if one is not None}


def _fooled(table: pa.Table, classes: Sequence[str]) -> Example | None:
    fooled = table.filter(pc.equal(table["status"], "fooled"))
    if not len(fooled):
        return None
    flows = fooled.group_by(["label", "after"]).aggregate([([], "count_all")]).to_pylist()
    largest = min(flows, key=lambda flow: (-flow["count_all"], flow["label"], flow["after"]))
    is_in = pc.and_(pc.equal(fooled["label"], largest["label"]), pc.equal(fooled["after"], largest["after"]))
    return Example(fooled.filter(is_in)["sample"][0].as_py(), classes[largest["label"]], "fooled")


def _resisted(table: pa.Table, classes: Sequence[str]) -> Example | None:
    resisted = table.filter(pc.equal(table["status"], "resisted"))
    if not len(resisted):
        return None
    return Example(resisted["sample"][0].as_py(), classes[resisted["label"][0].as_py()], "resisted")


USUAL = Fraction(8, 255)
"""Budget of the checks where a run has no attack on pixels."""


@dataclass(frozen=True, slots=True)
class RunCard:
    """One run in a list."""

    run: str
    name: str
    model: str
    data: str
    images: int
    state: State
    problem: str = ""
    """Why the run cannot be read, when that is so; its other fields are then empty."""
    tier: str = ""
    baseline: str = ""
    verdict: Verdict | Literal[""] = ""
    """What its thresholds say together; empty until it is finished."""
    begun: str = ""
    """UTC, ISO 8601."""
    seconds: float | None = None
    """In which it was driven; None where no log tells."""
    author: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class RunView:
    """One run as far as it has come."""

    card: RunCard
    manifest: Manifest
    summary: Summary
    """Interim until the run is finished."""
    examples: Mapping[tuple[str, str], Example] = field(default_factory=dict)
    """By role and condition: an image that stands for how it ended; none where no image was fooled or resisted."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the attack sanity checks of a run are made on."""

    model: str
    data: str
    samples: tuple[str, ...]
    epsilon: str
    reference: str
    """The baseline, or empty."""


def checked(store: Store, run: str) -> Checked:
    """Return the candidate, evenly spread images of a run, and its largest pixel budget; raises UnknownName, StoreError."""
    manifest = Run.open(store, run).manifest
    samples = manifest.images.samples
    step = max(1, len(samples) // CHECKED_IMAGES)
    specs = (*manifest.plan.attacks, *manifest.plan.in_cascade, *manifest.plan.curve)
    budgets = [spec.epsilon for spec in specs if spec.epsilon is not None and spec.norm is threat_model.LINF]
    return Checked(
        manifest.model(CANDIDATE).name,
        manifest.images.data,
        samples[::step][:CHECKED_IMAGES],
        str(max(budgets, default=USUAL)),
        manifest.plan.baseline,
    )


def listed(store: Store) -> tuple[RunCard, ...]:
    """Return the cards of all runs, the newest first. One that cannot be read says why."""
    known = _histories(store)
    cards = [_dated(_card_or_problem(store, run), store, known) for run in manifests.listed(store.root)]
    return tuple(sorted(cards, key=lambda card: (card.begun, card.run), reverse=True))


def card(store: Store, opened: Run) -> RunCard:
    """Return the card of a run as it is now."""
    return _dated(_decided(_about(opened.manifest).card(opened.state()), opened.place), store, _histories(store))


def _histories(store: Store) -> Mapping[str, History]:
    """Return what the log tells of each run; nothing where it cannot be believed, which `verify` says."""
    path = store.root / runs.FILE
    try:
        status = path.stat() if path.exists() else None
        return _logged(store.root, status.st_mtime_ns, status.st_size) if status else {}
    except (EngineError, OSError):
        return {}


@functools.lru_cache(maxsize=8)
def _logged(root: Path, changed: int, size: int) -> Mapping[str, History]:
    """Keep what a log says until it grows: every look at the page would check all of its lines."""
    del changed, size
    return runs.histories(AuditLog(root).events())


def _dated(card: RunCard, store: Store, known: Mapping[str, History]) -> RunCard:
    """Return a card with what the log tells of its run; without a log its files tell the date."""
    history = known.get(card.run)
    now = datetime.datetime.now(datetime.UTC)
    if history is None:
        written = manifests.place(store.root, card.run).manifest.stat().st_mtime
        begun = datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="milliseconds")
        return replace(card, begun=begun)
    open_seconds = 0.0
    if history.since and card.state.state == "running":
        open_seconds = runs.seconds_between(history.since, now.isoformat())
    return replace(card, begun=history.begun, author=history.author, seconds=history.seconds + open_seconds)


def _decided(card: RunCard, place: Place) -> RunCard:
    """Return a card with the verdict of a finished run."""
    if card.state.state != "finished":
        return card
    with files.disk_errors("reading a result"):
        status = (place.result / results.SEAL).stat()
    return replace(card, verdict=_verdict(place, status.st_mtime_ns))


@functools.lru_cache(maxsize=4096)
def _verdict(place: Place, changed: int) -> Verdict:
    """Keep the one word that a list shows of a summary of megabytes."""
    del changed
    return summary.verdict(results.read_summary(place, manifests.read(place)))


def view(opened: Run, now: RunCard) -> RunView:
    """Return a run with what its finished shards add up to; raises StoreError."""
    place, manifest = opened.place, opened.manifest
    if now.state.state == "finished":
        return RunView(now, manifest, results.read_summary(place, manifest), of_run(place, manifest))
    gathered = results.gathered(place, manifest)
    return RunView(now, manifest, summary.summarise(manifest, gathered, is_interim=True), of_rows(gathered, manifest))


@dataclass(frozen=True, slots=True)
class _About:
    """What never changes on a run's card."""

    name: str
    model: str
    data: str
    images: int
    shards: int
    tier: str
    baseline: str

    def card(self, state: State) -> RunCard:
        own = RunCard(state.run, self.name, self.model, self.data, self.images, state)
        return replace(own, tier=self.tier, baseline=self.baseline)


def _about(manifest: Manifest) -> _About:
    count = len(manifest.images.samples)
    plan, model, data = manifest.plan, manifest.model(CANDIDATE).name, manifest.images.data
    return _About(plan.name, model, data, count, manifest.shards, plan.tier, plan.baseline)


@functools.lru_cache(maxsize=4096)
def _about_stored(place: Place, changed: int, size: int) -> _About:
    """Keep the little that a list shows: the manifest of 50,000 images takes megabytes, and a store may hold hundreds."""
    del changed, size
    return _about(manifests.read(place))


def _card_or_problem(store: Store, run: str) -> RunCard:
    try:
        place = manifests.place(store.root, run)
        with files.disk_errors("reading a run"):
            status = place.manifest.stat()
        about = _about_stored(place, status.st_mtime_ns, status.st_size)
        return _decided(about.card(state_of(place, about.shards)), place)
    except EngineError as error:
        return RunCard(run, run[:12], "", "", 0, State(run, "interrupted", 0, 0), str(error))
