"""Finding a network's sites: which tensors hold feature maps that later layers read.

A **site** is a tensor of feature maps that later layers read: every activation output, every block output after its
addition, every concatenation and every linear bottleneck. What a node does to feature maps, measured (`behaviour`), decides,
and not what it is called; only convolutions are known as such, since their weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx, nn

from engine.errors import Unsupported
from engine.models import behaviour, capture, rewriting
from engine.models.behaviour import Behaviour, Bench, Channels, is_map
from engine.models.rewriting import ChannelNorm

aten = torch.ops.aten
PRODUCTS = (aten.mul.Tensor, aten.div.Tensor)
SHIFTS = (aten.add.Tensor, aten.sub.Tensor)


def symbolic(network: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Return an evaluated network as a graph in canonical form. Raises Unsupported naming what cannot be captured."""
    traced = capture.captured(network, shape)
    rewriting.to_canonical(traced)
    _make_convolutions(traced)
    capture.without_unused(traced).graph.lint()
    return traced


def _make_convolutions(traced: fx.GraphModule) -> None:
    """Make convolutions of what mixes maps, and refuse at the first that is none: those behind it would take minutes to try."""
    walker = Walker(traced)
    followed = walker.followed()
    for node in list(traced.graph.nodes):
        if not is_map(node) or node.op != "call_function" or walker.counts_as_it_was(node):
            continue
        if walker.behaviour(node).keeps_channels or rewriting.made_convolution(traced, walker.bench, node):
            continue
        # Axes that are moved are not what is wrong: what is done with them then is.
        if node in followed and rewriting.order_of(node) is None:
            walker.require_channels(node)


