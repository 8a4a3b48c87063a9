"""The linear paths between sites: which convolution or shortcut carries which maps of one site into which of the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from engine.models import graph
from engine.models.behaviour import NONE, Channels
from engine.types.core import Link

PICTURE = -1
"""In place of a site: the picture itself."""
ROUNDS = 20
"""Most times that sites are added until every path can be followed; each round adds all that the one before asked for."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way from a site, or from the picture, to where it arrives at a later site."""

    source: int
    """Number of a site, or `PICTURE`."""
    target: int
    carrier: fx.Node | None
    """The convolution on the way, or None for a shortcut."""
    chain: tuple[fx.Node, ...]
    """Pooling, padding and batch norm between the convolution and the node that reads it for this target, in order."""
    reader: fx.Node
    """The node of the target's side (activation, addition, concatenation) that reads the end of the chain."""
    entrance: tuple[fx.Node, fx.Node]
    """(tensor, reader): where the source's maps enter the carrier, or the end of the shortcut."""
    sources: Channels
    """Of each map that enters, its channel at the source; NONE where it is none of them (channel padding). Of the picture, and
    what arithmetic and padding made of it, all maps count as one."""
    targets: Channels
    """Of each map that leaves the carrier, or of a shortcut that enters, its channel at the target; NONE for none."""
    through: tuple[str, ...] = ()
    """Names of gates and norms on the way, for which a map counts as the one it was, whatever they read of others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sites of a network, and how their maps reach one another."""

    walker: graph.Walker
    nodes: tuple[fx.Node, ...]
    """The site nodes, in order of execution."""
    paths: tuple[Path, ...]
    arrivals: tuple[tuple[tuple[fx.Node, fx.Node], ...], ...]
    """Per site the edges (tensor, reader) at which everything arrives from before; none where it arrives at the site itself."""
    heads: tuple[int, ...]
    """The sites that the logits are computed from."""


def plan(traced: fx.GraphModule) -> Plan:
    """Return a network's sites and every linear path between them.

    Where maps could not be followed past a node before they arrive at an activation, the tensor there becomes a site of its
    own. Raises Unsupported naming an operation that mixes feature maps and is no convolution.
    """
    walker = graph.Walker(traced)
    for _ in range(ROUNDS):
        nodes = walker.sites()
        search = _Search(walker, {node: k for k, node in enumerate(nodes)})
        paths = [path for target, node in enumerate(nodes) for path in search.into(target, node)]
        search.needed |= _stems(paths)
        search.needed -= walker.forced
        if not search.needed:
            arrivals = tuple(search.edges(node) for node in nodes)
            _require_maps(walker)
            heads = tuple(sorted(search.index[node] for node in walker.heads() if node in search.index))
            walker.mark_gates()
            return Plan(walker, tuple(nodes), tuple(_between_sites(paths)), arrivals, heads)
        walker = graph.Walker(traced, walker.forced | search.needed, walker.known)
    raise graph.unsupported(next(iter(search.needed)))


def links(paths: tuple[Path, ...], sites: int, heads: tuple[int, ...]) -> tuple[Link, ...]:
    """Return the site pairs that any path joins, ordered by target, and last those to the logits."""
    through: dict[tuple[int, int], set[str]] = {}
    for path in paths:
        if path.source != PICTURE:
            through.setdefault((path.target, path.source), set()).update(path.through)
    between = (Link(source, target, tuple(sorted(names))) for (target, source), names in sorted(through.items()))
    return (*between, *(Link(head, sites) for head in heads))


def _require_maps(walker: graph.Walker) -> None:
    output = next(node for node in reversed(walker.traced.graph.nodes) if node.op == "output")
    if any(walker.is_picture(head) for head in walker.heads()):
        raise graph.unsupported(output.all_input_nodes[0], "reads the picture itself past every feature map")


def _between_sites(paths: list[Path]) -> list[Path]:
    """All paths but those of sites that the picture alone reaches: nothing arrives there from another site."""
    reached = {path.target for path in paths if path.source != PICTURE}
    return [path for path in paths if path.target in reached]


