"""An evaluation as JSON (the shape that other programs read) and as a table for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from engine import methods
from engine.evaluation import trials
from engine.evaluation.trials import Estimates
from engine.evaluation.walk import Evaluation, MethodRow
from engine.statistics import Estimate

HEADLINES = {"sufficient": "agreement", "transplant": "carried", "restore": "restored", "joint_restore": "restored"}
"""The column whose interval is called plain `low` and `high`; any other column's is `<column>_low`, `<column>_high`."""


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return the documented JSON."""
    request = found.request
    return {
        "model": found.model,
        "data": found.data,
        "attack": request.attack,
        "images": found.images,
        "first": request.first,
        "fooled": found.fooled,
        "seed": request.seed,
        "sites": found.sites,
        "total_maps": found.total_maps,
        "left_out": list(found.left_out),
        "kept": list(trials.KEPT),
        "maps": list(found.maps),
        "seconds": found.seconds,
        "methods": [_method(row) for row in found.rows],
    }


def text(found: dict[str, Any]) -> str:
    """Return the JSON of an evaluation as a table: percentages with their 95 % intervals."""
    kept = [f"{share:.0%}" for share in found["kept"]]
    maps = [str(count) for count in found["maps"]]
    rows = found["methods"]
    lines = [
        f"{found['model']} on {found['data']}: {found['images']} correctly classified images from index "
        f"{found['first']} on, {found['fooled']} fooled by {found['attack']}; {found['sites']} sites, "
        f"{found['total_maps']} feature maps. Percent [95 % interval].",
        f"No claim may choose maps of {', '.join(found['left_out'])}: a few of them carry any answer trivially.",
        *_section("Sufficient: a share of every site kept, the rest zeroed; the answer stays", kept),
        *_rates(rows, "sufficient", ("agreement", "wrong_class", "swap")),
        *_means(rows, "sufficient", "kl"),
        *_section("Transplant: maps copied into another class's run; the label goes over", maps),
        *_rates(rows, "transplant", ("carried", "wrong_class", "swap")),
        *_section("Restore: clean maps put back into the adversarial run; the label returns", maps),
        *_rates(rows, "restore", ("restored", "wrong_class", "noisy_copy", "swap")),
        *_rates([row for row in rows if "joint_restore" in row], "joint_restore", ("restored", "wrong_class")),
        *_section("One site at a time, the others whole", kept),
        *_rates(rows, "one_site", ("keep", "swap")),
        *_scalars(rows),
        *_unaimed(rows),
    ]
    return "\n".join(lines)


def _method(row: MethodRow) -> dict[str, Any]:
    found = {
        "name": row.name,
        "title": methods.method(row.name).title,
        "takes_aim": methods.method(row.name).takes_aim,
        "passes_per_image": row.passes_per_image,
        "seconds_per_image": row.seconds_per_image,
        "one_site": _columns(row.one_site, ""),
        **_columns(row.stability, ""),
    }
    for name, headline in HEADLINES.items():
        if getattr(row, name) is not None:
            found[name] = _columns(getattr(row, name), headline)
    return found


def _columns(record: Any, headline: str) -> dict[str, Any]:
    """Flatten a record of estimates: values under their own name, bounds beside them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value, prefix = getattr(record, field.name), "" if field.name == headline else f"{field.name}_"
        if value is None:
            found[field.name] = None
        elif isinstance(value, Estimate):
            found |= {field.name: value.value, f"{prefix}low": value.low, f"{prefix}high": value.high}
        elif isinstance(value, tuple):
            found |= _lists(field.name, prefix, value)
        else:
            found[field.name] = _columns(value, "")
    return found


def _lists(name: str, prefix: str, values: Estimates) -> dict[str, list[float]]:
    return {
        name: [one.value for one in values],
        f"{prefix}low": [one.low for one in values],
        f"{prefix}high": [one.high for one in values],
    }


def _section(title: str, heads: Iterable[str]) -> list[str]:
    return ["", title, f"{'':<26}" + "".join(f"{head:>15}" for head in heads)]


def _rates(rows: list[dict[str, Any]], group: str, columns: tuple[str, ...]) -> list[str]:
    lines = []
    for row in rows:
        for column in columns:
            prefix = "" if HEADLINES.get(group) == column else f"{column}_"
            values, lows, highs = (row[group][name] for name in (column, f"{prefix}low", f"{prefix}high"))
            cells = (
                f"{100 * v:.0f} [{100 * a:.0f}, {100 * b:.0f}]" for v, a, b in zip(values, lows, highs, strict=True)
            )
            name = "two-run joint" if group == "joint_restore" else row["name"]
            lines.append(_line(name, column, cells))
    return lines


def _means(rows: list[dict[str, Any]], group: str, column: str) -> list[str]:
    return [_line(row["name"], column, (f"{value:.3f}" for value in row[group][column])) for row in rows]


def _line(name: str, column: str, cells: Iterable[str]) -> str:
    return f"{name:<14}{column:<12}" + "".join(f"{cell:>15}" for cell in cells)


def _unaimed(rows: list[dict[str, Any]]) -> list[str]:
    names = [row["name"] for row in rows if not row["takes_aim"]]
    note = "cannot be aimed at a class: their low wrong_class proves nothing."
    return ["", f"{', '.join(names)} {note}"] if names else []


def _scalars(rows: list[dict[str, Any]]) -> list[str]:
    heads = ("maps to restore", "seed", "noise", "class", "other class", "shuffled", "passes", "ms")
    lines = ["", "Fewest maps that restore; Jaccard of the kept fifths; cost of one score per image"]
    lines.append(f"{'':<13}" + "".join(f"{head:>21}" if k == 0 else f"{head:>13}" for k, head in enumerate(heads)))
    for row in rows:
        restore, alike = row["restore"], row["class_jaccard"]
        mean = f"{restore['mean_maps']:.1f} [{restore['mean_maps_low']:.1f}, {restore['mean_maps_high']:.1f}]"
        similar = (row["seed_jaccard"], row["noise_jaccard"], alike["within"], alike["between"])
        cells = ["-" if value is None else f"{value:.2f}" for value in (*similar, row["random_weights_jaccard"])]
        cells += [f"{row['passes_per_image']:.0f}", f"{1000 * row['seconds_per_image']:.1f}"]
        lines.append(f"{row['name']:<13}{mean:>21}" + "".join(f"{cell:>13}" for cell in cells))
    return lines
