"""One feature map as values: its place in the layer, its patches, its neighbours, its picture and its responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dashboard import pictures, protocol
from dashboard.panels.layer import model as layer
from dashboard.wording import number, percent
from engine import (
    DOUBTS,
    Comparison,
    Datapath,
    DatasetCard,
    Explanation,
    FeatureVisualization,
    Gallery,
    Measure,
    ModelCard,
    Responses,
    Side,
    Site,
    UnknownName,
    class_handles,
    read_fraction,
)

BINS = 24
ORDERS = ("relevance", "activation")
Span = tuple[float, float]
"""First and last edge, as shares of the image's height or width."""
NEIGHBOURS = 8
Candidates = list[tuple[int, np.ndarray, np.ndarray]]
"""Per link the site at its other end, maps there, and their contributions."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The place of a map in one datapath at its site."""

    rank: int
    """1 is the strongest of the site."""
    share: float
    """Share of the datapath's whole score."""
    contribution: float
    """Signed contribution to the target's logit margin, mean over the images."""
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a map is largest, and the part of the input it sees from there."""

    row: int
    column: int
    value: float
    box: pictures.Box
    """Clipped to the image; all edges as shares of its width and height, 0 to 1."""


@dataclass(frozen=True, slots=True)
class NeuronCard:
    """Everything of one map that does not need the gallery."""

    key: str
    site: int
    layer: str
    channel: int
    channels: int
    height: int
    width: int
    """Of the stored map."""
    field_size: tuple[float, float]
    """Height and width of what a position sees, in input pixels."""
    sees_everything: bool
    """True where the receptive field is at least as large as the image."""
    images: int
    group: int
    clean: Standing
    adversarial: Standing
    flow: float
    """Share of the margin the attack took, signed."""
    change: float
    clean_peak: Peak
    adversarial_peak: Peak


@dataclass(frozen=True, slots=True)
class Grid:
    """What every position of one map answers and sees, so that the browser can tell it of any position at once."""

    rows: int
    columns: int
    clean: tuple[float, ...]
    """Values row by row, four significant digits."""
    adversarial: tuple[float, ...]
    vertical: tuple[Span, ...]
    """Per row what it sees of the image, clipped to it."""
    horizontal: tuple[Span, ...]
    size: tuple[int, int]
    """Height and width of the image in pixels."""


@dataclass(frozen=True, eq=False, slots=True)
class Distribution:
    """Histograms over the positions of one map."""

    edges: np.ndarray
    """(bins + 1,) activations."""
    clean: np.ndarray
    """(bins,) numbers of positions."""
    adversarial: np.ndarray
    noise: np.ndarray | None = None
    """On a noisy copy of the same norm; None where it is not stored."""


@dataclass(frozen=True, slots=True)
class Patches:
    """The gallery of one map in one order."""

    order: str
    site: int
    channel: int
    classes: tuple[str, ...]
    """Class of each patch's image, strongest first."""
    version: str
    """Changes when the model or the data set does."""


def check_channel(channel: int, site: Site) -> None:
    """Raise UnknownName for a channel that the site does not have."""
    if not 0 <= channel < site.channels:
        raise UnknownName(f"feature map of {site.name}", channel, (f"0 to {site.channels - 1}",))


def build_card(
    explanation: Explanation, comparison: Comparison, maps: tuple[np.ndarray, np.ndarray], ask: protocol.NeuronAsk
) -> NeuronCard:
    """Return the card of a map; maps: clean and adversarial (height, width) as stored. Raises UnknownName."""
    k = layer.site_index(explanation, ask.layer)
    site, sets = explanation.sites[k], comparison.sites[k]
    check_channel(ask.channel, site)
    image = explanation.images["clean"].shape[1:3]
    group = int(layer.groups(sets, site.channels)[ask.channel])
    return NeuronCard(
        key=ask.key,
        site=k,
        layer=ask.layer,
        channel=ask.channel,
        channels=site.channels,
        height=maps[0].shape[0],
        width=maps[0].shape[1],
        field_size=(site.receptive_field(0)[0], site.receptive_field(1)[0]),
        sees_everything=all(site.receptive_field(axis)[0] >= image[axis] for axis in (0, 1)),
        images=len(explanation.outcomes),
        group=group,
        clean=_standing(explanation.clean, k, ask.channel, kept=group in (layer.CLEAN_ONLY, layer.SHARED)),
        adversarial=_standing(
            explanation.adversarial, k, ask.channel, kept=group in (layer.ADVERSARIAL_ONLY, layer.SHARED)
        ),
        flow=float(layer.flow_shares(explanation, k)[ask.channel]),
        change=float(explanation.change[k][ask.channel]),
        clean_peak=peak(maps[0], site, image),
        adversarial_peak=peak(maps[1], site, image),
    )


def peak(stored: np.ndarray, site: Site, image: tuple[int, int]) -> Peak:
    """Return the largest position of a stored map and its receptive field in an image of (height, width)."""
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(stored)), stored.shape))
    box = _seen(site, row, column, (stored.shape[0], stored.shape[1]), image)
    return Peak(row, column, float(stored[row, column]), box)


