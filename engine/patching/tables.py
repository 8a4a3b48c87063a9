"""Evaluations and patching studies as JSON and as tables of one screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from engine import serialization
from engine.patching import trials
from engine.patching.trials import Estimates
from engine.statistics import Estimate
from engine.types.faithfulness import FAITHFULNESS_SIZES, RankingRow
from engine.types.patching import TITLES, Evaluation, MethodRow

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
RANKED = {
    "restored": "restored",
    "layer_matched": "layer-matched",
    "excess": "excess",
    **CONTROLS,
}
"""The columns of a ranking, and what the table calls them."""


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the documented JSON."""
    request = evaluation.request
    return {
        "model": evaluation.model,
        "data": evaluation.data,
        "attack": request.attack.text,
        "images": evaluation.images,
        "first": request.first,
        "fooled": evaluation.fooled,
        "seed": request.seed,
        "sites": evaluation.sites,
        "total_maps": evaluation.total_maps,
        "left_out": list(evaluation.left_out),
        "missing": list(evaluation.missing),
        "kept": list(trials.KEPT),
        "maps": list(evaluation.maps),
        "seconds": evaluation.seconds,
        "methods": [_method(row) for row in evaluation.rows],
        "rankings": [] if evaluation.rankings is None else [_ranking(row) for row in evaluation.rankings.rows],
        "random_restored": {} if evaluation.rankings is None else _lists("restored", "", evaluation.rankings.random),
        "matched_draws": 0 if evaluation.rankings is None else evaluation.rankings.draws,
    }


def evaluation_text(values: dict[str, Any]) -> str:
    """Return the JSON of an evaluation as a table of one screen: percentages with their 95 % intervals.

    Every size is shown for each method's own answer; the controls stand beside it at one size in the middle.
    """
    rows = values["methods"]
    lines = [*_head(values), *(_by_method(rows, values) if rows else ()), *_rankings(values), *_notes(values)]
    return "\n".join(line.rstrip() for line in lines)


def _by_method(rows: list[dict[str, Any]], values: dict[str, Any]) -> list[str]:
    kept, maps = [f"{share:.0%}" for share in values["kept"]], [str(count) for count in values["maps"]]
    share, count = len(kept) // 2, len(maps) // 2
    restored = [(row["name"], row["restore"]) for row in rows]
    restored += [("two-run joint", row["joint_restore"]) for row in rows if "joint_restore" in row]
    return [
        f"Sufficient: a share of every layer kept, the rest zeroed; the answer stays. At {kept[share]}:",
        _line("", [*kept, *_titles("sufficient"), f"{'KL, nats':>18}"]),
        *(
            _line(row["name"], [*_moved(row["sufficient"], "sufficient", share), _divergence(row, share)])
            for row in rows
        ),
        "",
        f"Transplant: channels copied into another class's run; the label goes over. With {maps[count]}:",
        _line("", [*maps, *_titles("transplant")]),
        *(_line(row["name"], _moved(row["transplant"], "transplant", count)) for row in rows),
        "",
        f"Restore: clean channels put into the adversarial run; the label returns. With {maps[count]}:",
        _line("", [*maps, *_titles("restore")]),
        *(_line(name, _moved(group, "restore", count)) for name, group in restored),
        *_measures([row for row in rows if "measures" in row]),
        *_rest(rows, kept),
    ]


def _rankings(values: dict[str, Any]) -> list[str]:
    """Every control at every size, and how far each ranking is behind the default."""
    rows = values["rankings"]
    if not rows:
        return []
    maps = [str(count) for count in values["maps"]]
    lines = [
        *([""] if values["methods"] else []),
        "Rankings: clean channels patched in, in order. Beside them as many of the same layers, drawn from all channels of each,",
        f"{values['matched_draws']} times.",
    ]
    for row in rows:
        lines.append(_line(row["name"], maps))
        lines += [_line(f"  {title}", _cells(row, name, len(maps))) for name, title in RANKED.items()]
    lines.append(_line("random channels", _cells(values["random_restored"], "restored", len(maps))))
    heads = ("largest excess", "with", "behind default", "mean over log size", "behind default")
    return [*lines, "", _ranked("", heads), *(_ranked(row["name"], _judged(row)) for row in rows)]


def _cells(group: dict[str, Any], column: str, sizes: int) -> list[str]:
    return [_percent(group, column, k) for k in range(sizes)]


