"""Candidate against baseline as texts and rows: who is fooled where, which layers carry it, and how well feature maps match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dashboard.panels.audits import model as audits
from dashboard.panels.audits.counted import image_query
from dashboard.panels.inside import model as insides
from dashboard.wording import measured, number
from engine import Changed, Inside, LayerMatch, MapMatching, RunView, Versus, class_handles, clopper_pearson

MOST_EXAMPLES: Final = 3
"""Images of each side that are linked; the file holds all."""
MOST_MAPS: Final = 10
"""Feature maps of the candidate whose partners are named; the file holds all."""
BY: Final = {
    "name": "Both models have one architecture: layers stand beside each other by name.",
    "depth": (
        "The architectures differ: each layer of the candidate stands beside the layer of the baseline at the nearest relative "
        "depth. Nothing more is claimed: such layers need not do the same."
    ),
}
SHARES: Final = (
    "Net attack conductance of a layer as a share of all of an image, whatever its sign; mean over fooled images, which are others "
    "in each model. Layers overlap; without intervals, as in Layer by layer above."
)
MATCHED: Final = (
    "A match says that two feature maps answer alike to clean images, not that they do the same under attack; only the causal "
    "test speaks of that."
)


@dataclass(frozen=True, slots=True)
class SideRow:
    """How many images stand on one side."""

    name: str
    images: str
    share: str
    low: float
    value: float
    high: float
    examples: tuple[tuple[str, str], ...]
    """Name of an image and the query that opens it; the query is empty where the levels cannot show it."""


@dataclass(frozen=True, slots=True)
class Described:
    """What stands beside the chart."""

    lead: str
    sides: tuple[SideRow, ...]
    notes: tuple[str, ...]
    layers: tuple[tuple[str, str, str, str, str], ...]
    """Candidate's layer, its share, baseline's layer, its share, and the difference in points."""
    layers_note: str


def described(view: RunView, versus: Versus) -> Described:
    """Return what a run says of its two models, in words."""
    return Described(lead(view, versus), _sides(view, versus), _notes(versus), _layers(versus), _layers_note(versus))


def lead(view: RunView, versus: Versus) -> str:
    """Return what is compared, and on how many images."""
    own, names = view.manifest.of("candidate"), class_handles(view.manifest.classes)
    attacks = ", ".join(audits.short_name(own[place].name) for place in versus.attacks)
    chosen = [names[label] for label in versus.scope.classes]
    classes = f"class{'es' if len(chosen) > 1 else ''} {', '.join(chosen)}" if chosen else "all classes"
    interim = "Interim, of the images that are done: " if versus.is_interim else ""
    models = " against ".join(view.manifest.model(role).name for role in ("candidate", "baseline"))
    return f"{interim}{models}; {attacks}; {classes}. n = {versus.n:,} images that were judged in both."


def _sides(view: RunView, versus: Versus) -> tuple[SideRow, ...]:
    counts = (
        ("Fooled in the candidate, right in the baseline", versus.candidate_only, "candidate only"),
        ("Right in the candidate, fooled in the baseline", versus.baseline_only, "baseline only"),
        ("Fooled in both", versus.both_fooled, ""),
        ("Right in both", versus.both_right, ""),
    )
    return tuple(_side(view, versus, *one) for one in counts) if versus.n else ()


def _side(view: RunView, versus: Versus, name: str, count: int, side: str) -> SideRow:
    share = clopper_pearson(count, versus.n)
    changed = [one for one in versus.changed if one.side == side][:MOST_EXAMPLES]
    examples = tuple((one.name, link(view, one)) for one in changed)
    shown = measured(share.value, share.low, share.high)
    return SideRow(name, f"{count:,}", shown, share.low, share.value, share.high, examples)


def link(view: RunView, one: Changed) -> str:
    """Return the query of an image in the model that it is fooled in; empty where the levels cannot show it."""
    role = "candidate" if one.side == "candidate only" else "baseline"
    condition = view.manifest.of(role)[one.condition]  # type: ignore[arg-type]
    own, label = (condition.kind, condition.name, condition.role), class_handles(view.manifest.classes)[one.label]
    where = {"label": label, "outcome": "fooled", "sample": one.sample}
    return image_query(view.manifest, view.card.run, own, where)


def _notes(versus: Versus) -> tuple[str, ...]:
    told = []
    if versus.difference is not None:
        gap, shown = versus.difference, insides.probability(versus.p_value)
        p_value = shown if shown.startswith("<") else f"= {shown}"
        points = [f"{100 * value:+.1f}".replace("-", "−") for value in (gap.value, gap.low, gap.high)]
        told.append(
            f"Fooled in the candidate minus fooled in the baseline: {points[0]} points [{points[1]}, {points[2]}] "
            f"(Newcombe, 95 %), exact McNemar p {p_value}, n = {gap.n:,}."
        )
    told.append("Fooled: by any of the chosen attacks. Right: under all of them.")
    if versus.left_out:
        told.append(
            f"{versus.left_out:,} images are left out: one of the models got them wrong without attack, or they were not "
            "judged in both."
        )
    return tuple(told)


def _layers(versus: Versus) -> tuple[tuple[str, str, str, str, str], ...]:
    return tuple(
        (one.layer, _share(one.share), one.other, _share(one.other_share), _gap(one.share, one.other_share))
        for one in versus.layers
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %".replace("-", "−")


def _gap(first: float | None, second: float | None) -> str:
    return "–" if first is None or second is None else f"{100 * (first - second):+.2f}".replace("-", "−")


def _layers_note(versus: Versus) -> str:
    if versus.problem:
        return versus.problem
    counts = (
        f"Fooled images, once for each attack: candidate n = {versus.counts[0]:,}, baseline n = {versus.counts[1]:,}."
    )
    none = " No image of one model was fooled, so it has no bars." if 0 in versus.counts else ""
    return f"{BY[versus.paired_by]} {counts}{none} {SHARES}"


@dataclass(frozen=True, slots=True)
class MatchRow:
    """How one layer matches."""

    name: str
    cells: tuple[str, ...]
    """Baseline's layer, maps, median, share above one half, and the same two at random."""
    is_above: bool
    """Whether the median is above that of every random draw."""


