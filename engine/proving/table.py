"""The JSON of a proof as a table of one screen: percentages with their 95 % intervals."""

from __future__ import annotations

from typing import Any

Effect = dict[str, Any]


def text(found: dict[str, Any]) -> str:
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
    lines.append(_line("", [str(count) for count in found["counts"]]))
    for one in found["lines"]:
        lines.append(_line(one["name"], [_label(effect, n=False) for effect in one["effects"]]))
        if one["their_own"]:
            lines.append(_line("  its own class", [_share(share) for share in one["their_own"]]))
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


def _line(name: str, cells: list[str]) -> str:
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