def _stems(paths: list[Path]) -> set[fx.Node]:
    """Convolutions of the picture whose maps run past the first activation: they are feature maps that later layers read."""
    from_sites = {path.target for path in paths if path.source != PICTURE}
    targets: dict[fx.Node, set[int]] = {}
    for path in paths:
        if path.source == PICTURE and path.carrier is not None:
            targets.setdefault(path.carrier, set()).add(path.target)
    return {carrier for carrier, reached in targets.items() if len(reached) > 1 or reached & from_sites}


@dataclass(frozen=True, slots=True)
class _Arrival:
    """An edge at which maps arrive at a non-linear site."""

    tensor: fx.Node
    reader: fx.Node
    targets: Channels | None
    """Of each channel of `tensor`, the one of the site that it becomes; None where one becomes several."""

    def is_straight(self, channels: int) -> bool:
        """Tell whether the tensor's channels are those of the site, which has so many, in the same order."""
        kept = self.targets or ()
        return len(kept) == channels and all(target in (k, NONE) for k, target in enumerate(kept))


@dataclass(slots=True)
class _Search:
    walker: graph.Walker
    index: dict[fx.Node, int]
    needed: set[fx.Node] = field(default_factory=set)
    """Nodes that have to become sites before every path can be followed."""

    def into(self, target: int, node: fx.Node) -> Iterator[Path]:
        """Return the paths into a site."""
        if self._is_linear(node):
            yield from self._bare(target, node)
            return
        for edge in self._arrivals(node):
            yield from self._arriving(target, edge)

    def edges(self, node: fx.Node) -> tuple[tuple[fx.Node, fx.Node], ...]:
        """Return where maps arrive at a site before it: nowhere, if it is made of them linearly."""
        return () if self._is_linear(node) else tuple((edge.tensor, edge.reader) for edge in self._arrivals(node))

    def _is_linear(self, node: fx.Node) -> bool:
        return self.walker.counts_as_it_was(node) or self.walker.is_affine(node)

    def _arrivals(self, node: fx.Node) -> Iterator[_Arrival]:
        """Where what arrives is still linear: before the first non-linear operation behind a convolution or a sum."""
        self.walker.require_channels(node)
        channels = node.meta["shape"][1]
        for operand in self.walker.behaviour(node).operands:
            nearest = result = self._edge(operand, node, tuple(range(channels)))
            if nearest.targets is not None and not nearest.is_straight(channels):
                raise graph.unsupported(node, "moves feature maps about and changes them in one")
            end, targets = operand, result.targets
            while not self._is_source(end) and self._is_step(end) and len(end.users) == 1:
                before = self.walker.carried(end)
                edge = self._edge(before, end, targets)
                if not self._is_linear(end) and edge.is_straight(channels):
                    result = edge
                end, targets = before, edge.targets
            yield nearest if self._is_source(end) else result

    def _edge(self, tensor: fx.Node, reader: fx.Node, behind: Channels | None) -> _Arrival:
        """The edge before `reader`, whose channels become those that `behind` tells."""
        channels = self.walker.channels(reader, tensor)
        return _Arrival(tensor, reader, _turned(channels, behind, tensor.meta["shape"][1]))

    def _is_source(self, node: fx.Node) -> bool:
        return node in self.index or self.walker.is_picture(node)

    def _source(self, end: fx.Node, sources: Channels) -> tuple[int, Channels]:
        """The number of a site and the channels there, or the picture and no more than one."""
        if end in self.index:
            return self.index[end], sources
        return PICTURE, tuple(0 if channel != NONE else NONE for channel in sources)

    def _is_step(self, node: fx.Node) -> bool:
        """Whether a node changes each feature map for itself, linearly or not."""
        return self.walker.is_passing(node) or self.walker.is_activation(node)

    def _bare(self, target: int, node: fx.Node) -> Iterator[Path]:
        """Paths into a site without an activation: an addition, a concatenation, or a linear bottleneck."""
        same = tuple(range(node.meta["shape"][1]))
        if self.walker.is_carrier(node):
            yield from self._carried(target, node, (), node, same)
        elif self.walker.is_join(node):
            yield from self._joined(target, node, same)
        else:
            self.walker.require_channels(node)
            yield from self._arriving(target, self._edge(self.walker.carried(node), node, same))

    def _arriving(self, target: int, edge: _Arrival) -> Iterator[Path]:
        """Paths through the edge `tensor` -> `reader`, walking against the flow."""
        if edge.targets is None:
            self._need(edge.tensor, edge.reader)
            return
        end, chain, sources = self._walked_back(edge.tensor)
        if self._is_source(end):
            source, sources = self._source(end, sources)
            entrance = edge.tensor, edge.reader
            yield Path(source, target, None, (), edge.reader, entrance, sources, edge.targets, self._through(chain))
            return
        targets = self._followed(chain, edge.targets)
        if targets is None:
            return
        if self.walker.is_carrier(end):
            yield from self._carried(target, end, chain, edge.reader, targets)
        elif self._is_own(end, chain):
            yield from self._joined(target, end, targets)

    def _walked_back(self, tensor: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...], Channels]:
        """The site, picture, convolution or sum whose maps come out as `tensor`, the steps between, and which map is which."""
        chain: tuple[fx.Node, ...] = ()
        end, sources = tensor, tuple(range(tensor.meta["shape"][1]))
        while not self._is_source(end) and self._is_step(end):
            before = self.walker.carried(end)
            channels = self.walker.channels(end, before)
            sources = tuple(channels[k] if k != NONE else NONE for k in sources)
            end, chain = before, (end, *chain)
        return end, chain, sources

    def _followed(self, chain: tuple[fx.Node, ...], targets: Channels) -> Channels | None:
        """The targets of each map before a chain that is linear and keeps maps apart; else asks for a site in it."""
        for node in reversed(chain):
            before = self.walker.carried(node)
            if not self._is_linear(node):
                self.needed.add(node)
                return None
            turned = _turned(self.walker.channels(node, before), targets, before.meta["shape"][1])
            if turned is None or self.walker.counts_as_it_was(node):
                self._need(before, node)
                return None
            targets = turned
        return targets

    def _is_own(self, node: fx.Node, chain: tuple[fx.Node, ...]) -> bool:
        """Whether a sum is read for this target alone; what several read has one gradient for all and becomes a site."""
        self.walker.require_channels(node)
        is_shared = any(len(item.users) > 1 for item in (node, *chain))
        if is_shared or not self.walker.is_affine(node):
            self.needed.add(node)
            return False
        return True

    def _carried(
        self, target: int, carrier: fx.Node, chain: tuple[fx.Node, ...], reader: fx.Node, targets: Channels
    ) -> Iterator[Path]:
        tensor = carrier.all_input_nodes[0]
        end, steps, sources = self._walked_back(tensor)
        if not self._is_source(end):
            self.walker.require_channels(end)
            self.needed.add(end)
            return
        source, sources = self._source(end, sources)
        yield Path(source, target, carrier, chain, reader, (tensor, carrier), sources, targets, self._through(steps))

    def _through(self, steps: tuple[fx.Node, ...]) -> tuple[str, ...]:
        return tuple(str(node.meta["name"]) for node in steps if self.walker.counts_as_it_was(node))

    def _joined(self, target: int, node: fx.Node, targets: Channels) -> Iterator[Path]:
        """Paths through an addition or a concatenation whose channels become those of the target that `targets` tells."""
        for tensor in self.walker.behaviour(node).operands:
            yield from self._arriving(target, self._edge(tensor, node, targets))

    def _need(self, tensor: fx.Node, reader: fx.Node) -> None:
        """Ask for a tensor to be a site; where it is one already, `reader` cannot be followed even from there."""
        while self.walker.counts_as_it_was(tensor) and not self._is_source(tensor):
            tensor = self.walker.carried(tensor)
        if self._is_source(tensor):
            raise graph.unsupported(reader, "repeats feature maps where they arrive")
        self.needed.add(tensor)


def _turned(channels: Channels, behind: Channels | None, count: int) -> Channels | None:
    """Of each of `count` channels before a step, what `behind` says of the one behind it; None where it says two things.

    channels: per channel behind the step the one before it.
    """
    result = [NONE] * count
    for k, before in enumerate(channels):
        if behind is None or before == NONE or behind[k] == NONE:
            continue
        if result[before] != NONE:
            return None
        result[before] = behind[k]
    return None if behind is None else tuple(result)
