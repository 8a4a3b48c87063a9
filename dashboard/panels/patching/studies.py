"""What all fooled images of a class say together, as texts, tables and a plot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dashboard.panels.patching import model as patching
from dashboard.wording import bounds, percent
from engine import (
    CHOICES,
    CURVES,
    Accuracy,
    CurveLine,
    Defence,
    Effect,
    Estimate,
    Group,
    MapSet,
    RestorationCurve,
    SiteEffect,
    SiteProfile,
    SmallestSet,
    SmallestSets,
)

STUDIES = {
    "curve": "How many maps it takes",
    "profile": "Which layers carry it",
    "smallest": "Smallest sets",
    "defence": "Would fixing them help?",
}
"""What can be asked of a group, in the words of the buttons."""
MOST_RECURRING = 8
"""Maps listed as needed by most images."""
Look = Literal["chosen", "other", "random", "control"]
LOOKS: dict[str, Look] = {"attack flow": "chosen", "random": "random"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot: shares from 0 to 1 with their 95 % intervals."""

    name: str
    look: Look
    x: tuple[int | str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn: against numbers of maps (on a logarithmic axis) or by layer."""

    x_title: str
    y_title: str
    is_counts: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Exact numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Study:
    """One answer about a group."""

    title: str
    verdict: str
    told: tuple[str, ...]
    plot: Plot | None
    tables: tuple[Table, ...]
    prove: str = ""
    """Link text of the set of maps it found, which can be proven on the images that are shown."""


def curve(found: RestorationCurve) -> Study:
    """Return the restoration curve: share of labels restored against the number of maps put back."""
    lines = tuple(_line(line, found.counts) for line in found.lines)
    rows = tuple((line.name, *(patching.share(effect) for effect in line.effects), _own(line)) for line in found.lines)
    heads = ("Put back", *(f"{count} map{'s' if count > 1 else ''}" for count in found.counts), "Their own class")
    told = (
        *(f"{line.name.capitalize()}: {CURVES[line.name]}" for line in found.lines),
        *(f"Not run: {text}" for text in found.missing),
        _left_out(found.group),
    )
    plot = Plot("clean feature maps put back", "labels restored in %", True, lines)
    table = Table("Share of labels restored", heads, rows)
    return Study(STUDIES["curve"], _curve_verdict(found), told, plot, (table,))


def profile(found: SiteProfile) -> Study:
    """Return what equally many maps of each layer alone win back."""
    sites = tuple(one.site for one in found.sites)
    lines = (
        _sites_line("most attack flow", "chosen", sites, [one.effect for one in found.sites]),
        _sites_line("random maps of the layer", "random", sites, [one.random for one in found.sites]),
    )
    told = (
        f"Per layer alone, its maps with the most attack flow, beside equally many random ones ({found.draws} draws).",
        f"Left out, because whatever is put there restores: {', '.join(found.excluded) or 'none'}.",
        _who(found.group),
    )
    rows = tuple(_site_row(one) for one in found.sites)
    heads = ("Layer", "Maps", "Margin recovered", "Labels restored", "Random: margin", "Random: labels")
    plot = Plot("", "margin recovered in %", False, lines)
    return Study(STUDIES["profile"], _profile_verdict(found), told, plot, (Table("By layer", heads, rows),))


def smallest(found: SmallestSets) -> Study:
    """Return the smallest sets found, per image and for the group."""
    shared = found.shared
    asked = f"asked for: {percent(shared.wanted)}{'' if shared.is_reached else ', not reached'}"
    verdict = (
        f"{shared.chosen.count} maps, the same for all, restore {patching.share(shared.effect)} of the images ({asked}), as many "
        f"random maps {patching.share(shared.random)}."
    )
    own = (
        ""
        if found.sizes is None
        else (
            f"Each image on its own needs {_number(found.sizes)} maps on average; as many random ones restore "
            f"{patching.share(found.random)}."
        )
    )
    told = (
        own,
        "Found by doubling and halving the number of maps with the most attack flow, then leaving out every map that is "
        "not needed; each set was tried by a real pass. A smaller one may exist.",
        _left_out(found.group),
    )
    rows = tuple(_set_row(one) for one in found.images)
    heads = ("Image", "Maps", "Margin recovered", "Random sets that restore", "Which maps")
    tables = (_recurring(found), Table("Image by image", heads, rows))
    return Study(STUDIES["smallest"], verdict, tuple(filter(None, told)), None, tables, patching.written(shared.chosen))


def defence(found: Defence) -> Study:
    """Return whether the set found on half of the images helps the other half, and what fixing it would cost."""
    gain, cost = found.adversarial.change, found.clean.change
    verdict = (
        f"Fixing {found.shared.chosen.count} maps to their means changes accuracy on held-out attacked images by "
        f"{_points(gain)} and on clean images by {_points(cost)}."
    )
    own = found.own_values
    told = (
        f"Found on {len(found.searched.samples)} fooled images. On {own.n} others, putting their own clean values into the "
        f"same maps restores {patching.share(own)}, random maps {patching.share(found.own_values_random)}.",
        f"Fixed to the mean {'at every position' if found.means == 'position' else 'of the whole map'} over "
        f"{found.mean_images} clean images. The attack does not know of it: an attack on the changed network is another question.",
    )
    rows = (_accuracy("Attacked, held out", found.adversarial), _accuracy("Clean", found.clean))
    heads = ("Images", "Right before", "Right after", "Change", "Random maps fixed", "Beyond random")
    prove = patching.written(found.shared.chosen)
    return Study(STUDIES["defence"], verdict, told, None, (Table("Accuracy", heads, rows),), prove)


def _line(line: CurveLine, counts: Sequence[int]) -> Line:
    look: Look = LOOKS.get(line.name, "other" if line.name in CHOICES else "control")
    effects = line.effects
    return Line(
        line.name,
        look,
        tuple(counts),
        tuple(one.flipped for one in effects),
        tuple(one.flipped_low for one in effects),
        tuple(one.flipped_high for one in effects),
        tuple(one.n for one in effects),
    )


def _sites_line(name: str, look: Look, sites: tuple[str, ...], effects: Sequence[Effect]) -> Line:
    lows = tuple(one.recovery if one.recovery_low is None else one.recovery_low for one in effects)
    highs = tuple(one.recovery if one.recovery_high is None else one.recovery_high for one in effects)
    return Line(name, look, sites, tuple(one.recovery for one in effects), lows, highs, tuple(one.n for one in effects))


def _curve_verdict(found: RestorationCurve) -> str:
    lines = {line.name: line for line in found.lines}
    flow, random = lines.get("attack flow"), lines.get("random")
    if flow is None or random is None:
        return "Nothing can be said: the random control is missing."
    apart = [k for k in range(len(found.counts)) if random.effects[k].flipped_high < flow.effects[k].flipped_low]
    best = max(apart, key=lambda k: flow.effects[k].flipped, default=None)
    if best is None:
        return "At no number of maps do those with the most attack flow restore more than random ones, beyond both intervals."
    return (
        f"{found.counts[best]} maps with the most attack flow restore {patching.share(flow.effects[best])}, as many random ones "
        f"{patching.share(random.effects[best])}."
    )


def _profile_verdict(found: SiteProfile) -> str:
    """The layer whose maps lead their random ones by most, since large layers hold more than small ones whatever is chosen."""
    best = max(found.sites, key=lambda one: one.effect.recovery - one.random.recovery, default=None)
    if best is None:
        return ""
    low, high = best.effect.recovery_low, best.random.recovery_high
    text = (
        f"{best.maps} of its maps recover {patching.recovery(best.effect)} of the margin, {best.maps} random ones of that layer "
        f"{patching.recovery(best.random)}"
    )
    if low is None or high is None or low <= high:
        none = "No layer alone wins back more than random maps of it, beyond both intervals."
        return f"{none} The largest lead: {best.site}, {text}."
    return f"Most beyond random maps is won back at {best.site}: {text}."


def _site_row(one: SiteEffect) -> tuple[str, ...]:
    effects = (
        patching.recovery(one.effect),
        patching.share(one.effect),
        patching.recovery(one.random),
        patching.share(one.random),
    )
    return (one.site, str(one.maps), *effects)


def _recurring(found: SmallestSets) -> Table:
    """Return the maps that the most images need, those of the common set marked."""
    restored = [one.chosen for one in found.images if one.is_restored]
    needed = Counter(place for chosen in restored for place in _places(chosen))
    common = set(_places(found.shared.chosen))
    rows = tuple(
        (f"{site} · map {channel}", f"{count} of {len(restored)}", "yes" if (site, channel) in common else "no")
        for (site, channel), count in needed.most_common(MOST_RECURRING)
    )
    return Table("Maps that recur", ("Needed most", "Images whose own set has it", "In the common set"), rows)


def _places(chosen: MapSet) -> list[tuple[str, int]]:
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return [(site, channel) for site, channels in pairs for channel in channels]


def _set_row(one: SmallestSet) -> tuple[str, ...]:
    if not one.is_restored:
        return (one.sample, "–", "–", "–", "not restored by all maps together")
    return (one.sample, str(one.chosen.count), percent(one.recovery), percent(one.random), _named(one.chosen))


def _named(chosen: MapSet) -> str:
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return "; ".join(f"{site}: {', '.join(map(str, channels))}" for site, channels in pairs)


def _accuracy(name: str, found: Accuracy) -> tuple[str, ...]:
    shares = (_estimate(found.before), _estimate(found.after), _points(found.change))
    random = "–" if found.random is None else _estimate(found.random)
    beyond = "–" if found.beyond_random is None else _points(found.beyond_random)
    return (name, *shares, random, beyond)


def _estimate(found: Estimate) -> str:
    return f"{percent(found.value)} {bounds(found.low, found.high)}, n = {found.n}"


def _points(found: Estimate) -> str:
    text = f"{100 * found.value:+.0f} points [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"
    return re.sub(r"[+-]0\b", "0", text).replace("-", "−")


def _number(found: Estimate) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def _own(line: CurveLine) -> str:
    return _estimate(line.their_own[-1]) if line.their_own else ""


def _who(group: Group) -> str:
    return f"{len(group.samples)} fooled of {group.attempted} attacked images."


def _left_out(group: Group) -> str:
    sites = ", ".join(group.excluded)
    kept = f"{_who(group)} Of {group.total} maps that claims may use"
    return f"{kept}; no map of {sites} is chosen, since a few there carry any answer." if sites else f"{kept}."
