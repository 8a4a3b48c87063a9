"""Pictures of what feature maps look for: planted filters are found again, and planted disagreement is told."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import serialization
from engine.attribution import baselines
from engine.features import gallery, visualization
from engine.store import Store
from engine.types import checks
from engine.types.core import DatasetCard
from tests import toys
from tests.test_sites import Shuffled

SIDE = 24
FILTERS = 12
DEAD, SILENT = 10, 11
CHECKERED = 5
KERNEL = 7


def silent(*_):
    """Report nothing."""


def oriented(angle: float) -> Tensor:
    """An edge: (7, 7), zero in sum, length one."""
    ticks = torch.linspace(-1, 1, KERNEL)
    down, across = torch.meshgrid(ticks, ticks, indexing="ij")
    turned = across * math.cos(angle) + down * math.sin(angle)
    edge = turned * torch.exp(-2 * (down**2 + across**2))
    return edge / edge.norm()


def best_picture(angle: float) -> Tensor:
    """Black and white where an edge is negative and positive: what drives it furthest; grey where it does not look."""
    edge = oriented(angle)
    return torch.sign(edge) * (edge.abs() > 1e-3)


def checkerboard() -> Tensor:
    """The finest pattern there is, (7, 7), zero in sum over every 2 x 2 block, length one."""
    board = (torch.arange(KERNEL)[:, None] + torch.arange(KERNEL)) % 2 * 2.0 - 1.0
    return (board - board.mean()) / KERNEL


class Edges(nn.Module):
    """Ten oriented edges, one of them switched off by its bias, and one map without weights; then two more layers."""

    def __init__(self, checkered: float = 0.0) -> None:
        super().__init__()
        self.edges = nn.Conv2d(3, FILTERS, KERNEL, padding=KERNEL // 2)
        self.deeper = nn.Conv2d(FILTERS, FILTERS, 3, padding=1)
        self.linear = nn.Linear(FILTERS, 3)
        toys.seeded(self)
        with torch.no_grad():
            self.edges.bias.zero_()
            self.edges.weight.zero_()
            for k in range(SILENT):
                self.edges.weight[k] = oriented(math.pi * k / DEAD)
            self.edges.weight[CHECKERED] += checkered * checkerboard()
            self.edges.bias[DEAD] = -100.0
            self.deeper.weight[SILENT], self.deeper.bias[SILENT] = 0.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.deeper(F.relu(self.edges(x)))).mean((2, 3)))


def smooth_images(count: int, channels: int) -> np.ndarray:
    """Random edges and blobs (count, 24, 24, channels) uint8 in which every 2 x 2 block is of one colour."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, size=(count, SIDE // 6, SIDE // 6, channels), dtype=np.uint8)
    return coarse.repeat(6, axis=1).repeat(6, axis=2)


def dataset_of(tmp_path, channels: int):
    store = Store(tmp_path / f"store{channels}")
    labels = np.arange(40) % 3
    card = DatasetCard(
        "toys", "x", 40, toys.CLASSES, tuple(np.bincount(labels).tolist()), channels, (SIDE, SIDE), "npz", "2026"
    )
    store.add_data(card, smooth_images(40, channels), labels, tuple(str(k) for k in range(40)))
    return store.dataset("toys")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("colour"), 3)


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(Edges(), SIDE)


@pytest.fixture(scope="module")
def patches(bundle, dataset):
    return gallery.build(bundle, dataset, silent)


@pytest.fixture(scope="module")
def make(bundle, dataset, patches):
    """The picture of a map of the network of edges, each made once."""
    made = {}

    def picture(channel: int, site: int = 0):
        if (site, channel) not in made:
            made[site, channel] = visualization.visualize(bundle, dataset, patches, (site, channel), silent)
        return made[site, channel]

    return picture


def correlation(found, wanted: Tensor) -> float:
    """Correlation of the part a position sees with a filter, colours added up."""
    top, left, bottom, right = found.field
    seen = found.picture[top:bottom, left:right].astype(float).sum(axis=2)
    return float(np.corrcoef(seen.ravel(), wanted.numpy().ravel())[0, 1])


