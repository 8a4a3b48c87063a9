"""What all fooled images of a class say together, as texts, tables and a plot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dashboard.panels.patching import model as patching
from dashboard.wording import bounds, percent
from engine import (
    CHOICES,
    CURVES,
    FAITHFULNESS_SIZES,
    INTERVENTIONS,
    TITLES,
    Accuracy,
    CircuitMeasures,
    CurveLine,
    Defence,
    Effect,
    Estimate,
    FaithfulnessLine,
    FaithfulnessStudy,
    Group,
    LayerShare,
    Localisation,
    LocalisationStudy,
    MapSet,
    PoolSearch,
    RestorationCurve,
    SiteEffect,
    SiteProfile,
    SmallestSet,
    SmallestSets,
)

STUDIES = {
    "curve": "How many channels it takes",
    "faithfulness": "Faithfulness curve (CPR, CMD)",
    "localisation": "Few channels or everywhere?",
    "profile": "Which layers carry it",
    "smallest": "Smallest sets",
    "defence": "Would fixing them help?",
}
"""What can be asked of a group, in the words of the buttons."""
SEARCHED = (
    "Found by adding the channel with the most attack conductance still missing, again and again, leaving out every "
    "channel that is not "
    "needed, then swapping channels; each set was tried by a real pass. Where no bound meets it, a smaller one may exist."
)
RANKED = (
    "Found by doubling and halving the number of channels with the most attack conductance, then leaving out every channel that is "
    "not needed; each set was tried by a real pass. A smaller one may exist."
)
"""How records of version 0.2 and before were searched."""
MOST_RECURRING = 8
"""Maps listed as needed by most images."""
Look = Literal["chosen", "other", "random", "control"]
LOOKS: dict[str, Look] = {"standing out": "chosen", "layer-matched": "random"}


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
    intervene: str = ""
    """Link text of the set of maps it found, which can be tested on the images that are shown."""


def curve(restoration_curve: RestorationCurve) -> Study:
    """Return the restoration curve: share of labels restored against the number of maps patched."""
    lines = tuple(_line(line, restoration_curve.counts) for line in restoration_curve.lines)
    rows = tuple(
        (TITLES[line.name], *(patching.share(effect) for effect in line.effects), _own(line))
        for line in restoration_curve.lines
    )
    heads = (
        "Patched in",
        *(f"{count} channel{'s' if count > 1 else ''}" for count in restoration_curve.counts),
        "Their own class",
    )
    result = (
        *(f"{TITLES[line.name].capitalize()}: {CURVES[line.name]}" for line in restoration_curve.lines),
        *(f"Not run: {text}" for text in restoration_curve.missing),
        _left_out(restoration_curve.group),
    )
    plot = Plot("clean channels patched in", "labels restored in %", True, lines)
    table = Table("Share of labels restored", heads, rows)
    return Study(STUDIES["curve"], _curve_verdict(restoration_curve), result, plot, (table,))


def faithfulness(faithfulness_study: FaithfulnessStudy) -> Study:
    """Return the faithfulness of growing sets, denoising and noising, beside layer-matched random ones."""
    lines = _faithfulness_lines(faithfulness_study.measures)
    counts = faithfulness_study.measures.counts
    result = (
        "Faithfulness of a set: the logit difference (true class less the attack's) that it reaches, 0 in the adversarial run, 1 "
        f"in the clean one, over {faithfulness_study.measures.images} images. CPR is the area under it, CMD the area "
        "between it and 1, on a "
        "linear axis of the share of channels as in the MIB benchmark; the intervals are bootstraps over images.",
        *(f"{name.capitalize()}: {text}" for name, text in INTERVENTIONS.items()),
        "Layer-matched random: in every layer as many channels as the set has there, drawn from all channels of the layer "
        f"({faithfulness_study.measures.draws} draws for each image).",
        *_set_told(faithfulness_study.measures),
        _left_out(faithfulness_study.group),
    )
    plot = Plot(
        "feature maps in the set", "faithfulness in %", True, tuple(_size_line(*line, counts) for line in lines)
    )
    rows = tuple(
        (name, *(_bounded(item) for item in (*line.faithfulness, line.cpr, line.cmd))) for name, _, line in lines
    )
    heads = (
        "Set",
        *(f"{100 * size:g} % ({count})" for size, count in zip(FAITHFULNESS_SIZES, counts, strict=True)),
        "CPR",
        "CMD",
    )
    table = Table("Faithfulness by share of the channels (number of channels)", heads, rows)
    return Study(STUDIES["faithfulness"], _faithfulness_verdict(faithfulness_study.measures), result, plot, (table,))


def localisation(localisation_study: LocalisationStudy) -> Study:
    """Return layer by layer what share of its channels must be patched alone, ranked and in random order."""
    found, group = localisation_study.localisation, localisation_study.group
    layers = [layer for layer in found.layers if layer.ranked and layer.random]
    sites = tuple(layer.site for layer in layers)
    lines = (
        _share_line("ranked", "chosen", sites, [layer.ranked for layer in layers if layer.ranked]),
        _share_line("random order", "random", sites, [layer.random for layer in layers if layer.random]),
    )
    notes = (
        "At each layer alone: the share of its channels that must be patched with clean values for the label to "
        "return, in the order "
        f"of the ranking and in random order ({found.draws} orders for each image); intervals are bootstraps over images.",
        "A small share and a large ratio: the attack sits in few channels there. A ratio near one: it is everywhere in the layer.",
        "Only layers that every path runs through are asked: all of their channels together restore any label.",
        _who(group),
    )
    rows = tuple(_layer_row(layer, found.images) for layer in found.layers)
    heads = ("Layer", "Channels", "Share by ranking", "Share at random", "Ratio", "Images restored by the whole layer")
    plot = Plot("", "share of the layer's channels in %", False, lines)
    return Study(STUDIES["localisation"], _localised(found), notes, plot, (Table("By layer", heads, rows),))


def _localised(found: Localisation) -> str:
    """Return the answer to the question whether the attack is in few channels somewhere."""
    if not found.can_decide:
        return (
            f"Too few images to tell: {found.images} of them, and a random order often needs as few channels by chance."
        )
    layer = found.sharpest
    if layer is None or layer.ranked is None or layer.random is None:
        return (
            "Everywhere: at no layer does the ranking need fewer channels than a random order would by chance "
            "(Bonferroni over layers)."
        )
    return (
        f"Most in few channels at {layer.site}: {patching.estimate(layer.ranked)} of its {layer.channels} channels restore the "
        f"label, in random order {patching.estimate(layer.random)} ({layer.ratio or 0.0:.1f} times as many)."
    )


def _layer_row(layer: LayerShare, images: int) -> tuple[str, ...]:
    shares = [patching.estimate(share) if share else "–" for share in (layer.ranked, layer.random)]
    ratio = "–" if layer.ratio is None else f"{layer.ratio:.1f}"
    return (layer.site, str(layer.channels), *shares, ratio, f"{layer.restored} of {images}")


def _share_line(name: str, look: Look, sites: tuple[str, ...], shares: Sequence[Estimate]) -> Line:
    return Line(
        name,
        look,
        sites,
        tuple(share.value for share in shares),
        tuple(share.low for share in shares),
        tuple(share.high for share in shares),
        tuple(share.n for share in shares),
    )


def profile(site_profile: SiteProfile) -> Study:
    """Return what equally many maps of each layer alone win back."""
    sites = tuple(item.site for item in site_profile.sites)
    lines = (
        _sites_line("most attack conductance", "chosen", sites, [item.effect for item in site_profile.sites]),
        _sites_line("random channels of the layer", "random", sites, [item.random for item in site_profile.sites]),
    )
    result = (
        "Per layer alone, its channels with the most attack conductance, beside equally many random ones "
        f"({site_profile.draws} draws).",
        f"Left out, because whatever is put there restores: {', '.join(site_profile.excluded) or 'none'}.",
        _who(site_profile.group),
    )
    rows = tuple(_site_row(item) for item in site_profile.sites)
    heads = ("Layer", "Channels", "Margin recovered", "Labels restored", "Random: margin", "Random: labels")
    plot = Plot("", "margin recovered in %", False, lines)
    return Study(STUDIES["profile"], _profile_verdict(site_profile), result, plot, (Table("By layer", heads, rows),))


def smallest(smallest_sets: SmallestSets) -> Study:
    """Return the smallest sets found, per image and for the group."""
    shared = smallest_sets.shared
    asked = f"asked for: {percent(shared.wanted)}{'' if shared.is_reached else ', not reached'}"
    verdict = (
        f"{shared.chosen.count} channels, the same for all, restore {patching.share(shared.effect)} of the images "
        f"({asked}), as many "
        f"random channels {patching.share(shared.random)}."
    )
    own = (
        ""
        if smallest_sets.sizes is None
        else (
            f"Each image on its own needs {_number(smallest_sets.sizes)} channels on average; as many random ones restore "
            f"{patching.share(smallest_sets.random)}."
        )
    )
    result = (
        own,
        *_below(smallest_sets),
        *(_pool(pool) for pool in smallest_sets.pools),
        SEARCHED if smallest_sets.passes else RANKED,
        _left_out(smallest_sets.group),
    )
    rows = tuple(_set_row(image) for image in smallest_sets.images)
    heads = (
        "Image",
        "Maps",
        "At least",
        "Margin recovered",
        "Random sets that restore",
        "Of the same layers",
        "Which channels",
    )
    tables = (
        _recurring(smallest_sets),
        Table(f"Image by image, {len(rows)} of {len(smallest_sets.group.samples)} fooled", heads, rows),
    )
    return Study(
        STUDIES["smallest"], verdict, tuple(filter(None, result)), None, tables, patching.written(shared.chosen)
    )


def defence(result: Defence) -> Study:
    """Return whether the set found on half of the images helps the other half, and what fixing it would cost."""
    gain, cost = result.adversarial.change, result.clean.change
    verdict = (
        f"Fixing {result.shared.chosen.count} channels to their means changes accuracy on held-out attacked images by "
        f"{_points(gain)} and on clean images by {_points(cost)}."
    )
    own = result.own_values
    results = (
        f"Found on {len(result.searched.samples)} fooled images. On {own.n} others, putting their own clean values into the "
        f"same channels restores {patching.share(own)}, random channels {patching.share(result.own_values_random)}.",
        f"Fixed to the mean {'at every position' if result.means == 'position' else 'of the whole map'} over "
        f"{result.mean_images} clean images. The attack does not know of it: an attack on the changed network is another question.",
    )
    rows = (_accuracy("Attacked, held out", result.adversarial), _accuracy("Clean", result.clean))
    heads = ("Images", "Right before", "Right after", "Change", "Random channels fixed", "Beyond random")
    intervene = patching.written(result.shared.chosen)
    return Study(STUDIES["defence"], verdict, results, None, (Table("Accuracy", heads, rows),), intervene)


def _line(line: CurveLine, counts: Sequence[int]) -> Line:
    look: Look = LOOKS.get(line.name, "other" if line.name in CHOICES else "control")
    effects = line.effects
    return Line(
        TITLES[line.name],
        look,
        tuple(counts),
        tuple(effect.flipped for effect in effects),
        tuple(effect.flipped_low for effect in effects),
        tuple(effect.flipped_high for effect in effects),
        tuple(effect.n for effect in effects),
    )


def _faithfulness_lines(circuit_measures: CircuitMeasures) -> tuple[tuple[str, Look, FaithfulnessLine], ...]:
    return (
        ("denoising: most attack conductance", "chosen", circuit_measures.denoising.chosen),
        ("denoising: layer-matched random", "random", circuit_measures.denoising.random),
        ("noising: most attack conductance", "other", circuit_measures.noising.chosen),
        ("noising: layer-matched random", "control", circuit_measures.noising.random),
    )


def _size_line(name: str, look: Look, line: FaithfulnessLine, counts: Sequence[int]) -> Line:
    """Sizes of no map have no place on a logarithmic axis, and equal numbers of maps share one."""
    places = [k for k, count in enumerate(counts) if count and count not in counts[:k]]
    shown = [line.faithfulness[k] for k in places]
    return Line(
        name,
        look,
        tuple(counts[k] for k in places),
        tuple(item.value for item in shown),
        tuple(item.low for item in shown),
        tuple(item.high for item in shown),
        tuple(item.n for item in shown),
    )


def _faithfulness_verdict(circuit_measures: CircuitMeasures) -> str:
    sides = (("Denoising", circuit_measures.denoising), ("noising", circuit_measures.noising))
    texts = [
        f"{name} CPR {_bounded(curve.chosen.cpr)}, {_points(curve.beyond)} beyond layer-matched random channels"
        for name, curve in sides
    ]
    is_ahead = any(curve.beyond.low > 0 for _, curve in sides)
    none = "" if is_ahead else " Neither is more faithful than layer-matched random channels, beyond the interval."
    return f"{'; '.join(texts)}.{none}"


def _set_told(circuit_measures: CircuitMeasures) -> tuple[str, ...]:
    left = (
        f"Left out: {circuit_measures.left_out} of the images, whose two runs differ too little to divide by."
        if circuit_measures.left_out
        else ""
    )
    results = [*(f"Not run: {text}" for text in circuit_measures.missing), *filter(None, [left])]
    if circuit_measures.tests is None:
        return tuple(results)
    tests, count = circuit_measures.tests, sum(len(channels) for channels in circuit_measures.tests.channels)
    sides = (
        ("its clean values restore", tests.sufficiency),
        ("its adversarial values give the attack's class in", tests.necessity),
        ("clean values of all other channels restore (independence: low is right)", tests.independence),
    )
    texts = [
        f"{what} {_estimate(side.labels)} (layer-matched random: {_estimate(side.random_labels)})"
        for what, side in sides
    ]
    results.insert(0, f"One set of {count} channels, the same for all images: {'; '.join(texts)}.")
    if tests.minimality:
        results.append(
            f"Minimality: leaving out {tests.minimality.needed} of its {count} channels costs more than leaving out one of "
            f"{len(tests.minimality.inflated)} random channels that were added to it (p at most 0.05)."
        )
    if tests.stability:
        results.append(
            f"Stability: sets chosen on two halves of the images have a Jaccard similarity of {_ratio(tests.stability.jaccard)}, "
            f"layer-matched random ones of {_ratio(tests.stability.chance)} (95 % of the splits)."
        )
    return tuple(results)


def _bounded(estimate: Estimate) -> str:
    """To a tenth: areas of whole rankings lie close together, and a rounding error is no value of its own."""
    value, low, high = (
        f"{100 * end:.1f}".replace("-0.0", "0.0").replace("-", "−")
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} % [{low}, {high}]"


def _ratio(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _sites_line(name: str, look: Look, sites: tuple[str, ...], effects: Sequence[Effect]) -> Line:
    lows = tuple(effect.recovery if effect.recovery_low is None else effect.recovery_low for effect in effects)
    highs = tuple(effect.recovery if effect.recovery_high is None else effect.recovery_high for effect in effects)
    return Line(
        name,
        look,
        sites,
        tuple(effect.recovery for effect in effects),
        lows,
        highs,
        tuple(effect.n for effect in effects),
    )


def _curve_verdict(restoration_curve: RestorationCurve) -> str:
    """Return the size at which the default ranking leads layer-matched random channels most, or that it leads nowhere."""
    lines = {line.name: line for line in restoration_curve.lines}
    ranked, matched = lines.get("standing out"), lines.get("layer-matched")
    if ranked is None or matched is None:
        return "Nothing can be said: layer-matched random channels, the control that decides, are missing."
    sizes = range(len(restoration_curve.counts))
    apart = [k for k in sizes if matched.effects[k].flipped_high < ranked.effects[k].flipped_low]
    best = max(apart, key=lambda k: ranked.effects[k].flipped - matched.effects[k].flipped, default=None)
    if best is None:
        return "Any channels of these layers do the same: at no number does the ranking restore more, beyond both intervals."
    return (
        f"{restoration_curve.counts[best]} channels of the default ranking restore {patching.share(ranked.effects[best])}, as many "
        f"random ones of the same layers {patching.share(matched.effects[best])}."
    )


def _profile_verdict(site_profile: SiteProfile) -> str:
    """The layer whose maps lead their random ones by most, since large layers hold more than small ones whatever is chosen."""
    best = max(site_profile.sites, key=lambda one: one.effect.recovery - one.random.recovery, default=None)
    if best is None:
        return ""
    low, high = best.effect.recovery_low, best.random.recovery_high
    text = (
        f"{best.maps} of its channels recover {patching.recovery(best.effect)} of the margin, {best.maps} random ones "
        "of that layer "
        f"{patching.recovery(best.random)}"
    )
    if low is None or high is None or low <= high:
        none = "No layer alone wins back more than random channels of it, beyond both intervals."
        return f"{none} The largest lead: {best.site}, {text}."
    return f"Most beyond random channels is won back at {best.site}: {text}."


def _site_row(one: SiteEffect) -> tuple[str, ...]:
    effects = (
        patching.recovery(one.effect),
        patching.share(one.effect),
        patching.recovery(one.random),
        patching.share(one.random),
    )
    return (one.site, str(one.maps), *effects)


def _recurring(smallest_sets: SmallestSets) -> Table:
    """Return the maps that the most images need, those of the common set marked."""
    restored = [image.chosen for image in smallest_sets.images if image.is_restored]
    needed = Counter(place for chosen in restored for place in _places(chosen))
    common = set(_places(smallest_sets.shared.chosen))
    rows = tuple(
        (f"{site} · channel {channel}", f"{count} of {len(restored)}", "yes" if (site, channel) in common else "no")
        for (site, channel), count in needed.most_common(MOST_RECURRING)
    )
    title = f"Channels that recur, the first {len(rows)} of {len(needed)}"
    return Table(title, ("Needed most", "Images whose own set has it", "In the common set"), rows)


def _places(chosen: MapSet) -> list[tuple[str, int]]:
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return [(site, channel) for site, channels in pairs for channel in channels]


def _below(smallest_sets: SmallestSets) -> Iterator[str]:
    """Return what no set can be below, on what condition, and what random maps of the same layers do."""
    if smallest_sets.bounds is not None and smallest_sets.monotone is not None:
        alone = all(image.singles for image in smallest_sets.images if image.is_restored)
        yield (
            f"No set of fewer than {_number(smallest_sets.bounds)} channels restores an image, on average"
            f"{'; every single channel was tried' if alone else ''}. The bound takes it that more channels never undo what fewer "
            f"restore, which held in {smallest_sets.monotone.held} of {smallest_sets.monotone.tried} random supersets."
        )
    if smallest_sets.matched is not None:
        yield f"As many channels of the same layers, drawn at random, restore {patching.share(smallest_sets.matched)}."


def _pool(pool: PoolSearch) -> str:
    """Return what the same search finds among other maps: it finds something in any pool."""
    reached = sum(1 for maps in pool.maps if maps)
    size = "" if pool.sizes is None else f", with {_number(pool.sizes)} channels on average"
    return f"Control, the same search among other channels ({pool.name}): it restores {reached} of {len(pool.maps)} images{size}."


def _set_row(one: SmallestSet) -> tuple[str, ...]:
    if not one.is_restored:
        return (one.sample, "–", "–", "–", "–", "–", "not restored by all channels together")
    matched = "–" if one.matched is None else percent(one.matched)
    shares = percent(one.recovery), percent(one.random), matched
    return (one.sample, str(one.chosen.count), str(one.bound), *shares, _named(one.chosen))


def _named(chosen: MapSet) -> str:
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return "; ".join(f"{site}: {', '.join(map(str, channels))}" for site, channels in pairs)


def _accuracy(name: str, accuracy: Accuracy) -> tuple[str, ...]:
    shares = (_estimate(accuracy.before), _estimate(accuracy.after), _points(accuracy.change))
    random = "–" if accuracy.random is None else _estimate(accuracy.random)
    beyond = "–" if accuracy.beyond_random is None else _points(accuracy.beyond_random)
    return (name, *shares, random, beyond)


def _estimate(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} {bounds(estimate.low, estimate.high)}, n = {estimate.n}"


def _points(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:+.0f} points [{100 * estimate.low:+.0f}, {100 * estimate.high:+.0f}]"
    return re.sub(r"[+-]0\b", "0", text).replace("-", "−")


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _own(line: CurveLine) -> str:
    return _estimate(line.their_own[-1]) if line.their_own else ""


def _who(group: Group) -> str:
    return f"{len(group.samples)} fooled of {group.attempted} attacked images."


def _left_out(group: Group) -> str:
    sites = ", ".join(group.excluded)
    kept = f"{_who(group)} Of {group.total} channels that claims may use"
    return f"{kept}; no channel of {sites} is chosen, since a few there carry any answer." if sites else f"{kept}."
