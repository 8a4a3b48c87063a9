"""The network level as values: the columns and bands of the river, its curves, its table, and the groups drawn beside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dashboard.wording import percent
from engine import (
    ClassDatapaths,
    ClassSimilarity,
    Comparison,
    Connection,
    Datapath,
    Explanation,
    LayerShare,
    Link,
    Localisation,
    Side,
    Site,
    SiteComparison,
)

GROUPS = ("adversarial", "shared", "clean")
"""From top to bottom: maps only in the adversarial datapath, in both, only in the clean one."""
RUN_GROUPS: dict[Side, tuple[str, str]] = {"clean": ("shared", "clean"), "adversarial": ("adversarial", "shared")}
HEAD_ROWS = {"clean": 0, "adversarial": 1}
"""Row of a run in the matrices that lead to the logits: true class, fooled-into class."""

Strengths = dict[tuple[int, int], np.ndarray]
"""(source site, target site) -> (target groups, source groups), both in the order of `GROUPS`."""
Reasons = dict[tuple[int, int], tuple[str, ...]]
"""(source site, target site) -> why what lies between them is not exact, in words."""
_Origins = dict[int, dict[str, None]]
"""Per shown site from which a site is reached without passing another: the reasons met on the way, each once, in order."""
Incoming = dict[int, list[Connection]]
"""Per target site the connections that lead there."""
GAP = 0.07
"""Between stacked bars, in units of a datapath's size."""
HIDDEN_BELOW = 0.005
"""Bands below this share of the strength between their two columns are counted, not drawn."""
CLASS, NOISE = "class", "noise"
"""Values of `versus` that name a group of the same explanation instead of another attack."""


class Network(Protocol):
    """What a river is drawn from: an explanation, or the datapaths of a whole run."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The layers, in network order."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Which layers lead to which."""

    @property
    def connections(self) -> tuple[Connection, ...]:
        """One per link, in the same order; none where they are not known, and then there are no bands."""

    @property
    def inexact(self) -> dict[tuple[int, int], str]:
        """Why the edges of some links are not exact, by (source, target)."""

    @property
    def keeps_class(self) -> bool:
        """Whether both answers are the same."""


def between(explanation: Network, comparison: Comparison, columns: Sequence[int]) -> Strengths:
    """Return the strength of the connections between shown sites; the head is site `len(sites)`.

    The clean run's contributions count for maps of the clean datapath, the adversarial run's for maps of the
    adversarial one, each run scaled to the same total; what joins two shared maps is the mean of both. So a map that
    is only in one datapath is never joined to one that is only in the other.

    Sites that are not shown are passed through: the absolute contribution an inner map makes to its target is handed
    back to the inner map's own sources in proportion to their absolute contributions to it (proportional attribution),
    and added to what the skip link contributes directly. Where no linear link leads on, the strength ends there.
    """
    runs = []
    for run in RUN_GROUPS:
        result = _of_run(explanation, comparison, columns, run)
        total = sum(float(matrix.sum()) for matrix in result.values())
        runs.append({pair: matrix / total for pair, matrix in result.items()} if total else result)
    clean, adversarial = runs
    zero = np.zeros((len(GROUPS), len(GROUPS)))
    pairs = sorted(set(clean) | set(adversarial))
    return {pair: _joined(clean.get(pair, zero), adversarial.get(pair, zero)) for pair in pairs}


