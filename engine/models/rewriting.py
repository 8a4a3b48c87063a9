"""Layouts and formulas written one way: channels first, fused normalisations, matrix products as convolutions."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.models import behaviour, capture
from engine.models.behaviour import Bench, is_map

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


def to_channels_first(traced: fx.GraphModule) -> None:
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
            attr = self.traced.graph.get_attr(name)
        attr.meta = source.meta | {"shape": getattr(self.traced, name).shape}
        return attr

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
            None if item is None else getattr(self.traced, str(item.target))
            for item in (given["weight"], given["bias"])
        )
        return ChannelNorm(weight, bias, float(given["eps"]))


def as_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the convolution of one pixel with these weights (outputs, inputs) and biases (outputs,)."""
    conv2d = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    conv2d.weight = nn.Parameter(weight.detach()[:, :, None, None], requires_grad=False)
    if bias is not None:
        conv2d.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv2d.eval()


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


def to_canonical(traced: fx.GraphModule) -> None:
    """Rewrite a captured network in place; `made_convolution` of its nodes is left to the caller, who knows which matter."""
    to_channels_first(traced)
    _spread_out(traced)
    _fuse(traced)
    capture.without_unused(traced)
    traced.graph.lint()


def _spread_out(traced: fx.GraphModule) -> None:
    """Let one map that is combined with many stand as often as it is read; a gate needs no copies of its numbers."""
    for node in list(traced.graph.nodes):
        shape = node.meta.get("shape", ())
        if not is_map(node) or node.op != "call_function":
            continue
        _tell_apart(traced, node)
        for source in node.all_input_nodes:
            if _is_expanded_gate(source) and _broadcasts(node, source):
                node.replace_input_with(source, source.all_input_nodes[0])
            elif (
                is_map(source) and source.meta["shape"][1] == 1 < shape[1] and _adds(node) and _broadcasts(node, source)
            ):
                _expand(traced, node, source)


def _tell_apart(traced: fx.GraphModule, node: fx.Node) -> None:
    """Give a tensor that stands more than once in a list, such as that of a concatenation, a name of its own for each time."""
    if not node.args or not isinstance(node.args[0], list | tuple):
        return
    parts = list(node.args[0])
    for k, part in enumerate(parts):
        if isinstance(part, fx.Node) and part in parts[:k] and part.meta.get("live"):
            with traced.graph.inserting_before(node):
                parts[k] = traced.graph.call_function(aten.alias.default, (part,))
            parts[k].meta = dict(part.meta)
    node.args = (parts, *node.args[1:])


def _is_expanded_gate(node: fx.Node) -> bool:
    if node.target is not aten.expand.default:
        return False
    before = node.all_input_nodes[0].meta.get("shape", ())
    return len(before) == 4 and before[2] * before[3] == 1


def _broadcasts(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node works element by element, with another operand of its own full shape."""
    others = [item for item in node.all_input_nodes if item is not source and item.meta.get("live")]
    is_tensorwise = node.target in (
        aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default,
    )  # fmt: skip
    return is_tensorwise and any(other.meta["shape"] == node.meta["shape"] for other in others)


def _adds(node: fx.Node) -> bool:
    """Whether a node does anything but scale: one map that scales many is a gate."""
    return node.target not in (aten.mul.Tensor, aten.div.Tensor)


def _expand(traced: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    with traced.graph.inserting_before(node):
        call_function = traced.graph.call_function(aten.expand.default, (source, [-1, node.meta["shape"][1], -1, -1]))
    call_function.meta = source.meta | {"shape": node.meta["shape"]}
    node.replace_input_with(source, call_function)


def _fuse(traced: fx.GraphModule) -> None:
    """Make one module of every formula that computes each element from one element alone, such as x * sigmoid(x)."""
    bench, above = Bench(traced), {}
    for node in list(traced.graph.nodes):
        if not is_map(node):
            continue
        above[node] = [node]
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.Conv2d | ChannelNorm):
            continue
        elementwise = behaviour.elementwise(bench, node)
        if elementwise is None:
            continue
        shared = _shared([above.get(operand, [operand]) for operand in elementwise.operands])
        above[node] += shared
        if shared and _reads_otherwise(node, elementwise.operands):
            module = _module(traced, node, shared[0])
            above[module] = [module, *shared]
            _absorb(traced, bench, module, above)


def _reads_otherwise(node: fx.Node, operands: tuple[fx.Node, ...]) -> bool:
    """Whether a node reads several tensors, or one also through what holds no maps, such as the mask of x * (x > 0)."""
    live = {source for source in node.all_input_nodes if source.meta.get("live")}
    return len(operands) > 1 or live != set(operands)


def _shared(chains: list[list[fx.Node]]) -> list[fx.Node]:
    """The tensors of which every operand is an elementwise function, the nearest first."""
    first, *others = chains
    return [node for node in first if all(node in other for other in others)]


def _module(traced: fx.GraphModule, node: fx.Node, start: fx.Node) -> fx.Node:
    """Replace `node` by one call of a module that computes it from `start`."""
    inside = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {start: inside.placeholder("x")}
    root: dict[str, object] = {}
    for item in _between(traced, node, start):
        is_batch = item.target is capture.batch_size
        copies[item] = inside.node_copy(item, lambda source: copies[start] if is_batch else copies[source])  # noqa: B023
        if item.op in ("get_attr", "call_module"):
            name = str(item.target)
            root[name] = traced.get_submodule(name) if item.op == "call_module" else getattr(traced, name)
    inside.output(copies[node])
    name = f"formula_{node.name}"
    traced.add_submodule(name, fx.GraphModule(root, inside))
    with traced.graph.inserting_after(node):
        call_module = traced.graph.call_module(name, (start,))
    call_module.meta = dict(node.meta)
    node.replace_all_uses_with(call_module)
    return call_module


def _between(traced: fx.GraphModule, node: fx.Node, start: fx.Node) -> list[fx.Node]:
    """What is computed from `start` on to get `node`, in order."""
    inside, pending = {node}, [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source is start or source in inside:
                continue
            inside.add(source)
            if source.target is not capture.batch_size:
                pending.append(source)
    return [item for item in traced.graph.nodes if item in inside]


def _absorb(traced: fx.GraphModule, bench: Bench, node: fx.Node, above: dict[fx.Node, list[fx.Node]]) -> None:
    """Take a number that a formula's value alone is multiplied with, as the last step of hardswish, into the formula."""
    (start,) = node.all_input_nodes
    while len(node.users) == 1:
        (user,) = node.users
        is_number = user.op == "call_function" and user.all_input_nodes == [node] and is_map(user)
        result = behaviour.elementwise(bench, user) if is_number else None
        if result is None or not result.is_affine:
            return
        node = _module(traced, user, start)
        above[node] = [node, *above.get(start, [start])]


def made_convolution(traced: fx.GraphModule, bench: Bench, node: fx.Node) -> bool:
    """Put a convolution in the place of an operation that is one of one pixel, and tell whether it is.

    Means over channels, products with matrices, sums over maps.
    """
    known = behaviour.measured(bench, node)
    is_linear_mix = known.is_affine and known.channels == (None,) and not known.mixes_batch
    result = behaviour.as_weights(bench, node) if is_linear_mix else None
    if result is None:
        return False
    name = f"{node.name}_as_convolution"
    traced.add_submodule(name, as_convolution(*result))
    with traced.graph.inserting_after(node):
        call_module = traced.graph.call_module(name, (bench.operands(node)[0],))
    call_module.meta = dict(node.meta)
    node.replace_all_uses_with(call_module)
    return True
