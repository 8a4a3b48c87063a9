"""Sites come from the graph: functional, reused and in-place activations are told apart, and what cannot be is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from engine.attribution import scorers
from engine.errors import Unsupported
from engine.models import architectures, zoo
from engine.models import network as bundles
from tests import toys


def test_a_bundle_answers_like_the_network_it_was_made_from():
    network = toys.seeded(toys.Residual())
    images = toys.pictures(4)
    with torch.no_grad():
        plain = network((images - 0.5) / 0.25)
    assert torch.allclose(toys.bundle(network).logits(images), plain, atol=1e-6)


def test_every_activation_and_concatenation_is_one_site_with_a_unique_name():
    found = toys.bundle(toys.seeded(toys.Residual()))
    assert [(site.name, site.channels) for site in found.sites] == [
        ("relu", 4), ("relu#2", 8), ("relu#3", 8), ("relu#4", 4), ("relu#5", 4), ("cat", 8),
    ]  # fmt: skip


def test_recorded_maps_are_not_overwritten_by_in_place_activations():
    from engine.models import hooks

    found = toys.bundle(toys.seeded(toys.Residual()))
    maps = hooks.record(found, toys.pictures(2)).maps
    before = [site.clone() for site in maps]
    found.logits(toys.pictures(2, seed=5))
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


def test_resnet20_has_19_sites_688_maps_in_four_stages():
    found = toys.bundle(zoo.CifarResNet(3, 10).eval(), side=32, classes=tuple("0123456789"))
    assert len(found.sites) == 19
    assert sum(site.channels for site in found.sites) == 688
    assert list(dict.fromkeys(site.stage for site in found.sites)) == ["stem", "layer1", "layer2", "layer3"]
    assert [site.name for site in found.sites[:3]] == ["relu", "layer1.0.relu", "layer1.0"]
    assert [site.role for site in found.sites[:3]] == ["stem", "inner", "block"]


def test_block_outputs_are_cut_sites_and_branches_are_not():
    found = toys.bundle(zoo.CifarResNet(1, 10).eval(), side=32)
    assert {site.role: site.is_cut for site in found.sites} == {"stem": True, "inner": False, "block": True}


class Pooled(nn.Module):
    """Ends in one map per class and pooling, as SqueezeNet does; `classes` of them."""

    def __init__(self, classes):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3), nn.Conv2d(6, classes, 1)
        self.rest = nn.Identity() if classes == 3 else nn.Linear(classes, 3)

    def forward(self, x):
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.rest(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(("width", "role"), [(3, "evidence"), (4, "block")])
def test_maps_that_are_the_classes_themselves_are_left_out_of_claims(width, role):
    found = toys.bundle(toys.seeded(Pooled(width)))
    assert [site.role for site in found.sites] == ["stem", "block", role]
    scores = tuple(torch.full((2, site.channels), 1.0 + k) for k, site in enumerate(found.sites))
    chosen = [site.any().item() for site in scorers.largest(found, scores, 3)]
    assert chosen == [False, width == 3, width != 3]
    drawn = scorers.at_random(found, 50, 3, torch.Generator().manual_seed(0))
    assert [site.any().item() for site in drawn] == [False, True, width != 3]


def test_where_nothing_else_is_left_the_classes_own_maps_may_be_claimed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert [site.is_eligible for site in toys.bundle(nn.Sequential(*network, nn.Flatten())).sites] == [False, True]


def test_squeezenet_claims_nothing_by_its_classifier_and_mobilenet_leaves_out_its_stem_alone():
    found = {
        name: toys.bundle(torchvision.models.get_model(name, weights=None).eval(), side=64).sites
        for name in ("squeezenet1_1", "mobilenet_v2")
    }
    left_out = {name: [site.name for site in sites if not site.is_eligible] for name, sites in found.items()}
    assert left_out == {"squeezenet1_1": ["features.1", "classifier.2"], "mobilenet_v2": ["features.0.2"]}


@pytest.mark.parametrize(
    ("name", "sites", "maps"), [("mobilenet_v2", 52, 17056), ("squeezenet1_1", 34, 6504), ("resnet18", 17, 3904)]
)
def test_torchvision_classifiers_yield_their_sites(name, sites, maps):
    found = toys.bundle(torchvision.models.get_model(name, weights=None).eval(), side=64)
    assert (len(found.sites), sum(site.channels for site in found.sites)) == (sites, maps)


def test_a_network_that_branches_on_data_is_refused_by_name():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(Unsupported, match=r"Branching cannot be traced"):
        toys.bundle(Branching())


class Gated(nn.Module):
    """A squeeze-and-excitation gate on an activation, as MobileNetV3 has it, before a convolution and on a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.narrow, self.wide = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.outer, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.inner(x))
        gate = nn.functional.hardsigmoid(self.wide(torch.relu(self.narrow(nn.functional.adaptive_avg_pool2d(x, 1)))))
        scaled = gate * x
        return self.linear(torch.relu(self.outer(scaled) + scaled).mean((2, 3)))