@pytest.mark.parametrize("channel", [0, 3, 7])
def test_a_planted_edge_is_found_again_and_is_not_that_of_another_map(make, channel):
    found = make(channel)
    assert found.field == (9, 9, 16, 16)
    assert correlation(found, best_picture(math.pi * channel / DEAD)) > 0.95
    assert abs(correlation(found, best_picture(math.pi * channel / DEAD + math.pi / 2))) < 0.3


@pytest.mark.parametrize("channel", [0, 3, 7])
def test_no_picture_drives_a_planted_edge_much_further(make, bundle, channel):
    """The most that pixels from 0 to 1, seen as -2 to 2, can give: twice the sum of the absolute weights."""
    most = 2 * float(bundle.network.edges.weight[channel].abs().sum())
    assert 0.95 * most < make(channel).achieved < most


def test_a_unit_that_is_switched_off_still_shows_what_it_would_look_for(make, bundle, dataset):
    found = make(DEAD)
    with torch.no_grad():
        logits = gallery.arrival(bundle, baselines.load(bundle, dataset, dataset.keys), 0)
    assert (logits[:, DEAD] < 0).all(), "the planted unit never fires"
    assert found.is_before_activation
    assert correlation(found, best_picture(math.pi)) > 0.95
    assert found.achieved > found.real.max() > found.usual


@pytest.mark.parametrize("site", [0, 1])
def test_a_map_without_weights_is_flat_and_said_to_be_silent(make, site):
    found = make(SILENT, site)
    assert found.is_silent
    assert found.doubts == ("silent",)
    assert (found.excess, found.recognition) == (None, None)
    assert (found.picture == found.picture[0, 0]).all()
    assert not make(0, site).is_silent


