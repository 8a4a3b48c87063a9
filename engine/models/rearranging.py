"""Which feature map goes where when layers only move maps about: channel shuffle, split, slice, permutation.

Nothing is concluded from names: the operations are carried out on a tensor in which every element is its own number, and
what comes out says where it came from.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor, fx

MOVE_FUNCTIONS = (operator.getitem, torch.chunk, torch.split, torch.transpose, torch.permute, torch.reshape)
MOVE_METHODS = ("chunk", "split", "transpose", "permute", "view", "reshape", "contiguous", "__getitem__")
ARITHMETIC = (operator.floordiv, operator.mul, operator.add, operator.sub, getattr)
"""Of sizes; `getattr` for `x.shape`."""

Moved = tuple[fx.Node, tuple[int, ...]]
"""The node whose maps are moved, and of each map that comes out its channel there."""


def maps(node: fx.Node, shapes: Mapping[fx.Node, Size]) -> Moved | None:
    """Return where the maps that leave `node` come from, or None where it does more than move whole maps."""
    if not moves(node) or len(shapes.get(node, ())) != 4:
        return None
    source = node
    while moves(source):
        source = source.all_input_nodes[0]
    if len(shapes.get(source, ())) != 4 or shapes[source][2:] != shapes[node][2:]:
        return None
    _, channels, height, width = shapes[source]
    numbers = torch.arange(channels * height * width, device="cpu").view(1, channels, height, width)
    moved = _carried_out(node, {source: numbers})
    return None if moved is None else _read(source, moved, height * width)


def moves(node: fx.Node) -> bool:
    """Tell whether a node only moves or reshapes what it is given."""
    if node.op == "call_function":
        return node.target in MOVE_FUNCTIONS
    return node.op == "call_method" and node.target in MOVE_METHODS


def _carried_out(node: fx.Node, known: dict[fx.Node, object]) -> Tensor | None:
    """Do what the nodes between `node` and the known ones do; None where one of them is no move."""

    def value(one: fx.Node) -> Any:
        if one not in known:
            arguments = fx.map_arg(one.args, value)
            options = fx.map_arg(one.kwargs, value)
            if one.op == "call_method" and (moves(one) or one.target in ("size", "dim")):
                known[one] = getattr(arguments[0], str(one.target))(*arguments[1:], **options)
            elif one.op == "call_function" and (moves(one) or one.target in ARITHMETIC):
                known[one] = one.target(*arguments, **options)  # type: ignore[operator]
            else:
                raise LookupError(one.name)
        return known[one]

    try:
        found = value(node)
    except (LookupError, RuntimeError, TypeError):
        return None
    return found if isinstance(found, Tensor) else None


def _read(source: fx.Node, moved: Tensor, positions: int) -> Moved | None:
    """Each map must be one map of the source, every position in its place."""
    rows = moved.reshape(moved.shape[1], positions)
    channels = rows[:, 0] // positions
    wanted = channels[:, None] * positions + torch.arange(positions, device="cpu")
    return (source, tuple(channels.tolist())) if torch.equal(rows, wanted) else None
