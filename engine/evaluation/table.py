"""An evaluation as JSON (the shape that other programs read) and as a table for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from engine.evaluation import trials
from engine.evaluation.trials import Estimates
from engine.evaluation.walk import Evaluation, MethodRow
from engine.statistics import Estimate

HEADLINES = {"sufficient": "agreement", "transplant": "carried", "restore": "restored", "joint_restore": "restored"}
"""The column whose interval is called plain `low` and `high`; any other column's is `<column>_low`, `<column>_high`."""

NOT_THERE = "–"
"""In place of a control that the classes do not allow; what it needs stands below the table."""
CONTROLS = {"wrong_class": "wrong class", "noisy_copy": "noisy copy", "swap": "other image"}
ASKED = {
    "sufficient": ("wrong_class", "swap"),
    "transplant": ("wrong_class", "swap"),
    "restore": ("wrong_class", "noisy_copy", "swap"),
}
"""The controls that the table shows of each question."""


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return the documented JSON."""
    request = found.request
    return {
        "model": found.model,
        "data": found.data,
        "attack": request.attack.text,
        "images": found.images,
        "first": request.first,
        "fooled": found.fooled,
        "seed": request.seed,
        "sites": found.sites,
        "total_maps": found.total_maps,
        "left_out": list(found.left_out),
        "missing": list(found.missing),
        "kept": list(trials.KEPT),
        "maps": list(found.maps),
        "seconds": found.seconds,
        "methods": [_method(row) for row in found.rows],
    }


def text(found: dict[str, Any]) -> str:
    """Return the JSON of an evaluation as a table of one screen: percentages with their 95 % intervals.

    Every size is shown for each method's own answer; the controls stand beside it at one size in the middle.
    """
    rows = found["methods"]
    kept, maps = [f"{share:.0%}" for share in found["kept"]], [str(count) for count in found["maps"]]
    share, count = len(kept) // 2, len(maps) // 2
    restored = [(row["name"], row["restore"]) for row in rows]
    restored += [("two-run joint", row["joint_restore"]) for row in rows if "joint_restore" in row]
    lines = [
        *_head(found),
        f"Sufficient: a share of every site kept, the rest zeroed; the answer stays. At {kept[share]}:",
        _line("", [*kept, *_titles("sufficient"), f"{'KL, nats':>18}"]),
        *(
            _line(row["name"], [*_moved(row["sufficient"], "sufficient", share), _divergence(row, share)])
            for row in rows
        ),
        "",
        f"Transplant: maps copied into another class's run; the label goes over. With {maps[count]}:",
        _line("", [*maps, *_titles("transplant")]),
        *(_line(row["name"], _moved(row["transplant"], "transplant", count)) for row in rows),
        "",
        f"Restore: clean maps put into the adversarial run; the label returns. With {maps[count]}:",
        _line("", [*maps, *_titles("restore")]),
        *(_line(name, _moved(group, "restore", count)) for name, group in restored),
        *_rest(rows, kept),
        *_notes(found),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _method(row: MethodRow) -> dict[str, Any]:
    found = {
        "name": row.method.name,
        "title": row.method.doc,
        "takes_aim": row.method.takes_aim,
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


def _head(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['model']} on {found['data']}: {found['images']} correctly classified images from index "
        f"{found['first']} on, {found['fooled']} of them fooled by {found['attack']};",
        f"{found['sites']} sites, {found['total_maps']} feature maps. Percent [95 % interval].",
        "",
    ]


def _titles(question: str) -> list[str]:
    return [CONTROLS[name] for name in ASKED[question]]


def _moved(group: dict[str, Any], question: str, middle: int) -> list[str]:
    headline = HEADLINES[question]
    answers = [_percent(group, headline, k) for k in range(len(group[headline]))]
    return [*answers, *(_percent(group, name, middle) for name in ASKED[question])]


def _divergence(row: dict[str, Any], middle: int) -> str:
    value, low, high = (f"{row['sufficient'][name][middle]:.2f}" for name in ("kl", "kl_low", "kl_high"))
    return f"{f'{value} [{low}, {high}]':>18}"


def _percent(group: dict[str, Any], column: str, index: int) -> str:
    if group[column] is None:
        return NOT_THERE
    prefix = "" if column in HEADLINES.values() else f"{column}_"
    value, low, high = (100 * group[name][index] for name in (column, f"{prefix}low", f"{prefix}high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<14}" + "".join(f"{cell:>14}" for cell in cells)


def _rest(rows: list[dict[str, Any]], kept: list[str]) -> list[str]:
    share = len(kept) // 2 + 1
    title = f"Fewest maps that restore; one site keeps {kept[share]}, the others are whole; Jaccard of the kept fifths; cost"
    heads = (
        "fewest maps",
        "answer stays",
        "other image",
        "other seed",
        "noise",
        "weights shuffled",
        "passes",
        "ms/image",
    )
    return ["", title, _wide("", heads), *(_wide(row["name"], _scalars(row, share)) for row in rows)]


def _scalars(row: dict[str, Any], share: int) -> list[str]:
    restore = row["restore"]
    return [
        f"{restore['mean_maps']:.1f} [{restore['mean_maps_low']:.1f}, {restore['mean_maps_high']:.1f}]",
        *(_percent(row["one_site"], name, share) for name in ("keep", "swap")),
        *(_alike(row, name) for name in ("seed_jaccard", "noise_jaccard", "random_weights_jaccard")),
        f"{row['passes_per_image']:.0f}",
        f"{1000 * row['seconds_per_image']:.1f}",
    ]


def _alike(row: dict[str, Any], column: str) -> str:
    value, low, high = (f"{row[name]:.2f}".lstrip("0") for name in (column, f"{column}_low", f"{column}_high"))
    return f"{value} [{low}, {high}]"


def _wide(name: str, cells: Iterable[str]) -> str:
    widths = (19, 15, 14, 18, 18, 18, 8, 10)
    return f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _notes(found: dict[str, Any]) -> list[str]:
    unaimed = [row["name"] for row in found["methods"] if not row["takes_aim"]]
    note = f"{', '.join(unaimed)} cannot be aimed at a class: a low wrong class proves nothing there."
    return [
        "",
        "Other image: low is good where maps are kept (its own answer should stay), high where they are moved (its class comes).",
        *(
            [f"No claim may choose maps of {', '.join(found['left_out'])}: a few of them carry any answer trivially."]
            if found["left_out"]
            else []
        ),
        *([note] if unaimed else []),
        *(f"{NOT_THERE} Not run, {text}" for text in found["missing"]),
    ]