def _joined(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Sum of both runs, where only the shared-to-shared entry has parts of both: there the mean."""
    total = clean + adversarial
    shared = GROUPS.index("shared")
    total[shared, shared] /= 2
    return total


def inexact(explanation: Network, columns: Sequence[int]) -> Reasons:
    """Return the shown pairs of sites between which any link on the way, through sites not shown too, is not exact."""
    why = explanation.inexact
    if not why:
        return {}
    sources: dict[int, list[int]] = {}
    for link in explanation.links:
        sources.setdefault(link.target, []).append(link.source)
    results: Reasons = {}
    origins: dict[int, _Origins] = {}
    for target in range(len(explanation.sites) + 1):
        reached = _reached([(origins[source], why.get((source, target))) for source in sources.get(target, ())])
        origins[target] = {target: {}} if target in columns else reached
        if target in columns:
            results |= {(column, target): tuple(reasons) for column, reasons in reached.items() if reasons}
    return results


def _reached(links: Sequence[tuple[_Origins, str | None]]) -> _Origins:
    """Return from where a site is reached; links: what is known of each one's source, and why it is not exact."""
    reached: _Origins = {}
    for origins, reason in links:
        own = {} if reason is None else {reason: None}
        for column, before in origins.items():
            reached[column] = {**reached.get(column, {}), **before, **own}
    return reached


def members(explanation: Network, comparison: Comparison, run: Side) -> tuple[np.ndarray, ...]:
    """Return per site (channels, groups) float32: one where a map of the run's datapath is in the group; head last."""
    results = []
    for site, sets in zip(explanation.sites, comparison.sites, strict=True):
        belongs = np.zeros((site.channels, len(GROUPS)), np.float32)
        kept = {"adversarial": sets.adversarial_only, "shared": sets.shared, "clean": sets.clean_only}
        for group in RUN_GROUPS[run]:
            belongs[list(kept[group]), GROUPS.index(group)] = 1.0
        results.append(belongs)
    head = np.zeros((len(HEAD_ROWS), len(GROUPS)), np.float32)
    same = explanation.keeps_class
    head[HEAD_ROWS[run], GROUPS.index("shared" if same else run)] = 1.0
    return (*results, head)


def _of_run(explanation: Network, comparison: Comparison, columns: Sequence[int], run: Side) -> Strengths:
    belongs = members(explanation, comparison, run)
    incoming: Incoming = {}
    for connection in explanation.connections:
        incoming.setdefault(connection.target, []).append(connection)
    walk = _Walk(run, incoming, {site: {site: belongs[site]} for site in columns})
    results: Strengths = {}
    for target in columns:
        kept = np.flatnonzero(belongs[target].any(axis=1))
        for column, part in walk.gathered(target, kept).items():
            results[column, target] = belongs[target][kept].T @ part
    return results


@dataclass(frozen=True, slots=True)
class _Walk:
    """Follows the connections of one run back to the sites that are shown."""

    run: Side
    incoming: Incoming
    known: dict[int, dict[int, np.ndarray]]
    """Per site, per shown site (maps, groups): which share of each map is owed to which group."""

    def gathered(self, target: int, kept: np.ndarray | slice = slice(None)) -> dict[int, np.ndarray]:
        """Return per shown source site (kept maps, groups): what its groups contribute to each kept map of the target."""
        results: dict[int, np.ndarray] = {}
        for connection in self.incoming.get(target, ()):
            for column, shares in self._origins(connection.source).items():
                results[column] = results.get(column, 0.0) + connection.carried_back(self.run, shares, kept)
        return results

    def _origins(self, source: int) -> dict[int, np.ndarray]:
        if source not in self.known:
            strengths = [np.abs(item.run(self.run)).sum(axis=1) for item in self.incoming.get(source, ())]
            scale = 1.0 / np.maximum(sum(strengths, start=np.zeros(1, np.float32)), 1e-12)
            self.known[source] = {column: part * scale[:, None] for column, part in self.gathered(source).items()}
        return self.known[source]


@dataclass(frozen=True, slots=True)
class Column:
    """One site, or the head, where it stands on the x axis (its index)."""

    name: str
    label: str
    stage: str
    site: int
    """Index into the explanation's sites; their number for the head."""
    is_head: bool
    kept: int
    """Maps in each datapath."""
    counts: tuple[int, int, int]
    """Maps per group in the order of `GROUPS`."""
    stands_for: int = 1
    """Columns it stands for: more than one where its stage is folded."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One group of maps at one column; its height is the group's share of the datapath."""

    column: int
    group: str
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Band:
    """A connection between two bars; each end takes its share of its bar, so a band may taper."""

    source: int
    target: int
    groups: tuple[str, str]
    source_span: tuple[float, float]
    """Low and high end on the y axis."""
    target_span: tuple[float, float]
    share: float
    """Of the strength between its two columns."""
    inexact: tuple[str, ...] = ()
    """Why a link on its way is not what changing one map alone does; empty where all are exact."""

    @property
    def colour_group(self) -> str:
        """The group whose colour it takes: that of its end that is not shared."""
        return next((group for group in self.groups if group != "shared"), "shared")

    @property
    def is_bypass(self) -> bool:
        """Whether it skips columns and so passes behind them."""
        return self.target > self.source + 1


@dataclass(frozen=True, slots=True)
class River:
    """Everything of the river in data coordinates: x is the column's index, y the share of a datapath."""

    columns: tuple[Column, ...]
    bars: tuple[Bar, ...]
    bands: tuple[Band, ...]
    hidden: int
    """Bands not drawn because they carry less than `HIDDEN_BELOW`."""
    places: tuple[tuple[str, float], ...]
    """Where every site stands on the x axis, those that are not shown evenly between their neighbours."""

    @property
    def stages(self) -> tuple[tuple[str, int, int], ...]:
        """Runs of columns of one stage: name, first and last column."""
        results: list[tuple[str, int, int]] = []
        for k, column in enumerate(self.columns):
            if results and results[-1][0] == column.stage:
                results[-1] = (column.stage, results[-1][1], k)
            else:
                results.append((column.stage, k, k))
        return tuple(results)


def build_river(
    explanation: Network, comparison: Comparison, detail: str, folded: frozenset[str] = frozenset()
) -> River:
    """Return the river of `blocks` (stem, block outputs, head) or of all `sites`.

    Of a folded stage only the last column is shown; what flows through the others is passed on to it.
    """
    shown = [k for k, site in enumerate(explanation.sites) if detail == "sites" or site.role != "inner"]
    shown = shown or list(range(len(explanation.sites)))
    stands_for = Counter(explanation.sites[k].stage for k in shown)
    last = {explanation.sites[k].stage: k for k in shown}
    columns = (
        *(
            _folded(_column(explanation, comparison.sites[k], k, detail), stands_for)
            if explanation.sites[k].stage in folded
            else _column(explanation, comparison.sites[k], k, detail)
            for k in shown
            if explanation.sites[k].stage not in folded or k == last[explanation.sites[k].stage]
        ),
        _head(explanation),
    )
    bars = tuple(bar for k, column in enumerate(columns) for bar in stack(k, column))
    order = {column.site: k for k, column in enumerate(columns)}
    result = between(explanation, comparison, [column.site for column in columns])
    placed = {(order[source], order[target]): matrix for (source, target), matrix in result.items()}
    bands, hidden = lay(placed, bars)
    why = {
        (order[source], order[target]): reasons
        for (source, target), reasons in inexact(explanation, list(order)).items()
    }
    bands = tuple(replace(band, inexact=why.get((band.source, band.target), ())) for band in bands)
    return River(columns, bars, bands, hidden, _places(explanation, columns))


def stack(index: int, column: Column) -> list[Bar]:
    """Return the bars of one column: shared centred on zero, adversarial-only above it, clean-only below."""
    heights = [count / column.kept for count in column.counts]
    half = heights[1] / 2
    gap = GAP if heights[1] else GAP / 2
    lows = (half + gap, -half, -half - gap - heights[2])
    return [
        Bar(index, group, low, low + height, count)
        for group, low, height, count in zip(GROUPS, lows, heights, column.counts, strict=True)
        if count
    ]


def lay(placed: Strengths, bars: Sequence[Bar]) -> tuple[tuple[Band, ...], int]:
    """Return the bands between bars and how many were too weak to draw.

    placed: (source column, target column) -> (target groups, source groups). The bands that leave a bar fill it, and so
    do those that enter it; a weak band's place stays empty. A bar nothing leaves (or enters) stays a stub.
    """
    spans = {(bar.column, bar.group): bar for bar in bars}
    flows = [
        (source, target, GROUPS[down], GROUPS[up], float(matrix[up, down]))
        for (source, target), matrix in placed.items()
        for down in range(len(GROUPS))
        for up in range(len(GROUPS))
        if matrix[up, down] > 0 and (source, GROUPS[down]) in spans and (target, GROUPS[up]) in spans
    ]
    leaving = _slots(flows, spans, is_leaving=True)
    entering = _slots(flows, spans, is_leaving=False)
    totals = {pair: float(matrix.sum()) for pair, matrix in placed.items()}
    bands = [
        Band(flow[0], flow[1], flow[2:4], leaving[k], entering[k], flow[4] / totals[flow[0], flow[1]])
        for k, flow in enumerate(flows)
    ]
    drawn = tuple(band for band in bands if band.share >= HIDDEN_BELOW)
    return drawn, len(bands) - len(drawn)


def _slots(flows: Sequence[tuple], spans: dict, *, is_leaving: bool) -> dict[int, tuple[float, float]]:
    """Return per flow its span on the bar at one end, ordered from top to bottom like the bars at the other end."""
    near, far = (0, 1) if is_leaving else (1, 0)
    by_bar: dict[tuple[int, str], list[int]] = {}
    for k, flow in enumerate(flows):
        by_bar.setdefault((flow[near], flow[2 + near]), []).append(k)
    slots = {}
    for key, members in by_bar.items():
        bar = spans[key]
        scale = (bar.high - bar.low) / sum(flows[k][4] for k in members)
        top = bar.high
        for k in sorted(members, key=lambda k: (GROUPS.index(flows[k][2 + far]), flows[k][far])):
            slots[k] = (top - flows[k][4] * scale, top)
            top = slots[k][0]
    return slots


def _column(explanation: Network, sets: SiteComparison, site: int, detail: str) -> Column:
    place = explanation.sites[site]
    counts = (len(sets.adversarial_only), len(sets.shared), len(sets.clean_only))
    label = place.name if detail == "blocks" else place.name.removeprefix(f"{place.stage}.")
    return Column(place.name, label, place.stage, site, False, counts[1] + max(counts[0], counts[2]), counts)


def _folded(column: Column, stands_for: Mapping[str, int]) -> Column:
    """Return the column under its stage's name, as what it stands for."""
    return replace(column, label=column.stage, stands_for=stands_for[column.stage])


def _head(explanation: Network) -> Column:
    same = explanation.keeps_class
    counts = (0, 1, 0) if same else (1, 0, 1)
    return Column("head", "answer", "head", len(explanation.sites), True, 1, counts)


def _places(explanation: Network, columns: Sequence[Column]) -> tuple[tuple[str, float], ...]:
    shown = [column.site for column in columns]
    x = np.interp(np.arange(len(explanation.sites)), shown, np.arange(len(shown)))
    return tuple((site.name, float(place)) for site, place in zip(explanation.sites, x, strict=True))


@dataclass(frozen=True, slots=True)
class Mark:
    """A site that a finding names, where it stands on the x axis."""

    position: float
    site: str
    text: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Attack conductance through one site that other paths pass by."""

    site: str
    share: float
    """Of the margin lost, signed."""
    floor: float
    """Largest share under noise of the same size; NaN while the noise control is still being computed."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One value per shown site (the head has none); every tuple has the length of `names`."""

    names: tuple[str, ...]
    distance: tuple[float, ...]
    """1 - Jaccard of the clean and the adversarial datapath."""
    interval: tuple[tuple[float, float], ...] | None
    """95 % of it over the images of a group; None for a single pair, and for the means of a run."""
    floor_low: tuple[float, ...]
    floor_high: tuple[float, ...]
    """NaN while the noise control is still being computed, as the floors of `flow` are."""
    flow: tuple[Flow | None, ...]
    """What passes through the branch of each column's block; None where every path runs through the one site."""
    true_class: tuple[float, ...] | None
    """Jaccard with the true class's datapath; None until it has been computed."""
    fooled_into: tuple[float, ...] | None
    true_name: str
    fooled_name: str
    parts: Mark | None
    merges: Mark | None
    localised: tuple[LayerShare | None, ...] | None = None
    """Where the localisation stands in the flow's place: None of a layer that it says nothing of."""
    too_few: bool = False
    """Whether the localisation is of too few images for a layer to stand out."""
    flow_unit: str = "the margin lost"
    """What the shares of the attack conductance are of."""
    no_noise: str = "still being computed"
    """Why there is no floor, where there is none."""


def with_localisation(curves: Curves, localisation: Localisation | None) -> Curves:
    """Return the curves with the localisation in the attack conductance's place; of no layer while it is not known."""
    layers = {layer.site: layer for layer in localisation.layers} if localisation else {}
    too_few = localisation is not None and not localisation.can_decide
    return replace(curves, localised=tuple(layers.get(name) for name in curves.names), too_few=too_few)


def build_curves(
    explanation: Explanation, comparison: Comparison, drawn: River, class_similarity: ClassSimilarity | None
) -> Curves:
    """Return the curves at the columns of the river; the marks may lie between them."""
    names = explanation.classes[explanation.clean.target], explanation.classes[explanation.adversarial.target]
    return curves_of(explanation, comparison, drawn, class_similarity, names)


def curves_of(
    network: Network,
    comparison: Comparison,
    drawn: River,
    class_similarity: ClassSimilarity | None,
    names: tuple[str, str],
) -> Curves:
    """Return the same of any network; names: of the true and of the fooled-into class."""
    sites = [column.site for column in drawn.columns if not column.is_head]
    rows = [comparison.sites[k] for k in sites]
    places = dict(drawn.places)
    has_interval = comparison.images > 1 and not math.isnan(rows[0].distance_low)
    return Curves(
        names=tuple(row.site for row in rows),
        distance=tuple(row.distance for row in rows),
        interval=tuple((row.distance_low, row.distance_high) for row in rows) if has_interval else None,
        floor_low=tuple(row.floor_low for row in rows),
        floor_high=tuple(row.floor_high for row in rows),
        flow=tuple(_flow(network, comparison, k, set(sites)) for k in sites),
        true_class=tuple(class_similarity.true_class[k] for k in sites) if class_similarity else None,
        fooled_into=tuple(class_similarity.fooled_into[k] for k in sites) if class_similarity else None,
        true_name=names[0],
        fooled_name=names[1],
        parts=_mark(places, comparison.diverges_at, "diverge at"),
        merges=_mark(
            places, class_similarity.converges_at if class_similarity else None, f"nearer to '{names[1]}' from"
        ),
    )


def _flow(explanation: Network, comparison: Comparison, site: int, shown: set[int]) -> Flow | None:
    """The flow of a site, or for a block's output, where it is the whole margin by construction, of the block's branch."""
    inside = range(site) if explanation.sites[site].is_cut else range(site + 1)
    block = explanation.sites[site].name
    places = [
        k
        for k in inside
        if not explanation.sites[k].is_cut
        and (k == site or (k not in shown and explanation.sites[k].name.startswith(f"{block}.")))
    ]
    if not places:
        return None
    row = comparison.sites[places[-1]]
    return Flow(row.site, row.flow, row.flow_floor)


def _mark(places: dict[str, float], site: str | None, text: str) -> Mark | None:
    return Mark(places[site], site, f"{text} {site}") if site is not None else None


@dataclass(frozen=True, slots=True)
class Row:
    """One site; the field names are the columns of the file."""

    site: str
    stage: str
    maps: int
    clean_only: int
    shared: int
    adversarial_only: int
    distance: float
    floor_low: float | None
    floor_high: float | None
    flow: float
    flow_floor: float | None
    """Floors are None while the noise control is still being computed."""
    role: str
    """`stem` and `evidence` (maps that are the classes themselves) are left out of claims."""
    is_cut: bool
    """Every path runs through it, so its flow is the whole margin whatever the attack."""


def site_rows(explanation: Explanation, comparison: Comparison) -> tuple[Row, ...]:
    """Return one row per site in network order, whatever the river shows."""
    return tuple(
        Row(
            place.name,
            place.stage,
            place.channels,
            len(sets.clean_only),
            len(sets.shared),
            len(sets.adversarial_only),
            round(sets.distance, 6),
            _rounded(sets.floor_low),
            _rounded(sets.floor_high),
            round(sets.flow, 6),
            _rounded(sets.flow_floor),
            place.role,
            place.is_cut,
        )
        for place, sets in zip(explanation.sites, comparison.sites, strict=True)
    )


def _rounded(floor: float) -> float | None:
    return None if math.isnan(floor) else round(floor, 6)


def summary(explanation: Explanation, comparison: Comparison) -> str:
    """Return what the river shows in words, for those who cannot see it."""
    first, last = comparison.sites[0], comparison.sites[-1]
    return (
        f"Network of {len(explanation.sites)} layers at {percent(comparison.share)} kept channels. "
        f"At {first.site} {len(first.shared)} channels are shared and {len(first.clean_only)} clean only; "
        f"at {last.site} {len(last.shared)} are shared and {len(last.clean_only)} clean only. {_most_above(comparison)}"
    )


def _most_above(comparison: Comparison) -> str:
    widest = max(comparison.sites, key=lambda site: site.distance - site.floor_high)
    if math.isnan(widest.floor_high):
        return "The noise control is still being computed."
    return f"Most above noise: {widest.site}, distance {widest.distance:.2f} against at most {widest.floor_high:.2f}."


def against_class(explanation: Explanation, classes: ClassDatapaths) -> Explanation:
    """Return the explanation with clean images of the fooled-into class in the clean run's place.

    Their datapath is a mean over images, so it stands for every image of a group; of their connections nothing is known.
    """
    images = len(explanation.outcomes)
    scores = tuple(np.repeat(site[None].astype(np.float32), images, axis=0) for site in classes.fooled)
    return _in_place_of_clean(explanation, scores, explanation.adversarial.target)


def against_noise(explanation: Explanation) -> Explanation:
    """Return the explanation with each image's first same-norm noisy copy in the clean run's place."""
    images = len(explanation.outcomes)
    scores = tuple(site[:: max(1, len(site) // images)][:images] for site in explanation.noise.scores)
    return _in_place_of_clean(explanation, scores, explanation.noise.target)


def _in_place_of_clean(explanation: Explanation, scores: tuple[np.ndarray, ...], target: int) -> Explanation:
    path: Datapath = replace(explanation.clean, scores=scores, target=target, carries_at=None, sizes=(), carried=())
    unknown = tuple(_without_clean(link) for link in explanation.connections)
    return replace(explanation, clean=path, connections=unknown)


def _without_clean(link: Connection) -> Connection:
    return replace(link, clean=np.zeros_like(link.clean))
