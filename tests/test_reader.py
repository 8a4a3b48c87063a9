"""What the reader makes of networks that are written in other ways, and that their edges are what really changes.

The oracle runs the network with the maps of every site held at their recorded values, puts one map of one site in from the
other run, and looks at what arrives at every site that is read later: a link that was missed shows there as well.
"""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attribution import edges as connections
from engine.checks import equality
from engine.models import hooks
from engine.models import network as precision
from engine.models.network import ModelBundle
from tests import toys
from tests.test_connections import explained

SIDE = 12


class Toy(nn.Module):
    """A stem of four maps, and a last convolution that reads what the body made of them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.wide, self.outer = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(width, 5, 3)
        self.linear = nn.Linear(5, 3)

    def body(self, x: Tensor) -> Tensor:
        """Return what the last convolution reads of a picture."""
        return F.relu(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.outer(self.body(x))).mean((2, 3)))


class PreActivated(Toy):
    """Two blocks of a residual network with batch norm and activation first (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.inner(F.relu(self.first(x)))
        x = x + self.again(F.relu(self.second(x)))
        return F.relu(self.third(x))


class PictureLater(Toy):
    """The picture itself is put beside the maps of the stem."""

    def __init__(self) -> None:
        super().__init__(7)

    def body(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.stem(x)), x], dim=1)


class PictureAdded(Toy):
    """The picture is added through a convolution of one pixel, past the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.past = nn.Conv2d(3, 4, 1)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(F.relu(self.stem(x))) + self.past(x))


class PictureBesideAdded(Toy):
    """The picture, scaled and padded to as many maps, is added as it is."""

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(F.relu(self.stem(x))) + F.pad(2.0 * x, (0, 0, 0, 0, 0, 1)))


class Twice(Toy):
    """One tensor stands twice in a concatenation."""

    def __init__(self) -> None:
        super().__init__(8)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return torch.cat([x, x], dim=1)


class Doubled(Toy):
    """A tensor is added to itself."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return x + x


class Gated(Toy):
    """Every map is multiplied with a gate of its own at every position."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return x * torch.sigmoid(self.inner(x))


class Linearly(Toy):
    """Half of a convolution's maps are the gates of the other half (GLU)."""

    def body(self, x: Tensor) -> Tensor:
        return F.glu(self.wide(F.relu(self.stem(x))), dim=1)


class PooledFirst(Toy):
    """Convolution, pooling, activation, in the order of LeNet."""

    def body(self, x: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(self.inner(F.relu(self.stem(x))), 2))


class PooledAndMoved(Toy):
    """The same, with the pooled maps moved about before their activation."""

    def body(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(self.wide(F.relu(self.stem(x))), 2)
        return F.relu(pooled[:, [5, 2, 7, 0]])


class Averaged(Toy):
    """The mean over all maps is one more map."""

    def __init__(self) -> None:
        super().__init__(5)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return torch.cat([x, x.mean(1, keepdim=True)], dim=1)


class Centred(Toy):
    """The mean over all maps is taken from each."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return x - x.mean(1, keepdim=True)


class AlongTheWidth(Toy):
    """A fully connected layer along each row: it mixes positions, but every map stays the map it was."""

    def __init__(self) -> None:
        super().__init__()
        self.across = nn.Linear(SIDE, SIDE)

    def body(self, x: Tensor) -> Tensor:
        return self.across(F.relu(self.stem(x)))


class Dense(Toy):
    """Two activations, each behind a batch norm of its own, read one concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.narrow = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1)])

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        both = torch.cat([x, self.inner(x)], dim=1)
        first, second = (conv(F.relu(norm(both))) for conv, norm in zip(self.narrow, self.norms, strict=True))
        return first + second


class InPlace(Toy):
    """Some maps are written over, others added to, rows are halved."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        inner = self.inner(x)
        inner[:, 1:3] += x[:, :2]
        inner[:, 3] = x[:, 0]
        inner[:, :, ::2] = 0.5 * inner[:, :, ::2]
        return F.relu(inner)


class Gathered(Toy):
    """A tensor of zeros is filled part by part, one map stretched over two."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        whole = torch.zeros_like(x)
        whole[:, 1:3] = x[:, :1]
        whole[:, 3] = self.inner(x)[:, 0]
        return whole


class Masked(Toy):
    """An activation that is written with a mask, behind a sum."""

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        total = self.inner(x) + x
        return torch.where(total > 0, total, torch.zeros_like(total))


class Largest(Toy):
    """The larger of two halves (maxout)."""

    def body(self, x: Tensor) -> Tensor:
        maps = self.wide(F.relu(self.stem(x)))
        return torch.maximum(maps[:, :4], maps[:, 4:])


