"""A run in words for people and in JSON for programs (shape: DESIGN section 11; fields are added, never renamed)."""

from __future__ import annotations

from typing import Any

from engine import serial
from engine.audit import summary, tiers, wording
from engine.audit.manifest import CANDIDATE
from engine.audit.runs import Run, State
from engine.audit.summary import ConditionResult, Decision, ModelResult, Pairing, Rate, Summary, of_clean

SHOWN = 3
"""Largest confusions told of each condition."""


def as_json(run: Run, state: State, found: Summary, seconds: float) -> dict[str, Any]:
    """Return what `audit --json` prints."""
    candidate, others = found.models[0], found.models[1:]
    told = {
        "run": run.id,
        "status": state.state,
        "is_interim": found.is_interim,
        "message": state.message,
        "shards": {"done": state.done, "total": state.total},
        "plan": run.manifest.plan.name,
        "data": run.manifest.images.data,
        **_model(candidate),
        "left_out": list(tiers.left_out(run.manifest.plan.tier, len(run.manifest.classes))),
        "verdict": "inconclusive" if found.is_interim else summary.verdict(found),
        "thresholds": [_threshold(one) for one in found.thresholds],
        "seconds": round(seconds, 3),
    }
    if others:
        told["baseline"] = _model(others[0])
        told["comparison"] = [_pairing(one) for one in found.pairings]
    return told


def text(run: Run, state: State, found: Summary) -> str:
    """Return the table that `audit` prints."""
    lines = [f"Run {run.id}: {state.state}{f' ({state.message})' if state.message else ''}"]
    if state.state in ("interrupted", "cancelled"):
        lines.append("The same command goes on.")
    if found.is_interim:
        lines.append(
            f"INTERIM: {state.done} of {state.total} shards. Blocks hold few classes each, so these figures will change."
        )
    for model in found.models:
        lines.append(f"{model.model} ({model.role}), {len(run.manifest.images.samples)} images planned")
        for one in (*model.conditions, *([model.worst_case] if model.worst_case else [])):
            lines += [_line(one), *(f"    ? {doubt}" for doubt in one.doubts)]
        if any(one.is_cumulative for one in model.conditions):
            lines.append(f"  {wording.ON_SURVIVORS}")
        if not model.is_monotone:
            lines.append("  Accuracy rises with an attack's strength beyond its intervals: gradients may be masked.")
    lines += [_pairing_line(one) for one in found.pairings]
    lines += [wording.left_out(run.manifest.plan.tier, len(run.manifest.classes))]
    lines += [_threshold_line(one) for one in found.thresholds]
    lines.append(f"Verdict: {wording.run_verdict(found)}")
    return "\n".join(filter(None, lines))


def progress_line(state: State) -> str:
    """Return how far a run is, in one line."""
    parts = [f"{state.done}/{state.total} shards"]
    if state.rate:
        parts.append(f"{state.rate:.1f} images/s")
    if state.seconds_left is not None and state.state == "running":
        parts.append(f"{wording.duration(state.seconds_left)} left")
    if state.state != "running":
        parts.append(state.state)
    return ", ".join(parts) + (f": {state.message}" if state.message else "")


def interim_line(found: Summary) -> str:
    """Return the candidate's worst case so far, marked as interim."""
    worst = found.models[0].worst_case
    if worst is None or not worst.accuracy.n:
        return ""
    return f"; interim worst case {_rate(worst.accuracy)}"


def _model(model: ModelResult) -> dict[str, Any]:
    clean = of_clean(model)
    attacked = [one for one in model.conditions if one is not clean]
    return {
        "model": model.model,
        "clean": None if clean is None else {**_accuracy(clean.accuracy, "accuracy"), **_details(clean)},
        "conditions": {one.name: _attacked(one) for one in attacked},
        "worst_case": None if model.worst_case is None else _attacked(model.worst_case),
        "curve": [
            {"attack": one.attack, "epsilon": one.epsilon, **_accuracy(one.accuracy, "robust_accuracy")}
            for one in model.curve
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
    asked = serial.flatten(one.threshold).value
    asked["class"] = asked.pop("label")
    rate = {"n": one.n, "value": one.value, "low": one.low, "high": one.high}
    return {**asked, "outcome": one.outcome, "reason": one.reason, **rate}


def _pairing(one: Pairing) -> dict[str, Any]:
    return serial.flatten(one).value


def _line(one: ConditionResult) -> str:
    flows = ", ".join(f"{flow.true} -> {flow.into} {flow.images}" for flow in one.confusion[:SHOWN])
    name, counts = wording.condition_name(one), wording.status_counts(one)
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
    found = "no images" if one.value is None else (
        f"{100 * one.value:.1f} % [{100 * (one.low or 0):.1f}, {100 * (one.high or 0):.1f}], n = {one.n}"
    )  # fmt: skip
    return (
        f"Threshold '{asked.name}': {one.outcome.upper()}: {asked.metric} under {where} at least "
        f"{100 * asked.at_least:g} %, found {found} (Clopper-Pearson {100 * asked.confidence:g} %)"
        f"{f'. {one.reason}' if one.reason else ''}"
    )


def _rate(rate: Rate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "no images"
    return f"{100 * rate.value:5.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}], n = {rate.n}"
