"""From site nodes to the `Site` records: names, stages, roles, cut sites and receptive fields."""

from __future__ import annotations

import itertools
import operator
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from engine.models import graph
from engine.records import Role, Site

Field = tuple[int, int, float]
"""Side of the receptive field, input pixels between neighbours, centre of the first field."""


def describe(walker: graph.Walker, nodes: list[fx.Node], shapes: dict[fx.Node, torch.Size]) -> tuple[Site, ...]:
    """Return the `Site` records of the site nodes, in order."""
    blocks = [_block_of(node) for node in nodes]
    roles = [_role(k, blocks) for k in range(len(nodes))]
    names = _unique([_name(node, block, role) for node, block, role in zip(nodes, blocks, roles, strict=True)])
    stages = _stages(names, roles, [tuple(shapes[node][2:]) for node in nodes])
    fields = receptive_fields(walker)
    return tuple(
        Site(
            name=names[k],
            channels=shapes[node][1],
            height=shapes[node][2],
            width=shapes[node][3],
            stage=stages[k],
            role="evidence" if len(nodes) > 2 and _is_class_evidence(walker, node, shapes) else roles[k],
            is_cut=_is_cut(walker.traced, node),
            field_size=min(fields[node][0], 1 << 20),
            field_jump=fields[node][1],
            field_start=fields[node][2],
        )
        for k, node in enumerate(nodes)
    )


def _block_of(node: fx.Node) -> str:
    """The outermost module around a node that is more than a list of others; empty at the top of the network."""
    parts = graph.module_of(node).split(".")
    kinds = dict(node.meta.get("nn_module_stack", {}).values())
    for end in range(1, len(parts) + 1):
        kind = kinds.get(".".join(parts[:end]))
        if isinstance(kind, type) and not issubclass(kind, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            is_leaf = kind.__module__.startswith("torch.nn")
            return "" if is_leaf else ".".join(parts[:end])
    return ""


def _role(k: int, blocks: list[str]) -> Role:
    if k == 0:
        return "stem"
    is_last = k + 1 == len(blocks) or blocks[k + 1] != blocks[k]
    return "block" if not blocks[k] or is_last else "inner"


def _name(node: fx.Node, block: str, role: Role) -> str:
    if role == "block" and block:
        return block
    if node.op == "call_module":
        return str(node.target)
    kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "site")
    inside = graph.module_of(node)
    return f"{inside}.{kind}" if inside else str(kind)


def _unique(names: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _stages(names: list[str], roles: list[Role], sizes: list[tuple[int, ...]]) -> list[str]:
    """Runs of equal map size are stages, named by what their module names share, else by the size."""
    keys = [("stem",) if role == "stem" else size for role, size in zip(roles, sizes, strict=True)]
    runs = [list(run) for _, run in itertools.groupby(range(len(names)), key=lambda k: keys[k])]
    shared = [_shared_prefix([names[k] for k in run]) for run in runs]
    titles = [
        "stem"
        if keys[run[0]] == ("stem",)
        else prefix
        if prefix and shared.count(prefix) == 1
        else "x".join(map(str, keys[run[0]]))
        for run, prefix in zip(runs, shared, strict=True)
    ]
    return [title for title, run in zip(titles, runs, strict=True) for _ in run]


def _shared_prefix(names: list[str]) -> str:
    parts = [name.split(".") for name in names]
    if len(parts) == 1:
        return parts[0][0]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def _is_class_evidence(walker: graph.Walker, site: fx.Node, shapes: dict[fx.Node, torch.Size]) -> bool:
    """Tell whether a site's maps are the classes themselves: as many as there are logits, only pooling behind them."""
    output = next(node for node in reversed(walker.traced.graph.nodes) if node.op == "output")
    logits = output.all_input_nodes[0]
    return walker.producer(logits) is site and shapes[logits][1] == shapes[site][1]


def _is_cut(traced: fx.GraphModule, site: fx.Node) -> bool:
    """Tell whether every path from the image to the logits runs through `site`."""
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    pending, seen = [output], {output}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source.op == "placeholder":
                return False
            if source is not site and source not in seen:
                seen.add(source)
                pending.append(source)
    return True


def receptive_fields(walker: graph.Walker) -> dict[fx.Node, Field]:
    """Return each node's theoretical receptive field along the height axis."""
    fields: dict[fx.Node, Field] = {}
    for node in walker.traced.graph.nodes:
        # A gate has seen the whole image, but it moves nothing: what a position shows is what the scaled map shows there.
        sources = [walker.carried(node)] if walker.is_scaling(node) else node.all_input_nodes
        before = [fields[source] for source in sources if source in fields]
        fields[node] = _widen(walker, node, max(before)) if before else (1, 1, 0.5)
    return fields


def _widen(walker: graph.Walker, node: fx.Node, field: Field) -> Field:
    size, jump, start = field
    module = walker.module(node)
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding, dilation = (
            _first(getattr(module, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        span = (kernel - 1) * dilation
        return size + span * jump, jump * stride, start + (span / 2 - padding) * jump
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) or node.target in (
        F.adaptive_avg_pool2d,
        torch.flatten,
    ):
        return 1 << 20, jump, start
    if node.target is operator.getitem and isinstance(node.args[1], tuple):
        steps = [part.step for part in node.args[1] if isinstance(part, slice) and part.step]
        return size, jump * (int(steps[0]) if steps else 1), start
    return field


def _first(value: object) -> int:
    return int(value[0]) if isinstance(value, tuple) else int(value)  # type: ignore[call-overload]
