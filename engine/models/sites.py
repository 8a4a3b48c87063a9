"""From site nodes to the `Site` records: names, stages, roles and cut sites."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from torch import fx, nn

from engine.models import fields, graph
from engine.records import Role, Site


def describe(walker: graph.Walker, nodes: tuple[fx.Node, ...]) -> tuple[Site, ...]:
    """Return the `Site` records of the site nodes, in order."""
    shapes = {node: node.meta["shape"] for node in nodes}
    blocks = [_block_of(node) for node in nodes]
    roles = [_role(k, blocks) for k in range(len(nodes))]
    names = _unique([_name(node, block, role) for node, block, role in zip(nodes, blocks, roles, strict=True)])
    stages = _stages(names, roles, [tuple(shapes[node][2:]) for node in nodes])
    seen = fields.receptive_fields(walker, nodes)
    size = next(tuple(node.meta["shape"][2:]) for node in walker.traced.graph.nodes if node.op == "placeholder")
    return tuple(
        Site(
            name=names[k],
            channels=shapes[node][1],
            height=shapes[node][2],
            width=shapes[node][3],
            stage=stages[k],
            role="evidence" if len(nodes) > 2 and _is_class_evidence(walker, node) else roles[k],
            is_cut=_is_cut(walker.traced, node),
            **_sight(seen[node], size),
        )
        for k, node in enumerate(nodes)
    )


def _sight(seen: fields.Sights, size: tuple[int, int]) -> dict[str, Any]:
    """The receptive field as a `Site` holds it: along the width only where that differs, position by position where it must."""
    size = (size[1], size[0]) if seen.is_turned else size
    along, across = (_numbers(sight, side) for sight, side in zip((seen.rows, seen.columns), size, strict=True))
    named = along if across == along else along | {f"{name}_across": value for name, value in across.items()}
    if seen.rows.is_regular(size[0]) and seen.columns.is_regular(size[1]) and not seen.is_turned:
        return named
    spans = tuple(tuple(map(tuple, sight.spans.tolist())) for sight in (seen.rows, seen.columns))
    return named | {"field_spans": spans, "field_is_turned": seen.is_turned}


def _numbers(sight: fields.Sight, side: int) -> dict[str, float]:
    axis = sight.axis if sight.is_regular(side) else _nearest(sight)
    whole = {"field_size": axis.size, "field_jump": axis.jump}
    return {name: int(value) if value == int(value) else value for name, value in whole.items()} | {
        "field_start": axis.start
    }


def _nearest(sight: fields.Sight) -> fields.Axis:
    """The largest field, and how far apart the first and the last one lie, of positions that see what no rule says."""
    seen = sight.spans[sight.spans[:, 0] != fields.NOWHERE].double()
    if not len(seen):
        return fields.WHOLE
    size = float((seen[:, 1] - seen[:, 0]).max()) + 1
    centres = seen.mean(dim=1) + 0.5
    jump = float(centres[-1] - centres[0]) / max(1, len(seen) - 1)
    return fields.Axis(float(centres[0]) - size / 2, float(centres[0]) + size / 2, jump)


def _block_of(node: fx.Node) -> str:
    """The outermost module around a node that is more than a list of others; empty at the top of the network."""
    for path, kind in node.meta["stack"]:
        if path and not issubclass(kind, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return "" if kind.__module__.startswith("torch.nn") else str(path)
    return ""


def _role(k: int, blocks: list[str]) -> Role:
    if k == 0:
        return "stem"
    is_last = k + 1 == len(blocks) or blocks[k + 1] != blocks[k]
    return "block" if not blocks[k] or is_last else "inner"


def _name(node: fx.Node, block: str, role: Role) -> str:
    return block if role == "block" and block else str(node.meta["name"])


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


def _is_class_evidence(walker: graph.Walker, site: fx.Node) -> bool:
    """Tell whether a site's maps are the classes themselves: as many as there are logits, only pooling behind them."""
    output = next(node for node in reversed(walker.traced.graph.nodes) if node.op == "output")
    logits = output.all_input_nodes[0]
    if walker.heads() != (site,) or logits.meta["shape"][1] != site.meta["shape"][1]:
        return False
    found = walker.behaviour(logits)
    return len(found.operands) == 1 and found.channels == (tuple(range(site.meta["shape"][1])),)


def _is_cut(traced: fx.GraphModule, site: fx.Node) -> bool:
    """Tell whether every path from the image to the logits runs through `site`."""
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    pending, seen = [output], {output}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source.op == "placeholder":
                return False
            if source is not site and source not in seen and source.meta.get("live"):
                seen.add(source)
                pending.append(source)
    return True