READ = {
    PreActivated: (
        ["stem 4", "relu 4", "add 4", "relu#2 4", "add#2 4", "relu#3 4", "relu#4 5"],
        {(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (5, 6)},
    ),
    PictureLater: (["relu 4", "cat 7", "relu#2 5"], {(0, 1), (1, 2)}),
    PictureAdded: (["relu 4", "past 4", "relu#2 4", "relu#3 5"], {(0, 2), (1, 2), (2, 3)}),
    PictureBesideAdded: (["relu 4", "relu#2 4", "relu#3 5"], {(0, 1), (1, 2)}),
    Twice: (["relu 4", "cat 8", "relu#2 5"], {(0, 1), (1, 2)}),
    Doubled: (["relu 4", "relu#2 5"], {(0, 1)}),
    Gated: (["relu 4", "mul 4", "relu#2 5"], {(0, 1), (1, 2)}),
    Linearly: (["relu 4", "mul 4", "relu#2 5"], {(0, 1), (1, 2)}),
    PooledFirst: (["relu 4", "relu#2 4", "relu#3 5"], {(0, 1), (1, 2)}),
    PooledAndMoved: (["relu 4", "max_pool2d 8", "relu#2 4", "relu#3 5"], {(0, 1), (1, 2), (2, 3)}),
    Averaged: (["relu 4", "cat 5", "relu#2 5"], {(0, 1), (1, 2)}),
    Centred: (["relu 4", "mean 1", "sub 4", "relu#2 5"], {(0, 1), (0, 2), (1, 2), (2, 3)}),
    AlongTheWidth: (["relu 4", "relu#2 5"], {(0, 1)}),
    Dense: (
        ["relu 4", "cat 8", "relu#2 8", "relu#3 8", "add 4", "relu#4 5"],
        {(0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5)},
    ),
    InPlace: (
        ["relu 4", "add 2", "slice_scatter 4", "select_scatter 4", "relu#2 4", "relu#3 5"],
        {(0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (3, 4), (4, 5)},
    ),
    Gathered: (["relu 4", "select_scatter 4", "relu#2 5"], {(0, 1), (1, 2)}),
    Masked: (["relu 4", "where 4", "relu#2 5"], {(0, 1), (1, 2)}),
    Largest: (["relu 4", "maximum 4", "relu#2 5"], {(0, 1), (1, 2)}),
}


@functools.cache
def bundle_of(network: type[Toy]) -> ModelBundle:
    return toys.bundle(toys.seeded(network()), SIDE)


@pytest.mark.parametrize("network", READ)
def test_sites_and_links_are_those_of_the_function_however_it_is_written(network):
    bundle, (names, links) = bundle_of(network), READ[network]
    assert [f"{site.name} {site.channels}" for site in bundle.sites] == names
    last = len(names) - 1
    assert {(link.source, link.target) for link in bundle.links} == links | {(last, last + 1)}
    assert bundle.heads == (last,)


@pytest.mark.parametrize("network", READ)
def test_a_bundle_answers_like_the_network_however_it_is_written(network):
    original, images = toys.seeded(network()), toys.pictures(3, SIDE)
    with torch.no_grad():
        assert torch.allclose(bundle_of(network).logits(images), original((images - 0.5) / 0.25), atol=1e-5)


def arriving(bundle: ModelBundle, images: Tensor, maps: hooks.Maps) -> dict[int, Tensor]:
    """What arrives, by tap, in the run of `images` with the maps of every site held at `maps`."""
    found: dict[int, Tensor] = {}

    def hold(number: int, tensor: Tensor) -> Tensor:
        found[number] = tensor.clone()
        return maps[number] if number < len(maps) else tensor

    with torch.no_grad(), bundle.visiting(hold):
        bundle.logits(images)
    return found


def total(bundle: ModelBundle, target: int, gradients: connections.Gradients, change: dict[int, Tensor]) -> Tensor:
    next_taps = connections.next_taps(bundle)
    taps = bundle.arrivals[target]
    return sum((gradients[next_taps.get(probe, probe)] * change[probe]).sum((0, 2, 3)) for probe in taps)


@pytest.mark.parametrize("network", READ)
def test_edges_are_what_really_changes_when_one_map_is_replaced(network):
    bundle = bundle_of(network)
    images, starts, gradients = explained(bundle, SIDE)
    edges = connections.between(bundle, images, starts, gradients)
    bundle = precision.folded(bundle)
    runs = hooks.record(bundle, images).maps, hooks.record(bundle, starts).maps
    whole = arriving(bundle, images, runs[0])
    targets = sorted({target for _, target in edges.matrices})
    largest = {
        target: max(float(matrix.abs().max()) for (_, end), matrix in edges.matrices.items() if end == target)
        for target in targets
    }

    def agree(claimed: Tensor, changed: dict[int, Tensor], target: int) -> bool:
        change = {probe: whole[probe] - changed[probe] for probe in bundle.arrivals[target]}
        return torch.allclose(claimed, total(bundle, target, gradients, change), atol=1e-5 * largest[target])

    for source, site in enumerate(bundle.sites):
        for channel in range(site.channels):
            replaced = list(runs[0])
            replaced[source] = runs[0][source].clone()
            replaced[source][:, channel] = runs[1][source][:, channel]
            changed = arriving(bundle, images, tuple(replaced))
            for target in (target for target in targets if target > source):
                blank = torch.zeros(bundle.sites[target].channels, site.channels)
                assert agree(edges.matrices.get((source, target), blank)[:, channel], changed, target)
    other_picture = arriving(bundle, starts, runs[0])
    for target in targets:
        nothing = torch.zeros(bundle.sites[target].channels)
        assert agree(edges.from_picture.get(target, nothing), other_picture, target)


@pytest.mark.parametrize("network", READ)
def test_edges_and_the_picture_add_up_to_what_arrives(network):
    bundle = bundle_of(network)
    edges = connections.between(bundle, *explained(bundle, SIDE))
    errors = connections.completeness(edges)
    assert set(errors) == {target for _, target in READ[network][1]}
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("network", READ)
def test_every_gradient_that_is_taken_is_needed(network):
    bundle = bundle_of(network)
    images, starts, gradients = explained(bundle, SIDE, 1)
    assert set(gradients) == connections.taps(bundle)
    for probe in gradients:
        with pytest.raises(KeyError):
            connections.between(bundle, images, starts, {k: one for k, one in gradients.items() if k != probe})


@pytest.mark.parametrize(("network", "target"), [(PictureLater, 1), (PictureBesideAdded, 1)])
def test_what_the_picture_adds_past_the_sites_is_told_apart(network, target):
    bundle = bundle_of(network)
    edges = connections.between(bundle, *explained(bundle, SIDE))
    assert set(edges.from_picture) == {target}
    # Four maps come from the stem and three from the picture; of the padded picture the fourth map is nothing.
    reached = [bool(value) for value in edges.from_picture[target]]
    assert reached == ([False] * 4 + [True] * 3 if network is PictureLater else [True] * 3 + [False])


class GatedByPlace(Toy):
    """All maps are multiplied with one gate of every position (spatial attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(4, 1, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return x * torch.sigmoid(self.gate(x))


def test_a_map_behind_a_spatial_gate_counts_as_the_map_it_was():
    """What a scaled map changes by is its own, the gate's part included: the convolution is applied to it by hand."""
    network = toys.seeded(GatedByPlace())
    bundle = toys.bundle(network, SIDE)
    assert [f"{site.name} {site.channels}" for site in bundle.sites] == ["relu 4", "relu#2 5"]
    images, starts, gradients = explained(bundle, SIDE)
    edges = connections.between(bundle, images, starts, gradients)
    (probe,) = bundle.arrivals[1]
    with torch.no_grad():
        change = network.body((images - 0.5) / 0.25) - network.body((starts - 0.5) / 0.25)
        for channel in range(4):
            kernel = network.outer.weight[:, channel : channel + 1]
            arrived = F.conv2d(change[:, channel : channel + 1], kernel)
            expected = (arrived * gradients[probe]).sum((0, 2, 3))
            assert torch.allclose(edges.matrices[0, 1][:, channel], expected, rtol=1e-4, atol=1e-5)
    assert connections.completeness(edges)[1] < 1e-5


def test_a_layer_along_the_width_sees_whole_rows_and_three_pixels_of_height():
    site = bundle_of(AlongTheWidth).sites[1]
    assert site.receptive_field(0)[0] == 5
    assert [site.sees(3, column)[1] for column in (0, site.width - 1)] == [(0.0, SIDE)] * 2


class TurnedAcross(Toy):
    """Rows become columns."""

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x)).transpose(2, 3)


def test_where_rows_become_columns_a_position_is_not_said_to_be_where_it_stands():
    bundle = toys.bundle(toys.seeded(TurnedAcross()), SIDE)
    (top, _), (left, _) = bundle.sites[1].sees(2, 9)
    assert top > left
    assert equality.measure_fields(bundle).missing == 0
