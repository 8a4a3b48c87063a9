"""The only object that may hold a network: evaluated, frozen, preprocessing inside, with taps at its sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from engine import keys
from engine.errors import Unsupported
from engine.models import graph, paths, sites
from engine.records import ChannelOrder, Link, Site

CHANNELS_LAST_FROM = 128
"""Pixels on the shorter side from which a CPU convolves faster with the channels last in memory (measured)."""
Visit = Callable[[int, Tensor], Tensor]
"""Given a tap's number and its tensor, returns the tensor that the network goes on with."""


class Tap(nn.Module):
    """An identity in the network at which a visitor may read or replace the tensor."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.visit: Visit | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor if self.visit is None else self.visit(self.number, tensor)


@dataclass(frozen=True, slots=True)
class Way:
    """A linear path between two sites, with the numbers of the taps that record it (see `paths.Path`)."""

    source: int
    target: int
    module: nn.Module | None
    """The convolution on the way; None for a shortcut."""
    entrance: int
    """Tap on what enters the convolution, or on the end of the shortcut."""
    exit: int
    """Tap on what leaves the convolution; the same as `entrance` for a shortcut."""
    sources: tuple[int, ...]
    target_offset: int


@dataclass(frozen=True, eq=False, slots=True)
class ModelBundle:
    """A network in eval mode, frozen, without in-place operations, taking images in [0, 1].

    Raises Unsupported when it is made (`bundle`), never later.
    """

    network: fx.GraphModule
    taps: tuple[Tap, ...]
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    ways: tuple[Way, ...]
    arrivals: tuple[int, ...]
    """Per site the tap on the input of its activation (its own tap where it has none)."""
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: Tensor
    std: Tensor
    resize: int | None
    """Of the shortest side of a picture before its centre is cut out (`images.fit`)."""
    order: ChannelOrder
    content_hash: str
    name: str

    @property
    def device(self) -> torch.device:
        """The device everything of this bundle runs on."""
        return self.mean.device

    def logits(self, images: Tensor) -> Tensor:
        """Return (batch, classes) logits of images (batch, channels, height, width) in [0, 1]; differentiable."""
        ordered = images if self.order == "rgb" else images.flip(1)
        return self.network((ordered - self.mean) / self.std)

    @contextmanager
    def visiting(self, visit: Visit) -> Iterator[None]:
        """Let `visit` see and replace the tensor at every tap: sites are numbered first, in order."""
        for tap in self.taps:
            tap.visit = visit
        try:
            yield
        finally:
            for tap in self.taps:
                tap.visit = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of its input."""

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = field(default=None, metadata=keys.GROWN)
    order: ChannelOrder = field(default="rgb", metadata=keys.GROWN)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bundle is called and whose answers it gives."""

    classes: tuple[str, ...]
    name: str = ""
    content_hash: str = ""


def bundle(network: nn.Module, preprocessing: Preprocessing, identity: Identity) -> ModelBundle:
    """Return the bundle of a network, on the best device at hand. Raises Unsupported naming what cannot be traced."""
    walker, nodes, described, found = _apart(network, preprocessing, identity)
    return _assembled(walker, nodes, described, found, (preprocessing, identity))


def taken_apart(
    network: nn.Module, preprocessing: Preprocessing, identity: Identity
) -> tuple[tuple[Site, ...], tuple[paths.Path, ...]]:
    """Return a network's sites and the paths between them, its taps put in; needs shapes alone. Raises Unsupported."""
    walker, nodes, described, found = _apart(network, preprocessing, identity)
    _insert_taps(walker, nodes, found)
    return described, found


def _apart(
    network: nn.Module, preprocessing: Preprocessing, identity: Identity
) -> tuple[graph.Walker, list[fx.Node], tuple[Site, ...], tuple[paths.Path, ...]]:
    walker, nodes, shapes = _sites(network, preprocessing, identity)
    try:
        return walker, nodes, sites.describe(walker, nodes, shapes), paths.find(walker, nodes, shapes)
    except Unsupported as error:
        raise Unsupported(walker.mixing() or str(error)) from error


def block_bundle(network: nn.Module, preprocessing: Preprocessing, identity: Identity) -> ModelBundle:
    """Return a bundle whose sites are the stem and the outputs of blocks alone, without connections between them."""
    walker, nodes, shapes = _sites(network, preprocessing, identity)
    described = sites.describe(walker, nodes, shapes)
    kept = [k for k, site in enumerate(described) if site.role != "inner"]
    return _assembled(
        walker, [nodes[k] for k in kept], tuple(described[k] for k in kept), (), (preprocessing, identity)
    )


def _sites(
    network: nn.Module, preprocessing: Preprocessing, identity: Identity
) -> tuple[graph.Walker, list[fx.Node], dict[fx.Node, torch.Size]]:
    traced = graph.symbolic(network.eval())
    shapes = graph.sizes(traced, torch.zeros(1, preprocessing.channels, *preprocessing.size))
    walker = graph.Walker(traced, shapes)
    nodes = walker.sites(lambda node: len(shapes.get(node, ())) == 4 and shapes[node][2] * shapes[node][3] > 1)
    if len(nodes) < 2:
        name = identity.name or type(network).__name__
        raise Unsupported(
            walker.mixing() or f"{name} has {len(nodes)} places with feature maps; at least 2 are needed."
        )
    return walker, nodes, shapes


