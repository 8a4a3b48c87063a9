"""Evaluations and patching studies as JSON and as tables of one screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from engine.patching import trials
from engine.patching.trials import Estimates
from engine.statistics import Estimate
from engine.types.patching import Evaluation, MethodRow

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


def evaluation_json(found: Evaluation) -> dict[str, Any]:
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


def evaluation_text(found: dict[str, Any]) -> str:
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


Effect = dict[str, Any]


def patching_text(found: dict[str, Any]) -> str:
    """Return the JSON of `files.prove` as text."""
    parts = [
        ("proof", _proof),
        ("smallest", _smallest),
        ("curve", _curve),
        ("profile", _profile),
        ("defence", _defence),
    ]
    lines = [f"{found['model']} on {found['data']}, {len(found['attempted'])} images under {found['attack']}."]
    for name, tell in parts:
        if name in found:
            lines += ["", *tell(found[name])]
    return "\n".join(lines)


def _proof(found: dict[str, Any]) -> list[str]:
    count = sum(len(one) for one in found["chosen"]["channels"])
    lines = [
        f"Proof: the {count} maps with the most attack flow over {len(found['labels'])} fooled images, the same for all; "
        + _told(found),
        _row("chosen", [_label(found["effect"]), f"margin {_margin(found['effect'])}"]),
    ]
    for one in found["controls"]:
        own = "" if one["their_own"] is None else f"{100 * one['their_own']:.0f} give that image's class"
        lines.append(_row(one["name"], [_label(one["effect"]), f"margin {_margin(one['effect'])}", own]))
    return lines + [f"  left out: {line}" for line in found["missing"]]


def _told(found: dict[str, Any]) -> str:
    if not found["is_proven"]:
        return "not proven."
    return "proven by the controls that were run." if found["missing"] else "proven."


def _smallest(found: dict[str, Any]) -> list[str]:
    sizes, prefixes, shared = found["sizes"], found["prefixes"], found["shared"]
    group = found["group"]
    lines = [f"Smallest sets found, of {group['total']} maps; {len(group['samples'])} fooled of {group['attempted']}."]
    if sizes:
        lines.append(_row("maps per image", [_plain(sizes), f"before pruning {_plain(prefixes)}"]))
    lines.append(_row("restored by them", [_label(found["effect"]), f"random sets {_label(found['random'])}"]))
    count = sum(len(one) for one in shared["chosen"]["channels"])
    reached = "reached" if shared["is_reached"] else "not reached"
    return [
        *lines,
        _row("one set for all", [f"{count} maps (before pruning {shared['prefix']})", _label(shared["effect"])]),
        _row("", [f"wanted {100 * shared['wanted']:.0f}: {reached}", f"random sets {_label(shared['random'])}"]),
    ]


def _curve(found: dict[str, Any]) -> list[str]:
    lines = ["Labels restored (third class: labels given) with so many maps put back:"]
    lines.append(_table_line("", [str(count) for count in found["counts"]]))
    for one in found["lines"]:
        lines.append(_table_line(one["name"], [_label(effect, n=False) for effect in one["effects"]]))
        if one["their_own"]:
            lines.append(_table_line("  its own class", [_share(share) for share in one["their_own"]]))
    return lines + [f"  left out: {line}" for line in found["missing"]]


def _profile(found: dict[str, Any]) -> list[str]:
    lines = ["A few maps of one site alone: share of the margin won back, beside random maps of the site."]
    for one in found["sites"]:
        name = f"{one['site']}, {one['maps']} maps"
        lines.append(_row(name, [_margin(one["effect"]), f"random {_margin(one['random'])}"]))
    return [*lines, f"  left out, because they restore trivially: {', '.join(found['excluded'])}"]


def _defence(found: dict[str, Any]) -> list[str]:
    count = sum(len(one) for one in found["shared"]["chosen"]["channels"])
    lines = [
        f"Defence: {count} maps found on {len(found['searched']['samples'])} images, tried on "
        f"{len(found['held_out']['samples'])} others.",
        _row("own clean values", [_label(found["own_values"]), f"random {_label(found['own_values_random'])}"]),
    ]
    for side in ("adversarial", "clean"):
        one = found[side]
        cells = [f"{_share(one['before'])} -> {_share(one['after'])}", f"change {_share(one['change'])}"]
        if one["random"]:
            cells.append(f"random maps {_share(one['random'])}")
        lines.append(_row(f"fixed to means, {side}", [*cells, f"n = {one['before']['n']}"]))
    return lines


def _row(name: str, cells: list[str]) -> str:
    return (f"  {name:<30}" + "".join(f"{cell:<34}" for cell in cells)).rstrip()


def _table_line(name: str, cells: list[str]) -> str:
    return f"  {name:<20}" + "".join(f"{cell:>15}" for cell in cells)


def _label(effect: Effect, *, n: bool = True) -> str:
    value, low, high = (100 * effect[name] for name in ("flipped", "flipped_low", "flipped_high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]" + (f", n = {effect['n']}" if n else "")


def _margin(effect: Effect) -> str:
    if effect["recovery_low"] is None:
        return f"{100 * effect['recovery']:.0f}"
    value, low, high = (100 * effect[name] for name in ("recovery", "recovery_low", "recovery_high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _share(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:.0f} [{100 * estimate['low']:.0f}, {100 * estimate['high']:.0f}]"


def _plain(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"