def test_a_gated_map_is_the_map_it_was_and_its_gate_is_no_site():
    found = toys.bundle(toys.seeded(Gated()))
    assert [(site.name, site.channels) for site in found.sites] == [("relu", 4), ("relu#2", 4), ("relu#3", 4)]
    assert {(link.source, link.target) for link in found.links} == {(0, 1), (1, 2), (2, 3)}
    # The gate has seen the whole picture; where a map shows something is where it showed it before.
    assert [site.field_size for site in found.sites] == [3, 5, 5]


class Shuffled(nn.Module):
    """A unit of ShuffleNet V2 (Ma et al. 2018, figure 3c): half passes by, both halves are joined and their maps interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        left, right = torch.relu(self.stem(x)).chunk(2, dim=1)
        joined = torch.cat([left, torch.relu(self.inner(right))], dim=1)
        batch, channels, height, width = joined.size()
        shuffled = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.linear(torch.relu(self.outer(shuffled.view(batch, channels, height, width))).mean((2, 3)))


class Sliced(Shuffled):
    """A convolution reads some maps of a site, in another order."""

    def forward(self, x):
        x = torch.relu(self.stem(x))
        some = torch.cat([x[:, 3:4], x[:, 1:2]], dim=1)
        return self.linear(
            torch.relu(self.outer(torch.cat([some, torch.relu(self.inner(x[:, 1:3]))], dim=1))).mean((2, 3))
        )


class ChannelsLast(nn.Module):
    """A block of ConvNeXt (Liu et al. 2022, figure 4): depthwise convolution, norm, two layers of channels last, a scaled sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.wide, self.narrow = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.outer, self.linear = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        inner = self.narrow(nn.functional.gelu(self.wide(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        x = x + self.scale * torch.permute(inner, (0, -1, 1, 2))
        x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-6).permute(0, 3, 1, 2)
        return self.linear(torch.relu(self.outer(x)).mean((2, 3)))


def test_what_lies_channels_last_becomes_feature_maps_and_answers_the_same():
    network = toys.seeded(ChannelsLast())
    found = toys.bundle(network, side=12)
    assert [(site.name, site.channels) for site in found.sites] == [
        ("relu", 4), ("deep", 4), ("gelu", 6), ("add", 4), ("relu#2", 5),
    ]  # fmt: skip
    links = {(link.source, link.target) for link in found.links}
    assert links == {(0, 1), (1, 2), (0, 3), (2, 3), (3, 4), (4, 5)}
    images = toys.pictures(4, side=12)
    with torch.no_grad():
        assert torch.allclose(found.logits(images), network((images - found.mean) / found.std), atol=1e-5)


def test_maps_that_are_only_moved_about_are_followed_one_by_one():
    found = toys.bundle(toys.seeded(Shuffled()), side=16)
    assert [(site.name, site.channels) for site in found.sites] == [
        ("relu", 4),
        ("relu#2", 2),
        ("cat", 4),
        ("relu#3", 5),
    ]
    ways = {(way.source, way.target): way for way in found.ways}
    assert ways[0, 1].sources == (2, 3)
    assert (ways[0, 2].sources, ways[0, 2].targets) == ((0, 1), (0, 1))
    assert (ways[1, 2].sources, ways[1, 2].targets) == ((0, 1), (2, 3))
    assert ways[2, 3].sources == (0, 2, 1, 3)


class FunctionalNorm(Shuffled):
    """Batch norm called as a function, as timm does; one convolution is read with it and without."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def normalised(self, x):
        norm = self.norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        out = self.same(x)
        joined = torch.relu(self.normalised(out)) + torch.relu(out + x)
        return self.linear(torch.relu(self.outer(joined)).mean((2, 3)))


class TrainedNorm(FunctionalNorm):
    """The same with the statistics of the batch at hand."""

    def normalised(self, x):
        return F.batch_norm(x, None, None, self.norm.weight, self.norm.bias, True)


def test_batch_norm_may_be_a_function_as_long_as_it_uses_the_statistics_of_training():
    module = toys.bundle(toys.seeded(FunctionalNorm()), side=16)
    assert [site.name for site in module.sites] == ["relu", "relu#2", "relu#3", "add", "relu#4"]
    reason = r"\(batch_norm\) \(test_sites.py, line \d+\) makes a picture's answer depend on the others of its batch"
    with pytest.raises(Unsupported, match=reason):
        toys.bundle(toys.seeded(TrainedNorm()), side=16)


class Mixed(Shuffled):
    """Rows become maps: what a convolution reads is no map of the site."""

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.linear(torch.relu(self.outer(x.transpose(1, 2)[:, :4])).mean((2, 3)))


class Turned(Shuffled):
    """Rows become columns, each map stays the map it was."""

    def forward(self, x):
        x = torch.relu(self.stem(x))
        folded = x.reshape(x.shape[0], 4, x.shape[3], x.shape[2]).transpose(2, 3)
        return self.linear(torch.relu(self.outer(folded)).mean((2, 3)))


class Normalised(Shuffled):
    """Layer normalisation between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 4)

    def forward(self, x):
        return self.linear(torch.relu(self.outer(self.norm(torch.relu(self.stem(x))))).mean((2, 3)))


class NormalisedBeforeItsActivation(ChannelsLast):
    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        return self.linear(torch.relu(self.outer(torch.relu(self.norm(x)).permute(0, 3, 1, 2))).mean((2, 3)))


class Weighed(ChannelsLast):
    """Channels last, and something more than layers that work on each position alone."""

    def forward(self, x):
        x = torch.relu(self.stem(x)).permute(0, 2, 3, 1)
        return self.linear(torch.relu(self.outer(torch.softmax(x, dim=-1).permute(0, 3, 1, 2))).mean((2, 3)))


class Crossing(ChannelsLast):
    """Channels last, and joined with what came another way."""

    def forward(self, x):
        x = torch.relu(self.stem(x))
        inner = self.norm(x.permute(0, 2, 3, 1)) + x.reshape(x.shape[0], x.shape[2], x.shape[3], x.shape[1])
        return self.linear(torch.relu(self.outer(inner.permute(0, 3, 1, 2))).mean((2, 3)))


class GatedBeforeItsActivation(Gated):
    def forward(self, x):
        x = torch.relu(self.stem(x))
        out = self.inner(x)
        gate = torch.sigmoid(nn.functional.adaptive_avg_pool2d(out, 1))
        return self.linear(torch.relu(gate * out + x).mean((2, 3)))


class Product(Gated):
    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.linear(torch.relu(self.outer(x * torch.relu(self.inner(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "sites", "links"),
    [
        (Turned, [("relu", 4), ("relu#2", 5)], {(0, 1), (1, 2)}),
        (NormalisedBeforeItsActivation, [("stem", 4), ("relu", 4), ("relu#2", 5)], {(0, 1), (1, 2), (2, 3)}),
        # The gate has its numbers of what the convolution answers: the map that it scales is a site before it.
        (GatedBeforeItsActivation, [("relu", 4), ("inner", 4), ("relu#2", 4)], {(0, 1), (0, 2), (1, 2), (2, 3)}),
        (Product, [("relu", 4), ("mul", 4), ("relu#2", 4)], {(0, 1), (1, 2), (2, 3)}),
    ],
)
def test_turned_normalised_scaled_and_multiplied_maps_are_read(network, sites, links):
    found = toys.bundle(toys.seeded(network()), side=16)
    assert [(site.name, site.channels) for site in found.sites] == sites
    assert {(link.source, link.target) for link in found.links} == links


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            Mixed,
            r"'transpose' \(transpose\) \(test_sites.py, line \d+\) mixes feature maps in a way that is no convolution",
        ),
        (
            Normalised,
            r"'norm' \(group_norm\) \(test_sites.py, line \d+\) divides each feature map by the spread of what it shows",
        ),
        (
            Weighed,
            r"'permute' \(permute\) \(test_sites.py, line \d+\) lets every position or map weigh every other by what all",
        ),
        (
            Crossing,
            r"'view' \(reshape\) \(test_sites.py, line \d+\) mixes feature maps in a way that is no convolution",
        ),
    ],
)
def test_what_cannot_be_followed_from_map_to_map_is_refused_by_name(network, reason):
    with pytest.raises(Unsupported, match=reason) as refused:
        toys.bundle(toys.seeded(network()), side=16)
    assert "\n" not in str(refused.value)


def test_the_receptive_field_holds_every_pixel_that_a_position_depends_on():
    from engine.models import hooks

    found = toys.bundle(toys.seeded(toys.Chain()), side=16)
    number, row, column = 2, 9, 6
    images = toys.pictures(1, side=16).requires_grad_()
    recorder = hooks.Recorder(frozenset({number}))
    with found.visiting(recorder):
        found.logits(images)
    (gradient,) = torch.autograd.grad(recorder.seen[number][0, :, row, column].sum(), images)
    touched = gradient[0].abs().sum(0).nonzero()
    site = found.sites[number]
    centre = site.field_start + row * site.field_jump
    assert touched[:, 0].min() + 0.5 >= centre - site.field_size / 2
    assert touched[:, 0].max() + 0.5 <= centre + site.field_size / 2
    assert touched[:, 0].max() - touched[:, 0].min() + 1 == site.field_size


def test_weights_that_do_not_fit_are_named():
    from engine.errors import BadInput

    weights = dict(zoo.CifarResNet(3, 10).state_dict())
    weights["linear.weight"] = torch.zeros(7, 64)
    del weights["conv1.weight"]
    weights["extra"] = torch.zeros(1)
    with pytest.raises(BadInput) as refused:
        architectures.build("cifar_resnet20", weights, 10)
    for part in (
        "1 missing (conv1.weight (16, 3, 3, 3))",
        "1 unexpected (extra (1))",
        "linear.weight is (7, 64), needs (10, 64)",
    ):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_blocks_of_mobilenet_v2_are_19_sites_with_2816_maps():
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    declared = bundles.Preprocessing(3, (64, 64), (0.5,) * 3, (0.25,) * 3)
    found = bundles.block_bundle(network, declared, bundles.Identity(("x",) * 1000))
    assert (len(found.sites), sum(site.channels for site in found.sites)) == (19, 2816)
    assert torch.equal(found.logits(toys.pictures(1, 64)), network((toys.pictures(1, 64) - 0.5) / 0.25))
