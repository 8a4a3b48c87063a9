"""The causal tests of intake find errors planted in the reader, and pass what is read as it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.checks import equality
from engine.errors import Unsupported
from engine.models import behaviour, graph, hook_points, paths, register, zoo
from engine.models import network as bundles
from tests import toys

aten = torch.ops.aten
SIDE = 16


class Mixed(nn.Module):
    """Padding by reflection, a kernel that is wider than high, a concatenation, a sum, and a head of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, (1, 5), padding=(0, 2))
        self.side, self.last = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(9, 6, 3, padding=1)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = F.relu(self.wide(x)) + x
        x = torch.cat([x, F.relu(self.side(x))], dim=1)
        return self.linear(F.relu(self.last(x)).mean((2, 3)))


@pytest.fixture
def network():
    return toys.seeded(Mixed())


def pictures(bundle):
    return register.pictures_to_compare(bundle, register.LEAST)


def edited(change):
    """A reader that makes one error of its own in every graph."""
    capture = graph.symbolic

    def symbolic(*arguments):
        traced = capture(*arguments)
        for node in list(traced.graph.nodes):
            change(node)
        traced.recompile()
        return traced

    return symbolic


def pad_with_zeros(node):
    if node.target is aten.pad.default:
        node.args = (*node.args[:2], "constant")


def drop_an_activation(node):
    if node.name == "relu_1":
        node.replace_all_uses_with(node.all_input_nodes[0])


def swap_the_axes_of_a_picture(node):
    if node.op == "call_module" and node.target == "stem":
        with node.graph.inserting_before(node):
            turned = node.graph.call_function(aten.transpose.int, (node.args[0], 2, 3))
        turned.meta = dict(node.args[0].meta)
        node.args = (turned,)


@pytest.mark.parametrize("change", [pad_with_zeros, drop_an_activation, swap_the_axes_of_a_picture])
def test_another_function_is_found_and_never_stored(network, change, monkeypatch):
    monkeypatch.setattr(graph, "symbolic", edited(change))
    bundle = toys.bundle(network, side=SIDE)
    found = equality.of_function(network, bundle, pictures(bundle))
    assert found.outcome == "fail"
    with pytest.raises(Unsupported, match="is not the one handed in: logits differ by"):
        register.require(network, bundle, pictures(bundle))


def test_a_network_that_is_read_as_it_is_passes_all_three_tests(network):
    bundle = toys.bundle(network, side=SIDE)
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    outcomes = [equality.of_function(network, bundle, pictures(bundle)), edges, equality.of_fields(bundle)]
    assert [item.outcome for item in outcomes] == ["pass"] * 3
    assert inexact == ()
    assert all(figure.value < 1e-10 for figure in edges.figures if figure.name in ("added up", "changed", "head"))


def test_a_shifted_concatenation_is_found(network, monkeypatch):
    right = bundles._Inserter.on_path

    def shifted(self, path, nodes):
        """What joins the concatenation goes to the map beside the one that it goes to."""
        way = right(self, path, nodes)
        is_joined = nodes[way.target].target is aten.cat.default
        return (
            dataclasses.replace(way, targets=tuple(k + 1 for k in way.targets))
            if is_joined and way.source == 2
            else way
        )

    monkeypatch.setattr(bundles._Inserter, "on_path", shifted)
    bundle = toys.bundle(network, side=SIDE)
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    assert edges.outcome == "fail"
    assert any(not link.reason for link in inexact)
    assert "are drawn as not exact" in edges.sentence


def test_a_link_that_is_left_out_is_found(network, monkeypatch):
    complete = paths.plan

    def without_a_shortcut(traced):
        found = complete(traced)
        kept = tuple(path for path in found.paths if path.carrier is not None or path.source != 0)
        return dataclasses.replace(found, paths=kept)

    monkeypatch.setattr(paths, "plan", without_a_shortcut)
    bundle = toys.bundle(network, side=SIDE)
    found = equality.measure_edges(bundle, pictures(bundle)[2:4])
    assert found.added_up > 1e-3
    assert equality.of_edges(bundle, pictures(bundle))[0].outcome == "fail"