@dataclass(frozen=True, slots=True)
class Walker:
    """Questions about the nodes of one captured network."""

    traced: fx.GraphModule
    forced: frozenset[fx.Node] = frozenset()
    """Nodes that are sites because paths could not be followed through them otherwise."""
    bench: Bench = field(init=False)
    known: dict[fx.Node, Behaviour] = field(default_factory=dict)
    pictures: dict[fx.Node, bool] = field(default_factory=dict)
    """What is known of which nodes are made of the picture alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bench", Bench(self.traced))

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module a node calls, or None."""
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def behaviour(self, node: fx.Node) -> Behaviour:
        """Return what a node that yields feature maps does with those it reads."""
        if node not in self.known:
            self.known[node] = behaviour.measured(self.bench, node)
        return self.known[node]

    def is_carrier(self, node: fx.Node) -> bool:
        """Tell whether a node is a convolution."""
        return isinstance(self.module(node), nn.Conv2d)

    def is_picture(self, node: fx.Node) -> bool:
        """Tell whether a node is the picture, or what arithmetic, padding and the like made of it channel by channel."""
        if node not in self.pictures:
            self.pictures[node] = node.op == "placeholder" or self._is_made_of_pictures(node)
        return self.pictures[node]

    def _is_made_of_pictures(self, node: fx.Node) -> bool:
        if not is_map(node) or self.is_carrier(node) or self.is_norm_of_channels(node):
            return False
        behaviour = self.behaviour(node)
        return behaviour.keeps_channels and all(self.is_picture(operand) for operand in behaviour.operands)

    def is_scaling(self, node: fx.Node) -> bool:
        """Tell whether a node multiplies each map by a number of its own (squeeze-and-excitation), or all by one per place.

        The scaled map counts as the map it was; what the gate read of other maps is part of the change of that number.
        """
        return is_map(node) and self._scaled(node) is not None

    def _scaled(self, node: fx.Node) -> fx.Node | None:
        if node.op != "call_function" or node.target not in (*PRODUCTS, *SHIFTS):
            return None
        live = [source for source in node.all_input_nodes if source.meta.get("live")]
        maps = [source for source in live if source.meta["shape"] == node.meta["shape"]]
        gates = [source for source in live if _is_gate_shaped(source.meta["shape"], node.meta["shape"])]
        divides = node.target is aten.div.Tensor and node.args[0] not in maps
        if len(maps) != 1 or len(gates) != 1 or len(live) != 2 or divides:
            return None
        return maps[0] if node.target in PRODUCTS or not self.behaviour(node).keeps_channels else None

    def is_norm_of_channels(self, node: fx.Node) -> bool:
        """Tell whether a node divides each position's maps by their spread there.

        The normalised map counts as the map it was, as with gates; so there is no path through it but into a convolution.
        """
        return isinstance(self.module(node), ChannelNorm)

    def counts_as_it_was(self, node: fx.Node) -> bool:
        """Tell whether a node changes each map by what it read of others, and the map counts as the one it was."""
        return self.is_scaling(node) or self.is_norm_of_channels(node)

    def is_activation(self, node: fx.Node) -> bool:
        """Tell whether a node is a non-linearity applied to each element."""
        if not is_map(node) or self.is_carrier(node) or self.counts_as_it_was(node):
            return False
        behaviour = self.behaviour(node)
        return behaviour.is_elementwise and not behaviour.is_affine and len(behaviour.operands) == 1

    def is_join(self, node: fx.Node) -> bool:
        """Tell whether a node puts several tensors together channel by channel."""
        if not is_map(node) or self.is_carrier(node) or self.counts_as_it_was(node):
            return False
        return len(self.behaviour(node).operands) > 1 and self.behaviour(node).keeps_channels

    def is_affine(self, node: fx.Node) -> bool:
        """Tell whether a node is a sum of linear maps of what it reads and a constant; gates and norms are not."""
        return not self.counts_as_it_was(node) and (self.is_carrier(node) or self.behaviour(node).is_affine)

    def is_addition(self, node: fx.Node) -> bool:
        """Tell whether a node adds tensors: some channel that comes out depends on several of them."""
        if not self.is_join(node) or not self.behaviour(node).is_affine:
            return False
        read = self.behaviour(node).channels
        return any(sum(channel >= 0 for channel in row) > 1 for row in zip(*read, strict=True))

    def is_passing(self, node: fx.Node) -> bool:
        """Tell whether a node keeps feature maps apart: pooling, padding, slicing, batch norm, scaling, moving maps about."""
        if not is_map(node) or self.is_carrier(node):
            return False
        if self.counts_as_it_was(node):
            return True
        behaviour = self.behaviour(node)
        return len(behaviour.operands) == 1 and behaviour.keeps_channels and not self.is_activation(node)

    def carried(self, node: fx.Node) -> fx.Node:
        """Return the tensor whose feature maps a passing node hands on: its operand, of a product the one that is scaled."""
        scaled = self._scaled(node)
        if scaled is not None:
            return scaled
        return self.bench.operands(node)[0]

    def channels(self, node: fx.Node, operand: fx.Node) -> Channels:
        """Return of each channel of a passing node or a join the channel of `operand` that it depends on, NONE for none."""
        if self.counts_as_it_was(node):
            return tuple(range(node.meta["shape"][1]))
        behaviour = self.behaviour(node)
        channels = behaviour.channels[behaviour.operands.index(operand)]
        if channels is None:
            raise unsupported(node)
        return channels

    def producer(self, node: fx.Node) -> fx.Node:
        """Return the tensor whose feature maps reach `node` unmixed.

        What only scales and shifts the maps of a convolution (batch norm) belongs to the convolution: the walk stops there.
        """
        tail = None
        while not self.is_picture(node) and node not in self.forced and self.is_passing(node):
            is_tail = not self.counts_as_it_was(node) and self.behaviour(node).is_elementwise
            tail = (tail or node) if is_tail else None
            node = self.carried(node)
        ends_in_maps = self.is_carrier(node) or (self.is_join(node) and not self._is_own_site(node))
        return tail if tail is not None and ends_in_maps else node

    def heads(self) -> tuple[fx.Node, ...]:
        """Return the tensors of feature maps that the logits are computed from."""
        output = next(node for node in reversed(self.traced.graph.nodes) if node.op == "output")
        read = self.bench.operands(output.all_input_nodes[0])
        return tuple(dict.fromkeys(self.producer(node) for node in read))

    def sites(self) -> list[fx.Node]:
        """Return the site nodes in order of execution."""
        result, followed = set(self.forced) | set(self.heads()), self.followed()
        for node in self.traced.graph.nodes:
            if node not in followed or not is_map(node) or self.is_picture(node):
                continue
            if self.is_carrier(node):
                result.add(self.producer(node.all_input_nodes[0]))
            elif self._is_own_site(node):
                result.add(node)
        order = [
            node for node in self.traced.graph.nodes if node in result and is_map(node) and not self.is_picture(node)
        ]
        return [node for node in order if node in self.forced or not self._is_gate(node)]

    def mark_gates(self) -> None:
        """Note in every node that scales maps by a gate that it does: what the gate saw is no part of what a position sees."""
        for node in self.traced.graph.nodes:
            node.meta["is_scaling"] = self.is_scaling(node)

    def require_channels(self, node: fx.Node) -> None:
        """Raise Unsupported where a node mixes feature maps and is no convolution, or mixes pictures."""
        if self.is_carrier(node) or self.counts_as_it_was(node):
            return
        behaviour = self.behaviour(node)
        if behaviour.mixes_batch:
            raise unsupported(node, "makes a picture's answer depend on the others of its batch")
        if not behaviour.keeps_channels:
            raise unsupported(node, mixing(node))

    def followed(self) -> set[fx.Node]:
        """Return what the logits depend on in other ways than through a gate alone: what makes a gate counts as no feature map."""
        output = next(node for node in reversed(self.traced.graph.nodes) if node.op == "output")
        pending, result = [output], {output}
        while pending:
            node = pending.pop()
            sources = [self.carried(node)] if is_map(node) and self.counts_as_it_was(node) else node.all_input_nodes
            new = [source for source in sources if source not in result and source.meta.get("live")]
            result.update(new)
            pending += new
        return result

    def _is_own_site(self, node: fx.Node) -> bool:
        """Whether a tensor is a site whoever reads it: an activation, a sum, a product of maps."""
        if self.is_activation(node):
            return True
        if not self.is_join(node):
            return False
        return not self.behaviour(node).is_affine or (self.is_addition(node) and not self._only_activated(node))

    def _only_activated(self, node: fx.Node) -> bool:
        return all(self.is_activation(user) for user in node.users)

    def _is_gate(self, node: fx.Node) -> bool:
        """An activation that only multiplies other maps is a weight, not a feature map."""
        products = (user.target in PRODUCTS and is_map(user) and self._is_product(user) for user in node.users)
        return bool(node.users) and self.is_activation(node) and all(products)

    def _is_product(self, node: fx.Node) -> bool:
        return self.is_scaling(node) or (self.is_join(node) and not self.behaviour(node).is_affine)


