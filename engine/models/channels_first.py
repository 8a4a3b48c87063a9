"""Rewriting the parts of a network that keep channels last (ConvNeXt), so that its tensors are feature maps there too.

Between `permute(0, 2, 3, 1)` and `permute(0, 3, 1, 2)` a fully connected layer works on every position alone: it is a
convolution of one pixel. The same function up to float32 rounding, with (batch, channels, height, width) at every node.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.models import behaviour, capture
from engine.models.behaviour import Bench

aten = torch.ops.aten
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
FIRST: Final = (0, 1, 2, 3)
Order = tuple[int, ...]
"""Which axis of a tensor with channels first stands at each place."""


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


def rewrite(traced: fx.GraphModule) -> None:
    """Give every node with channels last that is understood a twin with channels first, and let others read that one."""
    _Rewriter(traced).rewrite()
    capture.without_unused(traced)


class _Rewriter:
    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced, self.bench = traced, Bench(traced)
        self.twins: dict[fx.Node, tuple[fx.Node, Order]] = {}
        """Of nodes with other axes, the node of the same values with channels first, and the order that makes one of the other."""

    def rewrite(self) -> None:
        for node in list(self.traced.graph.nodes):
            order = order_of(node)
            if order is not None:
                before, known = self.twins.get(node.all_input_nodes[0], (node.all_input_nodes[0], FIRST))
                self._know(node, before, tuple(known[axis] for axis in order))
            elif any(source in self.twins for source in node.all_input_nodes):
                self._make(node)

    def _know(self, node: fx.Node, twin: fx.Node, order: Order) -> None:
        if order == FIRST:
            node.replace_all_uses_with(twin)
        elif order[0] == 0 and twin.meta.get("live"):
            self.twins[node] = twin, order

    def _make(self, node: fx.Node) -> None:
        live = [source for source in node.all_input_nodes if source.op != "get_attr"]
        orders = {self.twins[source][1] for source in live if source in self.twins}
        if not all(source in self.twins for source in live) or len(orders) != 1:
            return
        (order,) = orders
        module = self._module(node) if len(live) == 1 and order[3] == 1 else None
        if module is None and not self._is_elementwise(node):
            return
        with self.traced.graph.inserting_after(node):
            if module is not None:
                name = f"{node.name}_of_channels"
                self.traced.add_submodule(name, module)
                twin = self.traced.graph.call_module(name, (self.twins[live[0]][0],))
            else:
                twin = self.traced.graph.node_copy(node, lambda source: self._twin_of(source, order))
        shape = node.meta["shape"]
        twin.meta = node.meta | {"shape": torch.Size(shape[order.index(axis)] for axis in range(4))}
        self.twins[node] = twin, order

    def _is_elementwise(self, node: fx.Node) -> bool:
        return len(node.meta["shape"]) == 4 and behaviour.elementwise(self.bench, node) is not None

    def _twin_of(self, source: fx.Node, order: Order) -> fx.Node:
        """What the twin reads in place of `source`: a weight gets its axes moved, too."""
        if source in self.twins:
            return self.twins[source][0]
        name = f"{source.target}_{''.join(map(str, order))}"
        if not hasattr(self.traced, name):
            weight = getattr(self.traced, str(source.target))
            whole = weight.reshape((1,) * (4 - weight.ndim) + tuple(weight.shape))
            self.traced.register_buffer(name, whole.permute(*(order.index(axis) for axis in range(4))).contiguous())
        with self.traced.graph.inserting_after(source):
            made = self.traced.graph.get_attr(name)
        made.meta = source.meta | {"shape": getattr(self.traced, name).shape}
        return made

    def _module(self, node: fx.Node) -> nn.Module | None:
        """The layer that does the same with channels first; None where it is not known how."""
        if node.op == "call_module":
            module = self.traced.get_submodule(str(node.target))
            if not isinstance(module, nn.Linear):
                return None
            return as_convolution(module.weight, module.bias)
        if node.target is aten.layer_norm.default:
            return self._norm(node)
        weight = node.args[1] if node.target is aten.matmul.default else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and len(weight.meta["shape"]) == 2:
            return as_convolution(getattr(self.traced, str(weight.target)).T, None)
        return None

    def _norm(self, node: fx.Node) -> nn.Module | None:
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5}
        given |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        if len(given["normalized_shape"]) != 1:
            return None
        weight, bias = (
            None if one is None else getattr(self.traced, str(one.target)) for one in (given["weight"], given["bias"])
        )
        return ChannelNorm(weight, bias, float(given["eps"]))


def as_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the convolution of one pixel with these weights (outputs, inputs) and biases (outputs,)."""
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach()[:, :, None, None], requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made.eval()


def order_of(node: fx.Node) -> Order | None:
    """Return the order of axes that a permutation of four makes; None for any other node."""
    if len(node.meta.get("shape") or ()) != 4:
        return None
    if node.target is aten.permute.default:
        return tuple(int(axis) % 4 for axis in node.args[1])  # type: ignore[union-attr, arg-type]
    if node.target is aten.transpose.int:
        first, second = (int(axis) % 4 for axis in node.args[1:])  # type: ignore[arg-type]
        return tuple({first: second, second: first}.get(axis, axis) for axis in range(4))
    return None