def test_swapped_axes_of_a_receptive_field_are_found(network, monkeypatch):
    right = hook_points._of_convolution

    def swapped(module, before, after):
        rows, columns = right(module, before, after)
        return columns, rows

    monkeypatch.setattr(hook_points, "_of_convolution", swapped)
    found = equality.of_fields(toys.bundle(network, side=SIDE))
    assert found.outcome == "fail"
    assert "a position depends on 2 pixels beyond its receptive field" in found.sentence


def test_a_padding_on_the_wrong_side_of_a_receptive_field_is_found(network, monkeypatch):
    right = behaviour.places

    def shifted_by_one(*arguments):
        found = right(*arguments)
        return found and dataclasses.replace(found, depends=tuple(depend.roll(1, 0) for depend in found.depends))

    monkeypatch.setattr(behaviour, "places", shifted_by_one)
    found = equality.of_fields(toys.bundle(network, side=SIDE))
    assert found.outcome == "fail"


def test_a_field_along_the_width_is_not_that_along_the_height(network):
    bundle = toys.bundle(network, side=SIDE)
    assert bundle.sites[1].receptive_field(0)[0] == 3
    assert bundle.sites[1].receptive_field(1)[0] == 7
    assert equality.measure_fields(bundle).holds


class OfTheBatch(Mixed):
    def forward(self, x):
        return super().forward(x) / len(x)


class Gated(Mixed):
    """A squeeze-and-excitation gate before the last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(9, 3), nn.Linear(3, 9)

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = F.relu(self.wide(x)) + x
        x = torch.cat([x, F.relu(self.side(x))], dim=1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.linear(F.relu(self.last(x * gate[:, :, None, None])).mean((2, 3)))


class Deep(Mixed):
    """Two layers compute the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.linear = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = torch.cat([F.relu(self.wide(x)), F.relu(self.side(x))], dim=1)
        return self.linear(F.relu(self.hidden(F.relu(self.last(x)).amax((2, 3)))))


def test_a_picture_that_is_answered_otherwise_beside_others_is_found():
    network = toys.seeded(OfTheBatch())
    bundle = toys.bundle(network, side=SIDE)
    with pytest.raises(Unsupported, match="its answers depend on the batch"):
        register.require(network, bundle, pictures(bundle))


def test_what_a_gate_read_of_other_maps_is_said_to_be_not_exact():
    bundle = toys.bundle(toys.seeded(Gated()), side=SIDE)
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    assert edges.outcome == "pass"
    assert {link.reason for link in inexact} == {"mul"}
    assert all(link.error > 1e-3 for link in inexact)
    assert {(link.source, link.target) for link in bundle.links if link.through} == {
        (link.source, link.target) for link in inexact
    }


def test_a_head_of_several_layers_is_measured_and_said_not_to_be_exact():
    bundle = toys.bundle(toys.seeded(Deep()), side=SIDE)
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    assert edges.outcome == "pass"
    assert [(link.source, link.target, link.reason) for link in inexact] == [
        (bundle.heads[0], len(bundle.sites), equality.HEAD)
    ]
    assert 1e-5 < inexact[0].error < 0.05


def test_answers_that_are_not_finite_are_proved_to_be_the_same_and_nothing_more():
    network = toys.seeded(Mixed())
    with torch.no_grad():
        network.linear.weight[0, 0] = torch.nan
    bundle = toys.bundle(network, side=SIDE)
    assert equality.of_function(network, bundle, pictures(bundle)).outcome == "pass"
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    assert (edges.outcome, inexact) == ("not run", ())


def test_rounding_is_told_from_another_function_in_double_precision():
    network = toys.seeded(zoo.CifarResNet(3, 10))
    with torch.no_grad():
        network.linear.bias += 3e6
    bundle = toys.bundle(network, side=32, classes=tuple("0123456789"))
    assert register.compare(network, bundle, pictures(bundle)).holds


