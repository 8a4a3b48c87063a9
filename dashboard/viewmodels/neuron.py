"""The neuron level: what one feature map does in each datapath, and where in the input it looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dashboard.viewmodels import asks, fields, layer
from engine import Comparison, Datapath, DatasetCard, Examination, Gallery, ModelCard, Site, UnknownName, class_handles

BINS = 24
ORDERS = ("relevance", "activation")


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
    box: fields.Box
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


Span = tuple[float, float]
"""First and last edge, as shares of the image's height or width."""


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


def build(
    examination: Examination, comparison: Comparison, maps: tuple[np.ndarray, np.ndarray], ask: asks.NeuronAsk
) -> NeuronCard:
    """Return the card of a map; maps: clean and adversarial (height, width) as stored. Raises UnknownName."""
    k = layer.site_index(examination, ask.layer)
    site, sets = examination.sites[k], comparison.sites[k]
    check_channel(ask.channel, site)
    image = examination.images["clean"].shape[1:3]
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
        images=len(examination.outcomes),
        group=group,
        clean=_standing(examination.clean, k, ask.channel, kept=group in (layer.CLEAN_ONLY, layer.SHARED)),
        adversarial=_standing(
            examination.adversarial, k, ask.channel, kept=group in (layer.ADVERSARIAL_ONLY, layer.SHARED)
        ),
        flow=float(layer.flow_shares(examination, k)[ask.channel]),
        change=float(examination.change[k][ask.channel]),
        clean_peak=peak(maps[0], site, image),
        adversarial_peak=peak(maps[1], site, image),
    )


def peak(stored: np.ndarray, site: Site, image: tuple[int, int]) -> Peak:
    """Return the largest position of a stored map and its receptive field in an image of (height, width)."""
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(stored)), stored.shape))
    box = _seen(site, row, column, (stored.shape[0], stored.shape[1]), image)
    return Peak(row, column, float(stored[row, column]), box)


def grid(examination: Examination, site: Site, maps: tuple[np.ndarray, np.ndarray]) -> Grid:
    """Return values and receptive fields of all positions; maps: clean and adversarial (height, width) as stored."""
    rows, columns = maps[0].shape
    height, width = examination.images["clean"].shape[1:3]
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


def _seen(site: Site, row: int, column: int, shape: tuple[int, int], image: tuple[int, int]) -> fields.Box:
    """Return what a position of a stored map sees, as shares of the image, clipped to it."""
    height, width = image
    return fields.stored_field(site, row, column, shape).clipped(height, width).scaled(1 / height, 1 / width)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values.astype(float).ravel())


def distribution(clean: np.ndarray, adversarial: np.ndarray, noise: np.ndarray | None = None) -> Distribution:
    """Return histograms of the maps over common bins from their joint lowest to their joint highest value."""
    maps = [clean, adversarial, *([] if noise is None else [noise])]
    low, high = float(min(one.min() for one in maps)), float(max(one.max() for one in maps))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return Distribution(edges, *(np.histogram(one, edges)[0] for one in maps))


def patches(gallery: Gallery, model: ModelCard, data: DatasetCard, ask: asks.NeuronAsk, order: str) -> Patches:
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