def _is_gate_shaped(shape: torch.Size, whole: torch.Size) -> bool:
    """Whether a tensor holds one number per map, or one per position for all of several maps."""
    if len(shape) != 4 or shape == whole:
        return False
    return shape[2:] == (1, 1) or (shape[1] == 1 and shape[2:] == whole[2:])


def unsupported(node: fx.Node, reason: str = "cannot be followed from map to map") -> Unsupported:
    """Return the error that names an operation, where it stands, and why it cannot be read."""
    name = node.meta.get("name") or node.name
    return Unsupported(
        f"The operation '{name}' ({capture.kind_of(node)}){node.meta.get('line', '')} {reason}, so connections would not be exact."
        f"{FOLLOWED}"
    )


FOLLOWED = (
    " What can be followed: convolutions, anything that works on each element or on each feature map alone, additions and "
    "concatenations, products, maps moved about, and layer norm over the maps of a position."
)
"""What the reader follows, behind every refusal."""
MIXING = {
    "softmax": "lets every position or map weigh every other by what all of them show",
    "scaled_dot_product_attention": "lets every position weigh every other by what both show",
    "native_group_norm": "divides each feature map by the spread of what it shows now",
    "group_norm": "divides each feature map by the spread of what it shows now",
    "layer_norm": "divides each feature map by the spread of what it shows now",
}
"""What operations that are often met do, in words."""


def mixing(node: fx.Node) -> str:
    """Return in words what keeps an operation from being followed: attention and norms by name, of others that it mixes."""
    pending, seen, result = [node], {node}, {capture.kind_of(node)}
    while pending:
        reader = pending.pop()
        # What axes are moved of is no feature map yet, whatever its shape.
        is_moved = rewriting.order_of(reader) is not None
        for source in reader.all_input_nodes:
            is_end = source.op == "placeholder" or (is_map(source) and not is_moved)
            if source not in seen and source.meta.get("live") and not is_end:
                seen.add(source)
                pending.append(source)
                result.add(capture.kind_of(source))
    # Queries and keys are moved about for an attention that only comes next.
    result |= {capture.kind_of(user) for user in node.users if user.op == "call_function"}
    known = next((reason for kind, reason in MIXING.items() if kind in result), None)
    if known:
        return f"{known}; no exact share of one map in the next can be named"
    return "mixes feature maps in a way that is no convolution"
