"""Rewriting the stretches of a network that keep channels last (ConvNeXt), so that its tensors are feature maps there too.

Between `permute(0, 2, 3, 1)` and `permute(0, 3, 1, 2)` a fully connected layer works on every position alone: it is a
convolution of one pixel. The same function up to float32 rounding, with (batch, channels, height, width) at every node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
ORDERS: dict[tuple[int, ...], tuple[int, ...]] = {(0, -2, -1, 1): TO_LAST, (0, -1, 1, 2): TO_FIRST}
"""The same two, as counted from the end."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position of (batch, channels, height, width)."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        last = maps.permute(*TO_LAST)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.eps).permute(*TO_FIRST)


def rewrite(traced: fx.GraphModule, is_elementwise: Callable[[fx.Node], bool]) -> None:
    """Rewrite every stretch that is understood whole; all others stay as they are.

    is_elementwise: tells the nodes that work on each element alone, whatever the order of the axes.
    """
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for start in list(traced.graph.nodes):
        if _order(start) != TO_LAST:
            continue
        found = _stretch(
            traced, start, lambda node: is_elementwise(node) or _rewriting(traced, node, calls) is not None
        )
        if found is not None:
            _carry_out(traced, start, *found, calls)
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()


def _order(node: fx.Node) -> tuple[int, ...] | None:
    """The order of axes that a permutation of four makes; None for any other node."""
    is_permutation = node.target == "permute" if node.op == "call_method" else node.target is torch.permute
    if not is_permutation or node.kwargs:
        return None
    axes = node.args[1] if len(node.args) == 2 else node.args[1:]
    if not isinstance(axes, tuple | list):
        return None
    given = tuple(int(axis) if isinstance(axis, int) else 9 for axis in axes)
    return ORDERS.get(given, given)


def _stretch(
    traced: fx.GraphModule, start: fx.Node, is_understood: Callable[[fx.Node], bool]
) -> tuple[list[fx.Node], list[fx.Node]] | None:
    """The nodes behind `start` and the permutations that end them; None where one of them is not understood."""
    inside, ends, pending = {start}, [], list(start.users)
    while pending:
        node = pending.pop()
        if _order(node) == TO_FIRST:
            ends.append(node)
        elif node not in inside:
            if not is_understood(node):
                return None
            inside.add(node)
            pending += node.users
    order = [node for node in traced.graph.nodes if node in inside and node is not start]
    comes_in = {source for node in order for source in node.all_input_nodes if source.op != "get_attr"} - inside
    return (order, ends) if ends and not comes_in else None


def _carry_out(
    traced: fx.GraphModule, start: fx.Node, order: list[fx.Node], ends: list[fx.Node], calls: Counter
) -> None:
    for node in order:
        made = _rewriting(traced, node, calls)
        if made is None:
            continue
        tensor, (name, module) = _main_input(node), made
        if node.op == "call_module":
            traced.set_submodule(name, module)
            continue
        traced.add_submodule(name, module)
        with traced.graph.inserting_after(node):
            new = traced.graph.call_module(name, (tensor,))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)
    for node in (start, *ends):
        node.replace_all_uses_with(node.all_input_nodes[0])
    for node in (*ends, start):
        traced.graph.erase_node(node)


def _main_input(node: fx.Node) -> fx.Node:
    return next(source for source in node.all_input_nodes if source.op != "get_attr")


def _rewriting(traced: fx.GraphModule, node: fx.Node, calls: Counter) -> tuple[str, nn.Module] | None:
    """The name and the module that does the same with channels first; None where it is not known how."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        made = _of_module(module) if calls[node.target] == 1 else None
        return None if made is None else (str(node.target), made)
    if node.op == "call_function" and node.target is F.layer_norm:
        return _of_layer_norm(traced, node)
    return None


def _of_module(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return ChannelNorm(module.weight, module.bias, module.eps)
    if isinstance(module, nn.Linear):
        made = nn.Conv2d(module.in_features, module.out_features, 1, bias=module.bias is not None, device="meta")
        made.weight = nn.Parameter(module.weight[:, :, None, None], requires_grad=False)
        if module.bias is not None:
            made.bias = nn.Parameter(module.bias, requires_grad=False)
        return made.eval()
    return None


def _of_layer_norm(traced: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    told = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5, **told}
    if not isinstance(given["normalized_shape"], tuple | list) or len(given["normalized_shape"]) != 1:
        return None
    weight, bias = (_parameter(traced, given[name]) for name in ("weight", "bias"))
    return f"{node.name}_of_channels", ChannelNorm(weight, bias, float(given["eps"]))


def _parameter(traced: fx.GraphModule, node: object) -> Tensor | None:
    if not isinstance(node, fx.Node):
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(traced.get_submodule(owner), name)