def grid(explanation: Explanation, site: Site, maps: tuple[np.ndarray, np.ndarray]) -> Grid:
    """Return values and receptive fields of all positions; maps: clean and adversarial (height, width) as stored."""
    rows, columns = maps[0].shape
    height, width = explanation.images["clean"].shape[1:3]
    fields_of = [_seen(site, row, 0, (rows, columns), (height, width)) for row in range(rows)]
    across = [_seen(site, 0, column, (rows, columns), (height, width)) for column in range(columns)]
    return Grid(
        rows,
        columns,
        _rounded(maps[0]),
        _rounded(maps[1]),
        tuple((round(box.top, 4), round(box.bottom, 4)) for box in fields_of),
        tuple((round(box.left, 4), round(box.right, 4)) for box in across),
        (height, width),
    )


def _seen(site: Site, row: int, column: int, shape: tuple[int, int], image: tuple[int, int]) -> pictures.Box:
    """Return what a position of a stored map sees, as shares of the image, clipped to it."""
    height, width = image
    return pictures.stored_field(site, row, column, shape).clipped(height, width).scaled(1 / height, 1 / width)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values.astype(float).ravel())


def distribution(clean: np.ndarray, adversarial: np.ndarray, noise: np.ndarray | None = None) -> Distribution:
    """Return histograms of the maps over common bins from their joint lowest to their joint highest value."""
    maps = [clean, adversarial, *([] if noise is None else [noise])]
    low, high = float(min(map.min() for map in maps)), float(max(map.max() for map in maps))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return Distribution(edges, *(np.histogram(map, edges)[0] for map in maps))


def patches(gallery: Gallery, model: ModelCard, data: DatasetCard, ask: protocol.NeuronAsk, order: str) -> Patches:
    """Return the gallery of a map by `relevance` or `activation`; raises UnknownName."""
    ranked, _ = ranking(gallery, order)
    names = [site.name for site in model.sites]
    if ask.layer not in names:
        raise UnknownName("layer", ask.layer, names)
    site = names.index(ask.layer)
    check_channel(ask.channel, model.sites[site])
    labels = gallery.labels[ranked[site][ask.channel]]
    called = class_handles(model.classes)
    classes = tuple(called[int(label)] for label in labels)
    return Patches(order, site, ask.channel, classes, f"{model.content_hash[:12]}-{data.content_hash[:12]}")


def ranking(gallery: Gallery, order: str) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return per site the images and the peak positions of the top patches by `order`; raises UnknownName."""
    if order not in ORDERS:
        raise UnknownName("order of patches", order, ORDERS)
    if order == "relevance":
        return gallery.relevance, gallery.relevance_positions
    return gallery.activation, gallery.activation_positions


def _standing(datapath: Datapath, site: int, channel: int, *, kept: bool) -> Standing:
    strength = datapath.strength[site]
    # Ties go to the lower index, as when maps are selected.
    rank = int(np.flatnonzero(np.argsort(-strength, kind="stable") == channel)[0]) + 1
    return Standing(rank, float(strength[channel]), float(datapath.scores[site][:, channel].mean()), kept)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A map, or a class's logit, one step before or behind the one that is looked at."""

    name: str
    """`layer2.1 · 12`, or the class."""
    layer: str | None
    """None for a logit."""
    channel: int | None
    group: int | None
    contribution: float
    """Signed, in logits of the margin explained."""
    inexact: str = ""
    """Why the contribution is not what changing the one map alone does, in words; empty where it is."""
    tile: Tile | None = None
    """Where its picture stands; None for a logit."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The place of a map on the picture sheet of its layer."""

    site: int
    channel: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """One map between its neighbours, strongest first on either side."""

    name: str
    group: int
    side: Side
    incoming: tuple[Neighbour, ...]
    outgoing: tuple[Neighbour, ...]
    incoming_total: int
    """All incoming connections, of which the strongest are listed."""
    outgoing_total: int

    @property
    def largest(self) -> float:
        """Largest |contribution| listed; 0 without neighbours."""
        return max((abs(item.contribution) for item in (*self.incoming, *self.outgoing)), default=0.0)


def build_neighbourhood(
    explanation: Explanation, comparison: Comparison, site: int, channel: int, side: Side
) -> Neighbourhood:
    """Return the neighbourhood of a map in one datapath."""
    why = explanation.inexact
    into = {source: reason for (source, target), reason in why.items() if target == site}
    out_of = {target: reason for (source, target), reason in why.items() if source == site}
    incoming, all_incoming = _strongest(explanation, comparison, _incoming(explanation, site, channel, side), into)
    outgoing, all_outgoing = _strongest(explanation, comparison, _outgoing(explanation, site, channel, side), out_of)
    group = int(layer.groups(comparison.sites[site], explanation.sites[site].channels)[channel])
    name = _map_name(explanation, site, channel)
    return Neighbourhood(name, group, side, incoming, outgoing, all_incoming, all_outgoing)


