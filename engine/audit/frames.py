"""Results of runs and evaluations as pandas tables, for notebooks and for CSV. Only who asks for them loads pandas.

from engine.audit import frames
from engine.store import Store
frames.conditions(Store("faultline-store"), RUN).query("kind == 'attack'")[["role", "name", "accuracy"]]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from engine import class_names
from engine.audit import results
from engine.audit.inside import Inside
from engine.audit.manifest import Condition, Manifest
from engine.audit.runs import Run
from engine.audit.shards import NO_TARGET, Rows
from engine.audit.summary import ConditionResult, ModelResult, Rate, Summary
from engine.errors import BadInput, harmless
from engine.store import Store, files

QUESTIONS: Final = ("sufficient", "transplant", "restore", "joint_restore")


def images(store: Store, run: str) -> pd.DataFrame:
    """Return one row per image and condition of a run, finished or not: answers, confidences, status and norms.

    `linf` and `l2` are of the change in [0, 1] units; classes stand by name. Raises UnknownName, StoreError.
    """
    opened = Run.open(store, run)
    gathered = results.gathered(opened.place, opened.manifest)
    parts = [
        _images(opened.manifest, condition, gathered[condition.folder])
        for condition in opened.manifest.conditions
        if condition.folder in gathered
    ]
    if not parts:
        raise BadInput(f"Run {run[:12]} has no finished shard yet.")
    return pd.concat(parts, ignore_index=True)


def conditions(store: Store, run: str) -> pd.DataFrame:
    """Return one row per model and condition: statuses, robust accuracy (Clopper-Pearson, 95 %) and doubts."""
    summary = _summary(store, run)
    rows = [_condition(model, one) for model in summary.models for one in _every(model)]
    return pd.DataFrame(rows)


def thresholds(store: Store, run: str) -> pd.DataFrame:
    """Return one row per agreed threshold: what it asks, what was found (Clopper-Pearson), and what that decides."""
    rows = [
        {
            "name": item.threshold.name, "condition": item.threshold.condition, "metric": item.threshold.metric,
            "at_least": item.threshold.at_least, "confidence": item.threshold.confidence, "outcome": item.outcome,
            "n": item.n, "value": item.value, "low": item.low, "high": item.high, "reason": item.reason,
        }
        for item in _summary(store, run).thresholds
    ]  # fmt: skip
    columns = [
        "name",
        "condition",
        "metric",
        "at_least",
        "confidence",
        "outcome",
        "n",
        "value",
        "low",
        "high",
        "reason",
    ]
    return pd.DataFrame(rows, columns=columns)


def layers(inside: Inside) -> pd.DataFrame:
    """Return one row per layer: shares of attack conductance and of scores over the images of a scope, with counts."""
    rows = [dataclasses.asdict(one) for one in inside.layers]
    return pd.DataFrame(rows).assign(n=inside.n, noise_n=inside.noise_n, clean_n=inside.clean_n)


def weak_maps(inside: Inside) -> pd.DataFrame:
    """Return one row per feature map that carries most of the attacks: mean conductance (Student's t, 95 %) and p above noise."""
    rows = [
        {
            "layer": one.layer, "channel": one.channel, "flow": one.flow.value, "flow_low": one.flow.low,
            "flow_high": one.flow.high, "n": one.flow.n, "noise": one.noise.value if one.noise else None,
            "noise_n": one.noise.n if one.noise else 0, "p_holm": one.p_value, "of_maps": inside.tested,
            "layer_mean": one.layer_mean,
        }
        for one in inside.maps
    ]  # fmt: skip
    return pd.DataFrame(rows)


def evaluation(values: dict[str, Any]) -> pd.DataFrame:
    """Return the JSON of `evaluate` as one row per method, question and size; rankings are rows of the question `ranking`.

    size: the share of each layer kept for `sufficient`, else the number of feature maps moved. A control that the classes do not
    allow is absent.
    """
    rows = []
    for method in values["methods"]:
        for question in (name for name in QUESTIONS if name in method):
            sizes = values["kept"] if question == "sufficient" else values["maps"]
            rows += _by_size(method["name"], question, sizes, method[question])
    for ranking in values.get("rankings", ()):
        rows += _by_size(ranking["name"], "ranking", values["maps"], ranking)
    return pd.DataFrame(rows)


def faithfulness(values: dict[str, Any]) -> pd.DataFrame:
    """Return the measures in the JSON of `evaluate` as one row per method, intervention, choice of maps and size.

    choice: `chosen` or `random`, which is layer-matched. CPR and CMD stand in every row of their curve. Methods without
    measures are absent.
    """
    rows = [
        {
            "method": method["name"], "intervention": intervention, "choice": choice, "size": size, "maps": maps,
            "faithfulness": one["value"], "low": one["low"], "high": one["high"],
            "cpr": line["cpr"]["value"], "cmd": line["cmd"]["value"],
        }
        for method in values["methods"]
        if (measures := method.get("measures"))
        for intervention in ("denoising", "noising")
        for choice, line in measures[intervention].items()
        if choice != "beyond"
        for size, maps, one in zip(measures["sizes"], measures["counts"], line["faithfulness"], strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _by_size(name: str, question: str, sizes: list[float], group: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {column: values for column, values in group.items() if isinstance(values, list)}
    return [
        {
            "method": name,
            "question": question,
            "size": size,
            **{column: values[k] for column, values in columns.items()},
        }
        for k, size in enumerate(sizes)
    ]


TABLES: Final[dict[str, Callable[[Store, str], pd.DataFrame]]] = {
    "images": images,
    "conditions": conditions,
    "thresholds": thresholds,
}
"""What `export` writes, one CSV file each."""


def export(store: Store, run: str, out: Path) -> dict[str, int]:
    """Write every table of a run to `out` as CSV and return the rows of each. Raises BadInput for files that exist."""
    taken = [name for name in TABLES if (out / f"{name}.csv").exists()]
    if taken:
        raise BadInput(f"{taken[0]}.csv exists already in {out.name}; choose another folder.")
    tables = {name: table(store, run) for name, table in TABLES.items()}
    with files.disk_errors("writing tables"):
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            files.write_file(out / f"{name}.csv", as_csv(table))
    return {name: len(table) for name, table in tables.items()}


def as_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV in which no text is a formula."""
    texts = {name: table[name].map(harmless) for name in table.columns if table[name].dtype in (object, "str")}
    content: str = table.assign(**texts).to_csv(index=False)
    return content.encode()


def _images(manifest: Manifest, condition: Condition, rows: Rows) -> pd.DataFrame:
    model = manifest.model(condition.role)
    named = [*class_names.handles(manifest.classes), None]

    def classes(places: Iterable[int]) -> list[str | None]:
        return [named[place] if 0 <= place < len(named) else None for place in places]

    return pd.DataFrame({
        "role": condition.role, "model": model.name, "condition": condition.name, "sample": rows.samples,
        "name": rows.names, "true_class": classes(rows.labels), "before": classes(rows.before),
        "before_confidence": rows.before_confidence, "after": classes(rows.after),
        "after_confidence": rows.after_confidence, "status": rows.status, "linf": rows.linf, "l2": rows.l2,
        "in_budget": rows.in_budget, "target": classes(-1 if target == NO_TARGET else target for target in rows.targets),
        "image_hash": rows.image_hashes,
    })  # fmt: skip


def _summary(store: Store, run: str) -> Summary:
    opened = Run.open(store, run)
    if results.is_finished(opened.place):
        return results.read_summary(opened.place, opened.manifest)
    return results.interim(opened.place, opened.manifest)


def _every(model: ModelResult) -> tuple[ConditionResult, ...]:
    return (*model.conditions, *([model.worst_case] if model.worst_case else []))


def _condition(model: ModelResult, one: ConditionResult) -> dict[str, Any]:
    return {
        "role": model.role, "model": model.model, "name": one.name, "kind": one.kind, "attempted": one.attempted,
        **one.statuses, "outside_budget": one.outside_budget, **_rate("accuracy", one.accuracy),
        **_rate("resistance", one.resistance), "is_cumulative": one.is_cumulative, "doubts": " ".join(one.doubts),
    }  # fmt: skip


def _rate(name: str, rate: Rate) -> dict[str, Any]:
    return {f"{name}_n": rate.n, name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
