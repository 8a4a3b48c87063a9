"""The linear paths between sites: which convolution or shortcut carries which maps of one site into which of the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx

from engine.errors import Unsupported
from engine.models import graph
from engine.records import Link

Sources = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """One way from a site to the input of a later site's activation."""

    source: int
    target: int
    carrier: fx.Node | None
    """The convolution on the way, or None for a shortcut."""
    chain: tuple[fx.Node, ...]
    """Pooling, padding and batch norm between the convolution and the node that reads it for this target, in order."""
    reader: fx.Node
    """The node of the target's side (activation, addition, concatenation) that reads the end of the chain."""
    entrance: tuple[fx.Node, fx.Node]
    """(tensor, reader): where the source's maps enter the carrier, or the end of the shortcut."""
    sources: Sources
    """Of each map that enters, its channel at the source; -1 where it is none of them (channel padding)."""
    target_offset: int
    """First channel of the target that this path feeds (after concatenation)."""


def find(walker: graph.Walker, nodes: list[fx.Node], shapes: dict[fx.Node, torch.Size]) -> tuple[Path, ...]:
    """Return every linear path between the site nodes.

    Raises Unsupported naming an operation between two sites that is not linear, or that splits or reorders feature maps.
    """
    search = _Search(walker, {node: k for k, node in enumerate(nodes)}, shapes)
    return tuple(path for target, node in enumerate(nodes) for path in search.into(target, node))


def links(paths: tuple[Path, ...], sites: int) -> tuple[Link, ...]:
    """Return the site pairs that any path joins, ordered by target, and last the one from the last site to the logits."""
    pairs = sorted({(path.target, path.source) for path in paths})
    return (*(Link(source, target) for target, source in pairs), Link(sites - 1, sites))


@dataclass(frozen=True, slots=True)
class _Search:
    walker: graph.Walker
    index: dict[fx.Node, int]
    shapes: dict[fx.Node, torch.Size]

    def into(self, target: int, node: fx.Node) -> Iterator[Path]:
        if self.walker.is_activation(node):
            yield from self._arriving(target, node.all_input_nodes[0], node, 0)
        else:
            yield from self._bare(target, node)

    def _bare(self, target: int, node: fx.Node) -> Iterator[Path]:
        """Paths into a site without an activation: an addition, a concatenation, or a linear bottleneck."""
        if self.walker.is_addition(node) or self.walker.is_concatenation(node):
            yield from self._joined(target, node, 0)
        elif self.walker.is_carrier(node):
            yield from self._carried(target, node, (), node, 0)
        elif self.walker.is_passing(node) or node.all_input_nodes[0].op == "placeholder":
            yield from self._arriving(target, self.walker.carried(node), node, _channel_padding(node))
        else:
            raise _unsupported(target, node)

    def _arriving(self, target: int, tensor: fx.Node, reader: fx.Node, offset: int) -> Iterator[Path]:
        """Paths through the edge `tensor` -> `reader`, walking against the flow."""
        end, sources = tensor, tuple(range(self.shapes[tensor][1]))
        chain: tuple[fx.Node, ...] = ()
        while end not in self.index:
            moved = self.walker.rearranged(end)
            if moved is None and not self.walker.is_passing(end):
                break
            chain = (end, *chain)
            end, sources = self._before(end, sources)
        if end in self.index:
            yield Path(self.index[end], target, None, (), reader, (tensor, reader), sources, offset)
            return
        padding = sources.index(0) if 0 in sources else 0
        if sources[padding:] != tuple(range(len(sources) - padding)):
            raise _unsupported(target, end, "has its maps moved about before any activation")
        if any(self.walker.is_norm_of_channels(node) for node in chain):
            raise _unsupported(target, end, "is normalised over its maps before any activation")
        if not self.walker.is_carrier(end):
            yield from self._joined(target, end, offset + padding)
            return
        if any(self.walker.is_scaling(node) for node in chain):
            raise _unsupported(target, end, "is scaled by a gate that reads it, before any activation")
        yield from self._carried(target, end, chain, reader, offset + padding)

    def _before(self, node: fx.Node, sources: Sources) -> tuple[fx.Node, Sources]:
        """The node whose maps a passing node hands on, and of each map that entered its channel there."""
        moved = self.walker.rearranged(node)
        if moved is not None:
            before, channels = moved
        else:
            before, padding = self.walker.carried(node), _channel_padding(node)
            count = self.shapes[before][1]
            channels = tuple(k - padding if 0 <= k - padding < count else -1 for k in range(self.shapes[node][1]))
        return before, tuple(channels[k] if k >= 0 else -1 for k in sources)

    def _carried(
        self, target: int, carrier: fx.Node, chain: tuple[fx.Node, ...], reader: fx.Node, offset: int
    ) -> Iterator[Path]:
        tensor = carrier.all_input_nodes[0]
        source = self.walker.producer(tensor)
        if source in self.index:
            sources = self._through(tensor, source)
            yield Path(self.index[source], target, carrier, chain, reader, (tensor, carrier), sources, offset)
        elif source.op != "placeholder":
            raise _unsupported(target, source)

    def _through(self, tensor: fx.Node, source: fx.Node) -> Sources:
        """Of each map of `tensor`, its channel at the source that it comes from through passing nodes alone."""
        end, sources = tensor, tuple(range(self.shapes[tensor][1]))
        while end is not source:
            end, sources = self._before(end, sources)
        return sources

    def _joined(self, target: int, node: fx.Node, offset: int) -> Iterator[Path]:
        """Paths through an addition or a concatenation."""
        is_concatenation = self.walker.is_concatenation(node)
        if is_concatenation or self.walker.is_addition(node):
            for tensor in node.all_input_nodes:
                yield from self._arriving(target, tensor, node, offset)
                offset += self.shapes[tensor][1] if is_concatenation else 0
        elif node.op != "placeholder":
            raise _unsupported(target, node)


def _unsupported(target: int, node: fx.Node, reason: str = "cannot be followed from map to map") -> Unsupported:
    kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return Unsupported(
        f"The operation '{node.name}' ({kind}) before site {target} {reason}, so connections would not be exact; supported "
        "between sites are convolutions, additions, concatenations, channel shuffles, pooling, padding, gates that scale each "
        "map of an activation (squeeze-and-excitation) and, before a convolution, layer norm over the maps of a position."
    )


def _channel_padding(node: fx.Node) -> int:
    """Channels that a padding puts before the first one (the parameter-free shortcut of CIFAR ResNets)."""
    widths = node.args[1] if node.target is F.pad else ()
    return int(widths[4]) if isinstance(widths, tuple | list) and len(widths) >= 6 else 0