class Permuted(Mixed):
    """Draws numbers when it is built that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.order = torch.randperm(9)

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = F.relu(self.wide(x)) + x
        x = torch.cat([x, F.relu(self.side(x))], dim=1)[:, self.order]
        return self.linear(F.relu(self.last(x)).mean((2, 3)))


def test_a_network_that_is_another_one_each_time_it_is_built_is_refused():
    first, second = (toys.seeded(Permuted()) for _ in range(2))
    second.order = first.order.roll(1)
    bundle = toys.bundle(first, side=SIDE)
    register.require_same_twice(first, first, bundle, pictures(bundle)[-4:])
    with pytest.raises(Unsupported, match="answers otherwise each time it is built"):
        register.require_same_twice(first, second, bundle, pictures(bundle)[-4:])


class OfSomeBatches(Mixed):
    def forward(self, x):
        return super().forward(x) * (-1 if 4 < len(x) < 100 else 1)


class Masked(OfSomeBatches):
    """A class that is never meant, and answers that depend on the batch."""

    def forward(self, x):
        logits = Mixed.forward(self, x)
        logits = logits - 0.5 * logits.mean(dim=0)
        return torch.cat([logits[:, :2], torch.full_like(logits[:, 2:], -1e9)], dim=1)


@pytest.mark.parametrize("kind", [OfSomeBatches, Masked])
def test_what_some_batches_alone_show_is_no_rounding(kind):
    network = toys.seeded(kind())
    bundle = toys.bundle(network, side=SIDE)
    with pytest.raises(Unsupported):
        register.require(network, bundle, pictures(bundle))


class PictureInTheHead(Mixed):
    def forward(self, x):
        return super().forward(x) + x.mean((2, 3))


def test_a_picture_that_reaches_the_logits_past_every_map_is_refused():
    with pytest.raises(Unsupported, match="reads the picture itself past every feature map"):
        toys.bundle(toys.seeded(PictureInTheHead()), side=SIDE)


def test_where_two_pictures_are_the_same_nothing_was_tried(network):
    bundle = toys.bundle(network, side=SIDE)
    edges, _ = equality.of_edges(bundle, torch.full((8, 3, SIDE, SIDE), 0.5))
    assert edges.outcome == "not run"


def test_an_error_at_the_logits_is_no_matter_of_several_layers_where_there_is_one(network, monkeypatch):
    bundle = toys.bundle(network, side=SIDE)
    found = equality.measure_edges(bundle, pictures(bundle)[2:4])
    assert found.is_head_linear
    monkeypatch.setattr(equality, "measure_edges", lambda *_: dataclasses.replace(found, head=0.5))
    edges, inexact = equality.of_edges(bundle, pictures(bundle))
    assert (edges.outcome, [link.reason for link in inexact]) == ("fail", [""])


class Repeated(Mixed):
    """Twenty steps that each read the picture of before twice."""

    def forward(self, x):
        for _ in range(20):
            x = x - 0.1 * (x - F.avg_pool2d(x, 3, 1, 1))
        return super().forward(x)


class WidelyPooled(Mixed):
    """The largest value of 13 by 13 positions (spatial pyramids)."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.wide(F.max_pool2d(x, 13, 1, 6)))
        return self.linear(F.relu(self.last(torch.cat([x, F.relu(self.side(x))], 1))).mean((2, 3)))


class Named(Mixed):
    """Layers named as parts of a graph, and a number that is kept in a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.graph, self.code, self.meta = (nn.Conv2d(9, 9, 1) for _ in range(3))
        self.constant_0 = nn.Conv2d(9, 9, 1)
        self.register_buffer("offset", torch.rand(1, 9, 1, 1))

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = F.relu(self.wide(x)) + x
        x = torch.cat([x, F.relu(self.side(x))], dim=1)
        for layer in (self.graph, self.code, self.meta, self.constant_0):
            x = F.relu(layer(x + self.offset))
        return self.linear(F.relu(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", [Repeated, WidelyPooled, Named])
def test_what_only_looks_unusual_passes_all_three_tests(kind):
    network = toys.seeded(kind())
    bundle = toys.bundle(network, side=SIDE)
    edges, _ = equality.of_edges(bundle, pictures(bundle))
    found = (equality.of_function(network, bundle, pictures(bundle)), edges, equality.of_fields(bundle))
    assert [(item.outcome, item.sentence) for item in found if item.outcome != "pass"] == []