def _incoming(explanation: Explanation, site: int, channel: int, side: Side) -> Candidates:
    return [
        (connection.source, *connection.into(side, channel))
        for connection in explanation.connections
        if connection.target == site
    ]


def _outgoing(explanation: Explanation, site: int, channel: int, side: Side) -> Candidates:
    results = []
    for connection in explanation.connections:
        if connection.source == site:
            values = connection.out_of(side, channel)
            is_one_class = connection.target == len(explanation.sites) and _has_one_class(explanation)
            values = values[:1] if is_one_class else values
            results.append((connection.target, np.arange(len(values)), values))
    return results


def _has_one_class(explanation: Explanation) -> bool:
    """Whether both rows of the logits are the same class, as for an image that resisted."""
    return explanation.clean.target == explanation.adversarial.target


def _strongest(
    explanation: Explanation, comparison: Comparison, candidates: Candidates, why: Mapping[int, str]
) -> tuple[tuple[Neighbour, ...], int]:
    """Return the strongest neighbours that contribute at all, over all links together, and how many contribute.

    why: by the site at a link's other end, why the link is not exact.
    """
    if not candidates:
        return (), 0
    sites = np.concatenate([np.full(len(values), site) for site, _, values in candidates])
    rows = np.concatenate([rows for _, rows, _ in candidates])
    values = np.concatenate([values for _, _, values in candidates])
    best = [int(i) for i in np.argsort(-np.abs(values), kind="stable")[:NEIGHBOURS] if values[i] != 0]
    results = [_neighbour(explanation, comparison, int(sites[i]), int(rows[i]), float(values[i])) for i in best]
    marked = [replace(one, inexact=why.get(int(sites[i]), "")) for i, one in zip(best, results, strict=True)]
    return tuple(marked), int(np.count_nonzero(values))


def _neighbour(explanation: Explanation, comparison: Comparison, site: int, row: int, value: float) -> Neighbour:
    if site == len(explanation.sites):
        return Neighbour(f"class {_logit_class(explanation, row)}", None, None, None, value)
    group = int(layer.groups(comparison.sites[site], explanation.sites[site].channels)[row])
    channels = explanation.sites[site].channels
    columns = pictures.columns(channels)
    tile = Tile(site, row, columns, -(-channels // columns))
    return Neighbour(_map_name(explanation, site, row), explanation.sites[site].name, row, group, value, tile=tile)


def _map_name(explanation: Explanation, site: int, channel: int) -> str:
    return f"{explanation.sites[site].name} · {channel}"


def _logit_class(explanation: Explanation, row: int) -> str:
    """Return the class of a row of the logits: the true class, then the fooled-into class."""
    label = explanation.clean.target if row == 0 else explanation.adversarial.target
    return explanation.classes[label]


@dataclass(frozen=True, slots=True)
class Feature:
    """The picture that was made to excite a map, in words; `caveats` say why it may not be believed."""

    told: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Response:
    """One map's peak at growing strength, per strength; all arrays have one length."""

    epsilon: np.ndarray
    """As they stand along the axis of the measure."""
    written: tuple[str, ...]
    attack: np.ndarray
    noise: np.ndarray
    fooled: np.ndarray
    """Share of the images that the attack fools."""
    measure: Measure


def describe(feature_visualization: FeatureVisualization) -> Feature:
    """Return what is said beside the picture."""
    place = "before its activation" if feature_visualization.is_before_activation else "at this layer"
    strongest = float(feature_visualization.real.max(initial=0.0))
    results = [
        f"It drives the channel to {number(feature_visualization.achieved)} {place}; the strongest real patch to "
        f"{number(strongest)}.",
        "Made by gradient ascent from noise, for the channel's centre position and no more than it sees: what the "
        "channel can answer "
        "to, not what it finds in this data.",
    ]
    if feature_visualization.recognition is not None:
        results.insert(
            1,
            "The layer answers to it as to this channel's patches, more so than as to those of "
            f"{_others(feature_visualization.recognition)}.",
        )
    return Feature(tuple(results), tuple(DOUBTS[doubt] for doubt in feature_visualization.doubts))


def response(responses: Responses, site: int, channel: int, measure: Measure) -> Response:
    """Return the mean over images of one map's peak, under the attack and under noise of the same length."""
    values = np.array([float(read_fraction("epsilon", text)) for text in responses.epsilons])
    return Response(
        epsilon=values * measure.factor,
        written=tuple(measure.text(float(value)) for value in values),
        attack=np.asarray(responses.peak[site][:, channel]),
        noise=np.asarray(responses.noise_peak[site][:, channel]),
        fooled=np.asarray(responses.fooled.mean(axis=1)),
        measure=measure,
    )


def _others(share: float) -> str:
    return "every other channel of the layer" if share == 1 else f"{percent(share)} of the layer's other channels"