def test_the_strengths_are_those_of_the_stored_picture_and_the_real_patches(make, bundle, dataset, patches):
    found = make(3)
    stored = torch.from_numpy(found.picture.astype(np.float32) / 255).permute(2, 0, 1)[None]
    slow = F.conv2d((stored - 0.5) / 0.25, bundle.network.edges.weight, padding=KERNEL // 2)[0, 3, 12, 12]
    assert found.achieved == pytest.approx(float(slow), rel=1e-5)
    images = baselines.load(bundle, dataset, tuple(patches.samples[k] for k in patches.activation[0][3]))
    every = F.conv2d((images - 0.5) / 0.25, bundle.network.edges.weight, padding=KERNEL // 2)[:, 3]
    assert np.allclose(found.real, every.amax((1, 2)).numpy(), rtol=1e-5)
    assert list(found.real) == sorted(found.real, reverse=True)


def test_the_same_map_gives_the_same_picture_and_the_generator_is_left_alone(make, bundle, dataset, patches):
    before = torch.get_rng_state()
    again = visualization.visualize(bundle, dataset, patches, (1, 4), silent)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = serialization.flatten(make(4, 1)), serialization.flatten(again)
    assert first.value == second.value
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    assert not np.array_equal(make(4, 1).picture, make(5, 1).picture)


def test_nothing_is_left_on_in_the_network(make, bundle):
    make(1)
    assert all(probe.visit is None for probe in bundle.taps)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in bundle.network.parameters())


def test_grey_data_give_grey_pictures_and_coloured_ones_coloured(tmp_path, bundle, make):
    grey = dataset_of(tmp_path, 1)
    found = visualization.visualize(bundle, grey, gallery.build(bundle, grey, silent), (1, 4), silent)
    assert found.picture.shape == (SIDE, SIDE, 3)
    assert np.ptp(found.picture.astype(int), axis=2).max() == 0
    assert np.ptp(found.picture[..., 0].astype(int)) > 50, "and it is a picture"
    assert np.ptp(make(4, 1).picture.astype(int), axis=2).max() > 10


def test_nothing_speaks_against_the_pictures_of_honest_edges(make):
    found = [make(channel) for channel in (0, 3, 5, 7)]
    assert [item.doubts for item in found] == [()] * 4


def test_a_map_that_hides_a_pattern_no_image_has_is_told_by_its_strength(dataset):
    """On the images it is the edge it claims to be; in truth it prefers a checkerboard (Geirhos et al. 2024)."""
    hiding = toys.bundle(Edges(checkered=20.0), SIDE)
    found = visualization.visualize(hiding, dataset, gallery.build(hiding, dataset, silent), (0, CHECKERED), silent)
    assert correlation(found, checkerboard()) > 0.8
    assert abs(correlation(found, best_picture(math.pi / 2))) < 0.5
    assert "beyond" in found.doubts


@pytest.mark.parametrize("channel", [0, 3, 7])
def test_patches_of_another_map_are_not_taken_for_its_own(bundle, dataset, patches, channel):
    def turned(ranked):
        return (np.roll(ranked[0], 3, axis=0), *ranked[1:])

    swapped = replace(
        patches, activation=turned(patches.activation), activation_positions=turned(patches.activation_positions)
    )
    found = visualization.visualize(bundle, dataset, swapped, (0, channel), silent)
    assert "foreign" in found.doubts
    assert found.recognition < checks.RECOGNISED


def test_a_picture_weaker_than_the_patches_is_no_answer(make):
    found = make(3)
    assert replace(found, achieved=float(found.real.max()) - 1e-3).doubts == ("weak",)
    assert replace(found, achieved=found.usual + 5.01 * (float(found.real.max()) - found.usual)).doubts == ("beyond",)
    assert set(checks.DOUBTS) == {"silent", "weak", "beyond", "foreign"}


def test_few_maps_are_too_few_to_recognise_by(tmp_path):
    small = toys.bundle(toys.seeded(toys.Residual()), SIDE)
    data = dataset_of(tmp_path, 3)
    found = visualization.visualize(small, data, gallery.build(small, data, silent), (0, 1), silent)
    assert found.recognition is None
    assert "foreign" not in found.doubts


class Wide(nn.Module):
    """Its second kernel needs the seven positions that 190 pixels leave, where 128 would leave five."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, stride=30), nn.Conv2d(4, 3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.after(F.relu(self.before(x)))).mean((2, 3))


def test_a_picture_for_a_large_network_is_reduced_where_its_layers_allow(bundle):
    wide, blank = toys.bundle(Wide(), 190), torch.full((1, 3, 190, 190), 0.5)
    assert visualization.canvas(wide, blank, 0).size == (128, 128)
    assert visualization.canvas(wide, blank, 1).size == (190, 190)
    assert visualization.canvas(bundle, blank, 0).size == (SIDE, SIDE)


class Stretched(Shuffled):
    """Halves its maps by stretching them to a size that its forward reads of the picture."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.interpolate(x, size=(x.shape[2] // 2, x.shape[3] // 2))
        return self.linear(F.relu(self.outer(x)).mean((2, 3)))


@pytest.mark.parametrize(("network", "sides"), [(Shuffled, [128, 128, 128, 160]), (Stretched, [128, 160])])
def test_where_maps_have_sizes_of_their_own_pictures_are_whole(network, sides):
    """Behind the maps that are moved about by their sizes, a picture of another size does not fit."""
    found, blank = toys.bundle(toys.seeded(network()), 160), torch.full((1, 3, 160, 160), 0.5)
    assert [visualization.canvas(found, blank, k).size for k in range(len(found.sites))] == [
        (side, side) for side in sides
    ]
    ground = visualization.canvas(found, blank, len(sides) - 1)
    picture, is_excited = visualization.paint(found, ground, len(sides) - 1, 0, silent)
    assert picture.shape == (1, 3, 160, 160)
    assert is_excited


def test_colours_are_mixed_as_in_the_data():
    """Independent noise through the mixing has the covariance of the pixels, up to one factor."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.3], [0.1, 0.3, 0.5]])
    drawn = torch.randn(5000, 3, generator=generator) @ torch.linalg.cholesky(wanted).T
    mixing = visualization._mixing(0.5 + 0.01 * drawn)
    mixed = mixing @ mixing.T
    assert torch.allclose(mixed / mixed[0, 0], wanted, atol=0.05)
    assert mixing.norm(dim=0).max() == pytest.approx(1.0)
