"""One form for what is written in many: formulas become activations, sums over channels become convolutions.

Decided by measurement (`behaviour`), never by the names of operations; the function stays the same up to float32 rounding.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from engine.models import behaviour, capture, channels_first
from engine.models.behaviour import Bench, is_map
from engine.models.channels_first import ChannelNorm

aten = torch.ops.aten


def rewrite(traced: fx.GraphModule) -> None:
    """Rewrite a captured network in place; `made_convolution` of its nodes is left to the caller, who knows which matter."""
    channels_first.rewrite(traced)
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
    others = [one for one in node.all_input_nodes if one is not source and one.meta.get("live")]
    is_tensorwise = node.target in (
        aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default,
    )  # fmt: skip
    return is_tensorwise and any(one.meta["shape"] == node.meta["shape"] for one in others)


def _adds(node: fx.Node) -> bool:
    """Whether a node does anything but scale: one map that scales many is a gate."""
    return node.target not in (aten.mul.Tensor, aten.div.Tensor)


def _expand(traced: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    with traced.graph.inserting_before(node):
        made = traced.graph.call_function(aten.expand.default, (source, [-1, node.meta["shape"][1], -1, -1]))
    made.meta = source.meta | {"shape": node.meta["shape"]}
    node.replace_input_with(source, made)


def _fuse(traced: fx.GraphModule) -> None:
    """Make one module of every formula that computes each element from one element alone, such as x * sigmoid(x)."""
    bench, above = Bench(traced), {}
    for node in list(traced.graph.nodes):
        if not is_map(node):
            continue
        above[node] = [node]
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.Conv2d | ChannelNorm):
            continue
        found = behaviour.elementwise(bench, node)
        if found is None:
            continue
        shared = _shared([above.get(operand, [operand]) for operand in found.operands])
        above[node] += shared
        if shared and _reads_otherwise(node, found.operands):
            made = _module(traced, node, shared[0])
            above[made] = [made, *shared]
            _absorb(traced, bench, made, above)


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
    for one in _between(traced, node, start):
        is_batch = one.target is capture.batch_size
        copies[one] = inside.node_copy(one, lambda source: copies[start] if is_batch else copies[source])  # noqa: B023
        if one.op in ("get_attr", "call_module"):
            name = str(one.target)
            root[name] = traced.get_submodule(name) if one.op == "call_module" else getattr(traced, name)
    inside.output(copies[node])
    name = f"formula_{node.name}"
    traced.add_submodule(name, fx.GraphModule(root, inside))
    with traced.graph.inserting_after(node):
        made = traced.graph.call_module(name, (start,))
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    return made


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
    return [one for one in traced.graph.nodes if one in inside]


def _absorb(traced: fx.GraphModule, bench: Bench, made: fx.Node, above: dict[fx.Node, list[fx.Node]]) -> None:
    """Take a number that a formula's value alone is multiplied with, as the last step of hardswish, into the formula."""
    (start,) = made.all_input_nodes
    while len(made.users) == 1:
        (user,) = made.users
        is_number = user.op == "call_function" and user.all_input_nodes == [made] and is_map(user)
        found = behaviour.elementwise(bench, user) if is_number else None
        if found is None or not found.is_affine:
            return
        made = _module(traced, user, start)
        above[made] = [made, *above.get(start, [start])]


def made_convolution(traced: fx.GraphModule, bench: Bench, node: fx.Node) -> bool:
    """Put a convolution in the place of an operation that is one of one pixel, and tell whether it is.

    Means over channels, products with matrices, sums over maps.
    """
    known = behaviour.measured(bench, node)
    is_linear_mix = known.is_affine and known.channels == (None,) and not known.mixes_batch
    found = behaviour.as_weights(bench, node) if is_linear_mix else None
    if found is None:
        return False
    name = f"{node.name}_as_convolution"
    traced.add_submodule(name, channels_first.as_convolution(*found))
    with traced.graph.inserting_after(node):
        made = traced.graph.call_module(name, (bench.operands(node)[0],))
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    return True