def match_rows(matching: MapMatching) -> tuple[MatchRow, ...]:
    """Return every matched layer."""
    return tuple(_match(one) for one in matching.layers)


def _match(one: LayerMatch) -> MatchRow:
    cells = (
        one.other,
        f"{one.matched:,} of {len(one.partners):,}",
        number(one.median),
        f"{100 * one.above_half:.0f} %",
        f"{number(one.random_median)} (≤ {number(one.random_median_highest)})",
        f"{100 * one.random_above_half:.0f} % (≤ {100 * one.random_above_half_highest:.0f} %)",
    )
    return MatchRow(one.layer, cells, one.median > one.random_median_highest)


def match_lead(matching: MapMatching) -> str:
    """Return how maps were matched and judged, and in how many layers they match better than at random."""
    rows = match_rows(matching)
    above = sum(row.is_above for row in rows)
    return (
        f"In {above} of {len(rows)} layers the median correlation is above that of every random draw (bold). Partners were found "
        f"on {matching.matched_on} images and judged on {matching.judged_on} others that both models get right without attack, "
        f"one to one, by the correlation of their activations, never by index. Random: as many partners drawn within the layer, "
        f"mean of {matching.draws} draws, in brackets the largest. {MATCHED}"
    )


def partners(matching: MapMatching, inside: Inside) -> tuple[tuple[str, str, str], ...]:
    """Return the candidate's maps that carry most, each with its partner and their correlation."""
    known = {one.layer: one for one in matching.layers}
    rows: list[tuple[str, str, str]] = []
    for one in inside.maps:
        layer = known.get(one.layer)
        if layer is not None and len(rows) < MOST_MAPS:
            rows.append((f"{one.layer} · {one.channel}", *_partner(layer, one.channel)))
    return tuple(rows)


def _partner(layer: LayerMatch, channel: int) -> tuple[str, str]:
    partner = int(layer.partners[channel])
    if partner < 0:
        return "none left: the other layer is narrower", "–"
    return f"{layer.other} · {partner}", number(float(layer.correlations[channel]))


Table = tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]
"""Heads and rows of a file."""


def images_table(view: RunView, versus: Versus) -> Table:
    """Return every image that changed side."""
    names = class_handles(view.manifest.classes)
    heads = ("sample", "name", "true_class", "side", "fooled_into", "attack", "is_interim")
    rows = tuple(
        (
            one.sample, one.name, names[one.label], one.side, names[one.into], view.manifest.of("candidate")[one.condition].name,
            versus.is_interim,
        )
        for one in versus.changed
    )  # fmt: skip
    return heads, rows


def layers_table(view: RunView, versus: Versus) -> Table:
    """Return both shares of every pair of layers in full."""
    models = [view.manifest.model(role).name for role in ("candidate", "baseline")]
    heads = ("candidate", "layer", "conductance_share", "n", "baseline", "baseline_layer", "baseline_conductance_share",
             "baseline_n", "paired_by")  # fmt: skip
    rows = tuple(
        (
            models[0], one.layer, one.share, versus.counts[0], models[1], one.other, one.other_share, versus.counts[1],
            versus.paired_by,
        )
        for one in versus.layers
    )  # fmt: skip
    return heads, rows


def matches_table(matching: MapMatching) -> Table:
    """Return every matched feature map."""
    heads = ("layer", "channel", "baseline_layer", "baseline_channel", "correlation", "matched_on", "judged_on")
    rows = tuple(
        (one.layer, channel, one.other, int(partner), float(value), matching.matched_on, matching.judged_on)
        for one in matching.layers
        for channel, (partner, value) in enumerate(zip(one.partners, one.correlations, strict=True))
        if partner >= 0
    )
    return heads, rows


TABLES: Final = {"versus-images": images_table, "versus-layers": layers_table}
"""By the name of the file."""
MATCHES: Final = "versus-maps"


def layer_names(versus: Versus) -> Sequence[str]:
    """Return what stands below the bars."""
    return [one.layer if one.layer == one.other else f"{one.layer} | {one.other}" for one in versus.layers]