def _judged(row: dict[str, Any]) -> list[str]:
    largest, behind, area, area_behind = (
        NOT_THERE if row[name] is None else _share(row[name]) for name in ("largest", "behind", "area", "area_behind")
    )
    return [largest, f"{row['largest_at']} channels", behind, area, area_behind]


def _ranked(name: str, cells: Iterable[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>20}" for cell in cells)


def _ranking(row: RankingRow) -> dict[str, Any]:
    results: dict[str, Any] = {"name": row.ranking.text, "largest_at": row.largest_at}
    for name in RANKED:
        values = getattr(row, name)
        results |= {name: None} if values is None else _lists(name, "" if name == "restored" else f"{name}_", values)
    for name in ("largest", "behind", "area", "area_behind"):
        value = getattr(row, name)
        results[name] = None if value is None else dataclasses.asdict(value)
    return results


def _method(row: MethodRow) -> dict[str, Any]:
    results = {
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
            results[name] = _columns(getattr(row, name), headline)
    if row.measures is not None:
        results["measures"] = {"sizes": list(FAITHFULNESS_SIZES), **serialization.flatten(row.measures).value}
    return results


def _columns(record: Any, headline: str) -> dict[str, Any]:
    """Flatten a record of estimates: values under their own name, bounds beside them."""
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value, prefix = getattr(record, field.name), "" if field.name == headline else f"{field.name}_"
        if value is None:
            columns[field.name] = None
        elif isinstance(value, Estimate):
            columns |= {field.name: value.value, f"{prefix}low": value.low, f"{prefix}high": value.high}
        elif isinstance(value, tuple):
            columns |= _lists(field.name, prefix, value)
        else:
            columns[field.name] = _columns(value, "")
    return columns


def _lists(name: str, prefix: str, values: Estimates) -> dict[str, list[float]]:
    return {
        name: [item.value for item in values],
        f"{prefix}low": [item.low for item in values],
        f"{prefix}high": [item.high for item in values],
    }


def _head(values: dict[str, Any]) -> list[str]:
    return [
        f"{values['model']} on {values['data']}: {values['images']} correctly classified images from index "
        f"{values['first']} on, {values['fooled']} of them fooled by {values['attack']};",
        f"{values['sites']} layers, {values['total_maps']} feature maps. Percent [95 % interval].",
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


def _measures(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    heads = ("denoising: CPR", "random", "beyond", "CMD", "noising: CPR", "random", "beyond", "CMD")
    first = rows[0]["measures"]
    images = f"{first['images']} images" + (
        f", {first['left_out']} with too small a difference left out" * bool(first["left_out"])
    )
    return [
        "",
        f"Faithfulness over {100 * FAITHFULNESS_SIZES[0]:g} to 100 % of the maps: area under it (CPR), that of layer-matched",
        f"random channels and what is beyond it, area between it and 1 (CMD), in percent of a linear axis; {images}:",
        _areas_line("", heads),
        *(_areas_line(row["name"], _areas(row["measures"])) for row in rows),
        *_set_tests(rows),
    ]


def _areas(values: dict[str, Any]) -> list[str]:
    """Of the random maps' area and of CMD the interval stands in the JSON alone."""
    cells = []
    for side in (values["denoising"], values["noising"]):
        chosen, random = side["chosen"], side["random"]
        alone = [f"{100 * item['value']:.1f}" for item in (random["cpr"], chosen["cmd"])]
        cells += [_tenths(chosen["cpr"]), alone[0], _tenths(side["beyond"]), alone[1]]
    return cells


def _tenths(estimate: dict[str, Any]) -> str:
    value, low, high = (f"{100 * estimate[name]:.1f}".replace("-0.0", "0.0") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _areas_line(name: str, cells: Iterable[str]) -> str:
    widths = (20, 8, 19, 7) * 2
    return f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _set_tests(rows: list[dict[str, Any]]) -> list[str]:
    tested = [(row["name"], row["measures"]["tests"]) for row in rows if row["measures"]["tests"]]
    lines = [f"{NOT_THERE} Not run for {row['name']}, {text}" for row in rows for text in row["measures"]["missing"]]
    if not tested:
        return ["", *lines]
    count = sum(len(channels) for channels in tested[0][1]["channels"])
    heads = ("enough", "random", "needed", "random", "others", "random", "minimal", "halves", "chance")
    return [
        "",
        f"One set of {count} channels for all, beside layer-matched random sets. Enough: labels its clean values restore. Needed:",
        "its adversarial values give the attack's class. Others: labels all other channels restore (low is right). Minimal:",
        "channels of it that cost more than added random ones; Jaccard of the sets of two halves of the images, beside chance:",
        _tested_line("", heads),
        *(_tested_line(name, _tested(one)) for name, one in tested),
        *lines,
    ]


def _tested(values: dict[str, Any]) -> list[str]:
    sides = [values[name] for name in ("sufficiency", "necessity", "independence")]
    shares = [_share(side[labels]) for side in sides for labels in ("labels", "random_labels")]
    minimal, stable = values["minimality"], values["stability"]
    needed = f"{minimal['needed']} of {len(minimal['lost'])}" if minimal else NOT_THERE
    return [
        *shares,
        needed,
        *(f"{stable[name]['value']:.2f}" if stable else NOT_THERE for name in ("jaccard", "chance")),
    ]


def _tested_line(name: str, cells: Iterable[str]) -> str:
    widths = (14,) * 6 + (10, 8, 8)
    return f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _rest(rows: list[dict[str, Any]], kept: list[str]) -> list[str]:
    share = len(kept) // 2 + 1
    title = f"Fewest channels that restore; one layer keeps {kept[share]}, the others are whole; Jaccard of the kept fifths; cost"
    heads = (
        "fewest channels",
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


def _notes(values: dict[str, Any]) -> list[str]:
    unaimed = [row["name"] for row in values["methods"] if not row["takes_aim"]]
    note = f"{', '.join(unaimed)} cannot be aimed at a class: a low wrong-target share says nothing there."
    return [
        "",
        "Other image: low is good where channels are kept (its own answer should stay), high where they are moved (its "
        "class comes).",
        *(
            [
                f"No claim may choose channels of {', '.join(values['left_out'])}: a few of them carry any answer trivially."
            ]
            if values["left_out"]
            else []
        ),
        *([note] if unaimed else []),
        *(f"{NOT_THERE} Not run, {text}" for text in values["missing"]),
    ]


Effect = dict[str, Any]


def patching_text(values: dict[str, Any]) -> str:
    """Return the JSON of `patching` as text."""
    parts = [
        ("test", _causal_test),
        ("smallest", _smallest),
        ("curve", _curve),
        ("profile", _profile),
        ("localisation", _localisation),
        ("defence", _defence),
    ]
    lines = [f"{values['model']} on {values['data']}, {len(values['attempted'])} images under {values['attack']}."]
    for name, tell in parts:
        if name in values:
            lines += ["", *tell(values[name])]
    return "\n".join(lines)


def _causal_test(values: dict[str, Any]) -> list[str]:
    count = sum(len(item) for item in values["chosen"]["channels"])
    lines = [
        f"Causal test: the {count} channels whose attack conductance stands out most in their layers over "
        f"{len(values['labels'])} fooled images, the same for all; {_verdict_text(values)}",
        _row("chosen", [_label(values["effect"]), f"margin {_margin(values['effect'])}"]),
    ]
    for item in values["controls"]:
        own = "" if item["their_own"] is None else f"{100 * item['their_own']:.0f} give that image's class"
        lines.append(_row(TITLES[item["name"]], [_label(item["effect"]), f"margin {_margin(item['effect'])}", own]))
    return lines + [f"  left out: {line}" for line in values["missing"]]


def _verdict_text(values: dict[str, Any]) -> str:
    if not values["is_supported"]:
        return "not supported."
    return "supported by the controls that were run." if values["missing"] else "supported."


def _smallest(values: dict[str, Any]) -> list[str]:
    sizes, prefixes, shared = values["sizes"], values["prefixes"], values["shared"]
    group = values["group"]
    lines = [
        f"Smallest sets found, of {group['total']} channels; {len(group['samples'])} fooled of {group['attempted']}."
    ]
    if sizes:
        lines.append(_row("channels per image", [_plain(sizes), f"before pruning {_plain(prefixes)}"]))
    lines.append(_row("restored by them", [_label(values["effect"]), f"random sets {_label(values['random'])}"]))
    lines += _bounded(values)
    count = sum(len(item) for item in shared["chosen"]["channels"])
    reached = "reached" if shared["is_reached"] else "not reached"
    return [
        *lines,
        _row("one set for all", [f"{count} channels (before pruning {shared['prefix']})", _label(shared["effect"])]),
        _row("", [f"wanted {100 * shared['wanted']:.0f}: {reached}", f"random sets {_label(shared['random'])}"]),
    ]


def _bounded(values: dict[str, Any]) -> list[str]:
    """What no set can be below, and what other searches and other pools lead to; nothing for records of version 0.2."""
    restored = [image for image in values["images"] if image["is_restored"]]
    if not values["bounds"]:
        return []
    held, tried = (values["monotone"][name] for name in ("held", "tried"))
    closed = sum(image["bound"] == sum(len(site) for site in image["chosen"]["channels"]) for image in restored)
    lines = [
        _row("of the same layers", [_label(values["matched"])]),
        _row("by the first ranking alone", [_plain(values["ranked"])]),
        _row(
            "no set of fewer channels than",
            [_plain(values["bounds"]), f"smallest possible in {closed} of {len(restored)}"],
        ),
        _row("", [f"if more channels never undo what fewer restore: held in {held} of {tried} random supersets"]),
    ]
    alone = [image for image in restored if image["singles"]]
    pairs = [image["pairs"] for image in restored if image["pairs"]]
    if alone:
        lines.append(_row("every single channel tried", [f"{len(alone)} images, {alone[0]['singles']} channels each"]))
    if pairs:
        lines.append(_row("pairs tried", [f"{len(pairs)} images, {min(pairs)} to {max(pairs)} pairs each"]))
    exact = [
        (image["exact"], sum(len(site) for site in image["chosen"]["channels"])) for image in restored if image["exact"]
    ]
    if exact:
        means = [sum(side) / len(exact) for side in zip(*exact, strict=True)]
        lines.append(
            _row("every channel tried at every step", [f"{means[0]:.1f}, here {means[1]:.1f}, n = {len(exact)}"])
        )
    for pool in values["pools"]:
        sizes = f"{_plain(pool['sizes'])} channels" if pool["sizes"] else ""
        reached = f"restores {sum(1 for maps in pool['maps'] if maps)} of {len(pool['maps'])}"
        lines.append(_row(f"same search, {pool['name']}", [reached, sizes]))
    return lines


def _curve(values: dict[str, Any]) -> list[str]:
    lines = ["Labels restored (wrong target: labels given) with so many clean channels patched in:"]
    lines.append(_table_line("", [str(count) for count in values["counts"]]))
    for item in values["lines"]:
        lines.append(_table_line(item["name"], [_label(effect, n=False) for effect in item["effects"]]))
        if item["their_own"]:
            lines.append(_table_line("  its own class", [_share(share) for share in item["their_own"]]))
    return lines + [f"  left out: {line}" for line in values["missing"]]


def _profile(values: dict[str, Any]) -> list[str]:
    lines = ["A few channels of one layer alone: share of the margin won back, beside random channels of the layer."]
    for item in values["sites"]:
        name = f"{item['site']}, {item['maps']} channels"
        lines.append(_row(name, [_margin(item["effect"]), f"random {_margin(item['random'])}"]))
    return [*lines, f"  left out, because they restore trivially: {', '.join(values['excluded'])}"]


def _localisation(values: dict[str, Any]) -> list[str]:
    lines = ["Share of a layer's channels to patch, in that layer alone, by ranking and in random order:"]
    for layer in values["localisation"]["layers"]:
        cells = [
            f"random {_share(layer['random'])}" if layer["random"] else NOT_THERE,
            f"of {layer['channels']} channels",
        ]
        lines.append(_row(layer["site"], [_share(layer["ranked"]) if layer["ranked"] else NOT_THERE, *cells]))
    return lines


def _defence(values: dict[str, Any]) -> list[str]:
    count = sum(len(item) for item in values["shared"]["chosen"]["channels"])
    lines = [
        f"Defence: {count} channels found on {len(values['searched']['samples'])} images, tried on "
        f"{len(values['held_out']['samples'])} others.",
        _row("own clean values", [_label(values["own_values"]), f"random {_label(values['own_values_random'])}"]),
    ]
    for side in ("adversarial", "clean"):
        one = values[side]
        cells = [f"{_share(one['before'])} -> {_share(one['after'])}", f"change {_share(one['change'])}"]
        if one["random"]:
            cells.append(f"random channels {_share(one['random'])}")
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
    # Rounded to whole numbers first: a small negative difference would read "-0".
    value, low, high = (round(100 * estimate[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _plain(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"