def _assembled(
    walker: graph.Walker,
    nodes: list[fx.Node],
    described: tuple[Site, ...],
    found: tuple[paths.Path, ...],
    known: tuple[Preprocessing, Identity],
) -> ModelBundle:
    preprocessing, identity = known
    taps, ways, arrivals = _insert_taps(walker, nodes, found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    walker.traced.requires_grad_(False)
    if min(preprocessing.size) >= CHANNELS_LAST_FROM:
        # Weights that lie so make every map after them lie so.
        walker.traced.to(memory_format=torch.channels_last)
    shape = (1, preprocessing.channels, 1, 1)
    return ModelBundle(
        network=walker.traced.eval().to(device),
        taps=taps,
        sites=described,
        links=paths.links(found, len(nodes)),
        ways=ways,
        arrivals=arrivals,
        classes=identity.classes,
        channels=preprocessing.channels,
        size=preprocessing.size,
        mean=torch.tensor(preprocessing.mean, device=device).view(shape),
        std=torch.tensor(preprocessing.std, device=device).view(shape),
        resize=preprocessing.resize,
        order=preprocessing.order,
        content_hash=identity.content_hash,
        name=identity.name,
    )


def _insert_taps(
    walker: graph.Walker, nodes: list[fx.Node], found: tuple[paths.Path, ...]
) -> tuple[tuple[Tap, ...], tuple[Way, ...], tuple[int, ...]]:
    inserter = _Inserter(walker.traced)
    # Edges first, sites last: a site's tap then takes over every reader, the taps on its edges included.
    numbered = len(nodes)
    arrivals = []
    for k, node in enumerate(nodes):
        has_input = walker.is_activation(node)
        arrivals.append(inserter.on_edge(node.all_input_nodes[0], node, numbered) if has_input else k)
        numbered += has_input
    ways = []
    for path in found:
        entrance, exit_ = numbered, numbered
        inserter.on_edge(*path.entrance, entrance)
        numbered += 1
        if path.carrier is nodes[path.target]:
            # The convolution is the site: its own tap sees what leaves it, before the maps are gated.
            exit_ = path.target
        elif path.carrier is not None:
            exit_ = inserter.on_exit(path, numbered)
            numbered += 1
        module = walker.module(path.carrier) if path.carrier is not None else None
        ways.append(Way(path.source, path.target, module, entrance, exit_, path.sources, path.target_offset))
    for k, node in enumerate(nodes):
        inserter.on_node(node, k)
    walker.traced.graph.lint()
    walker.traced.recompile()
    return tuple(tap for _, tap in sorted(inserter.taps.items())), tuple(ways), tuple(arrivals)


class _Inserter:
    """Puts taps into a traced graph."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.taps: dict[int, Tap] = {}

    def _new(self, after: fx.Node, number: int) -> fx.Node:
        self.taps[number] = Tap(number)
        self.traced.add_submodule(f"tap_{number}", self.taps[number])
        with self.traced.graph.inserting_after(after):
            return self.traced.graph.call_module(f"tap_{number}", (after,))

    def on_edge(self, tensor: fx.Node, reader: fx.Node, number: int) -> int:
        """Tap what `reader` takes from `tensor`; taps already on that edge stay."""
        last = next(source for source in reader.all_input_nodes if _origin(source) is _origin(tensor))
        reader.replace_input_with(last, self._new(last, number))
        return number

    def on_exit(self, path: paths.Path, number: int) -> int:
        """Tap what a convolution sends towards one target.

        Where its output is shared with other targets (dense blocks), the layers up to this target's reader are
        repeated behind the tap, so that the gradient there is that of this path alone.
        """
        carrier = path.carrier or path.reader
        if path.reader is carrier or all(len(node.users) <= 1 for node in (carrier, *path.chain)):
            return self.on_node(carrier, number)
        old = path.chain[-1] if path.chain else carrier
        end, before = self._new(carrier, number), carrier
        for node in path.chain:
            with self.traced.graph.inserting_after(end):
                end, before = self.traced.graph.node_copy(node, _swapped(before, end)), node
        # Taps that lie on the reader's edge already stay on it.
        first, read = path.reader, next(one for one in path.reader.all_input_nodes if _origin(one) is old)
        while read is not old:
            first, read = read, read.all_input_nodes[0]
        first.replace_input_with(old, end)
        return number

    def on_node(self, node: fx.Node, number: int) -> int:
        """Tap what every reader takes from `node`."""
        readers = list(node.users)
        tap = self._new(node, number)
        for reader in readers:
            reader.replace_input_with(node, tap)
        return number


def _swapped(old: fx.Node, new: fx.Node) -> Callable[[fx.Node], fx.Node]:
    return lambda source: new if _origin(source) is old else source


def _origin(node: fx.Node) -> fx.Node:
    while node.op == "call_module" and str(node.target).startswith("tap_"):
        node = node.all_input_nodes[0]
    return node
