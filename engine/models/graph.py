"""Finding a network's sites and the linear paths between them with torch.fx.

A **site** is a tensor of feature maps that later layers read: every activation output, every block output after its
addition, every concatenation and every linear bottleneck. Hooks on modules would miss functional activations and mix
up modules that are called twice, so the graph decides.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models import swin_transformer
from torchvision.ops import stochastic_depth

from engine.errors import Unsupported
from engine.models import channels_first, rearranging
from engine.models.channels_first import ChannelNorm
from engine.models.rearranging import Moved

ACTIVATION_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish,
    nn.Hardsigmoid,
)  # fmt: skip
ACTIVATION_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.gelu, F.hardswish, torch.relu, torch.tanh, torch.sigmoid, F.relu_,
    torch.relu_, F.hardsigmoid,
)  # fmt: skip
ACTIVATION_METHODS = ("relu", "relu_", "tanh", "sigmoid")
MULTIPLICATIONS = (operator.mul, torch.mul)
ADDITIONS = (operator.add, operator.iadd, torch.add)
CARRIER_MODULES = (nn.Conv2d, nn.Linear)
PASSING_MODULES = (
    nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d,
    nn.AdaptiveMaxPool2d, nn.Flatten, nn.ZeroPad2d, ChannelNorm,
)  # fmt: skip
PASSING_FUNCTIONS = (
    F.dropout, F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d, F.adaptive_max_pool2d, torch.flatten, F.pad,
    operator.getitem, torch.adaptive_avg_pool1d, stochastic_depth,
)  # fmt: skip
PASSING_METHODS = ("flatten", "view", "reshape", "contiguous", "mean", "squeeze", "__getitem__", "dropout")
RESHAPING_METHODS = ("view", "reshape")

MIXING = (
    (
        (nn.MultiheadAttention,),
        (F.softmax, torch.softmax, F.scaled_dot_product_attention, swin_transformer.shifted_window_attention),
        (
            "The attention",
            "lets every position weigh every other by what both show; it has no feature maps whose share in the next could be "
            "named exactly",
        ),
    ),
    (
        (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d),
        (F.layer_norm, F.group_norm),
        (
            "The normalisation",
            "divides each feature map by the spread of what it shows now, so that no exact share of one map in the next can be "
            "named",
        ),
    ),
)
"""(modules, functions, (kind, reason)) of layers that are no path from map to map."""


def symbolic(network: nn.Module) -> fx.GraphModule:
    """Return `network` as a graph without in-place operations. Raises Unsupported naming what cannot be traced."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.__dict__["inplace"] = False
    try:
        traced = fx.symbolic_trace(network)
    except (fx.proxy.TraceError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Unsupported(
            f"{type(network).__name__} cannot be traced: {reason}. Its forward must not branch on data."
        ) from error
    image = next(node for node in traced.graph.nodes if node.op == "placeholder")
    for node in list(traced.graph.nodes):
        _make_out_of_place(node)
        if node.op == "get_attr":
            # Parameters first: layers are repeated wherever a tap needs them on a path of its own.
            image.append(node)
    traced.recompile()
    channels_first.rewrite(traced, Walker(traced).is_elementwise)
    return traced


def _make_out_of_place(node: fx.Node) -> None:
    if node.target is operator.iadd:
        node.target = operator.add
    elif node.target in (F.relu_, torch.relu_):
        node.target = F.relu
    elif node.op == "call_method" and node.target == "relu_":
        node.target = "relu"
    if node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
    if node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS and True in node.args[1:]:
        node.args = (*node.args[:1], *(False if argument is True else argument for argument in node.args[1:]))


@dataclass(frozen=True, slots=True)
class Walker:
    """Questions about the nodes of one traced network."""

    traced: fx.GraphModule
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    """Of every node's tensor (`sizes`)."""

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module a node calls, or None."""
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_activation(self, node: fx.Node) -> bool:
        """Tell whether a node is a non-linearity applied to each element."""
        return self._is(node, ACTIVATION_MODULES, ACTIVATION_FUNCTIONS, ACTIVATION_METHODS)

    def is_elementwise(self, node: fx.Node) -> bool:
        """Tell whether a node works on each element alone, whatever the order of the axes."""
        return self.is_activation(node) or self._is(node, (nn.Dropout, nn.Identity), (F.dropout,), ("dropout",))

    def is_addition(self, node: fx.Node) -> bool:
        """Tell whether a node adds two tensors."""
        named = node.target in ADDITIONS if node.op == "call_function" else node.target in ("add", "add_")
        return node.op in ("call_function", "call_method") and named and len(node.all_input_nodes) == 2

    def is_concatenation(self, node: fx.Node) -> bool:
        """Tell whether a node joins tensors along an axis."""
        return node.op == "call_function" and node.target in (torch.cat, torch.concat)

    def is_carrier(self, node: fx.Node) -> bool:
        """Tell whether a node is a convolution or a fully connected layer."""
        return isinstance(self.module(node), CARRIER_MODULES)

    def is_passing(self, node: fx.Node) -> bool:
        """Tell whether a node keeps feature maps apart: pooling, padding, slicing, flattening, batch norm, dropout, scaling."""
        if node.target in (operator.getitem, "__getitem__"):
            return _keeps_channels(node.args[1])
        if node.target in RESHAPING_METHODS and len(self.shapes.get(node, ())) > 2:
            # Into one row per image it only flattens; else maps and positions may be mixed (`rearranged` says).
            return False
        is_named = self._is(node, PASSING_MODULES, PASSING_FUNCTIONS, PASSING_METHODS)
        return is_named or self.is_batch_norm(node) or self.is_scaling(node) or self.constant(node) is not None

    def is_batch_norm(self, node: fx.Node) -> bool:
        """Tell whether a node is batch norm with the statistics of training: each map times a number plus another."""
        if node.target is F.batch_norm:
            training = node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False)
            return training is False
        return isinstance(self.module(node), nn.BatchNorm2d)

    def is_scaling(self, node: fx.Node) -> bool:
        """Tell whether a node multiplies each feature map by one number of its own (a squeeze-and-excitation gate).

        The scaled map counts as the map it was; what the gate read of other maps is part of the change of that number.
        """
        if not self._is_product(node) or self.constant(node) is not None:
            return False
        (first, second) = (self.shapes.get(source, torch.Size()) for source in node.all_input_nodes)
        return (
            len(first) == len(second) == 4
            and first[1] == second[1]
            and (1, 1) in (first[2:], second[2:])
            and first != second
        )

    def constant(self, node: fx.Node) -> fx.Node | None:
        """Return the weight that a node multiplies each feature map with (a layer scale), or None where it does no such thing."""
        if not self._is_product(node):
            return None
        weights = [source for source in node.all_input_nodes if _is_weight(source)]
        if len(weights) != 1 or len(self.shapes.get(node, ())) != 4:
            return None
        shape = (1, 1, 1, 1, *self.shapes[weights[0]])[-4:]
        return weights[0] if (shape[0], *shape[2:]) == (1, 1, 1) else None

    def is_norm_of_channels(self, node: fx.Node) -> bool:
        """Tell whether a node divides each position's maps by their spread there.

        The normalised map counts as the map it was, as with gates; so there is no path through it but into a convolution.
        """
        return isinstance(self.module(node), ChannelNorm)

    def carried(self, node: fx.Node) -> fx.Node:
        """Return the input whose feature maps a passing node hands on: its first one, of a product the one that is scaled."""
        weight = self.constant(node)
        if weight is not None:
            return next(source for source in node.all_input_nodes if source is not weight)
        if not self.is_scaling(node):
            return node.all_input_nodes[0]
        first, second = node.all_input_nodes
        return second if self.shapes[first][2:] == (1, 1) else first

    def mixing(self) -> str:
        """Return in one sentence what mixes feature maps beyond following them, the worst first; empty for nothing known."""
        for modules, functions, what in MIXING:
            for node in self.traced.graph.nodes:
                if self._is(node, modules, functions, ()):
                    return f"{what[0]} '{module_of(node) or node.name}' {what[1]}."
        return ""

    def rearranged(self, node: fx.Node) -> Moved | None:
        """Return whose feature maps a node only moves about, and where each comes from; None where it does more."""
        return rearranging.maps(node, self.shapes)

    def _is_product(self, node: fx.Node) -> bool:
        is_product = node.target in MULTIPLICATIONS if node.op == "call_function" else node.target == "mul"
        return is_product and len(node.all_input_nodes) == 2

    def _is(self, node: fx.Node, modules: tuple, functions: tuple, methods: tuple) -> bool:
        if node.op == "call_module":
            return isinstance(self.module(node), modules)
        if node.op == "call_function":
            return node.target in functions
        return node.op == "call_method" and node.target in methods

    def producer(self, node: fx.Node) -> fx.Node:
        """Return the node whose feature maps reach `node` unmixed, batch norm excepted: the walk stops there."""
        while True:
            moved = self.rearranged(node)
            if moved is not None:
                node = moved[0]
            elif self.is_passing(node) and not self.is_batch_norm(node):
                node = self.carried(node)
            else:
                return node

    def sites(self, has_maps: Callable[[fx.Node], bool]) -> list[fx.Node]:
        """Return the site nodes in order of execution. `has_maps` tells which nodes yield (batch, channels, h, w)."""
        found = set()
        for node in self.traced.graph.nodes:
            if self.is_carrier(node):
                found.add(self.producer(node.all_input_nodes[0]))
            elif self.is_activation(node) or (self.is_addition(node) and not self._only_activated(node)):
                found.add(node)
            elif node.op == "output":
                found.add(self.producer(node.all_input_nodes[0]))
        order = [
            node for node in self.traced.graph.nodes if node in found and node.op not in ("placeholder", "get_attr")
        ]
        return [node for node in order if has_maps(node) and not self._is_gate(node)]

    def _only_activated(self, node: fx.Node) -> bool:
        return all(self.is_activation(user) for user in node.users)

    def _is_gate(self, node: fx.Node) -> bool:
        """A squeeze-and-excitation gate multiplies other maps: it is a weight, not a feature map."""
        return all(user.target in MULTIPLICATIONS for user in node.users) and bool(node.users)


def _is_weight(node: fx.Node) -> bool:
    """Whether a node is a weight, or one that is only given another shape."""
    while rearranging.moves(node) and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _keeps_channels(index: object) -> bool:
    """Whether an index takes every channel of (batch, channels, ...), such as `[:, :, ::2, ::2]`."""
    return isinstance(index, tuple) and all(part == slice(None) for part in index[:2])


def sizes(traced: fx.GraphModule, example: Tensor) -> dict[fx.Node, torch.Size]:
    """Return the shape of every node's tensor for an example input. Raises Unsupported where it cannot be answered."""
    shapes: dict[fx.Node, torch.Size] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                shapes[n] = result.shape
            return result

    try:
        with torch.no_grad():
            Recorder(traced).run(example)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "x".join(map(str, example.shape[2:]))
        reason = " ".join(str(error).split())[:160]
        raise Unsupported(f"The network cannot answer an image of {size} pixels: {reason}.") from error
    return shapes


def module_of(node: fx.Node) -> str:
    """Return the dotted name of the module a node belongs to: its own target, or the module whose forward holds it."""
    if node.op == "call_module":
        return str(node.target)
    stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return stack[-1] if stack else ""
