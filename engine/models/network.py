"""A network ready to be audited: hook points, paths, edges' inputs, predictions, and its twin in other precision."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fusion

from engine import hashing
from engine.errors import Unsupported
from engine.hashing import Schema
from engine.models import capture, graph, hook_points, paths
from engine.types.core import ChannelOrder, Link, Prediction, Site

TOP = 5


def predictions(logits: Tensor) -> list[Prediction]:
    """Return one prediction per row of (batch, classes) logits; ties go to the lower class.

    Softmax is taken in float64: in float32 a confident network's runners-up all read 0.
    """
    shares = logits.detach().double().cpu().softmax(dim=1)
    values, labels = shares.sort(dim=1, descending=True, stable=True)
    rows = zip(labels[:, :TOP].tolist(), values[:, :TOP].tolist(), strict=True)
    return [Prediction(row[0], share[0], tuple(zip(row, share, strict=True))) for row, share in rows]


CHANNELS_LAST_FROM = 128
"""Pixels on the shorter side from which a CPU convolves faster with the channels last in memory (measured)."""
Visit = Callable[[int, Tensor], Tensor]
"""Given a tap's number and its tensor, returns the tensor that the network goes on with."""


class Probe(nn.Module):
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
    """Number of a site, or `paths.PICTURE`."""
    target: int
    module: nn.Conv2d | None
    """The convolution on the way; None for a shortcut."""
    entrance: int
    """Tap on what enters the convolution, or on the end of the shortcut."""
    exit: int
    """Tap on what leaves the convolution; the same as `entrance` for a shortcut."""
    sources: tuple[int, ...]
    """Of each map that enters, its channel at the source; -1 where it is none of them."""
    targets: tuple[int, ...]
    """Of each map that leaves (of a shortcut: that enters), its channel at the target; -1 for none."""


@dataclass(frozen=True, eq=False, slots=True)
class ModelBundle:
    """A network in eval mode, frozen, without in-place operations, taking images in [0, 1].

    Raises Unsupported when it is made (`bundle`), never later.
    """

    network: fx.GraphModule
    taps: tuple[Probe, ...]
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    ways: tuple[Way, ...]
    arrivals: tuple[tuple[int, ...], ...]
    """Per site the taps at which everything arrives linearly: on the input of its activation, on both of a product, or its own."""
    inputs: tuple[int, ...]
    """Per site the tap on the input of its activation; its own tap where it is no activation of one tensor."""
    heads: tuple[int, ...]
    """The sites that the logits are computed from."""
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

    def tail(self) -> fx.GraphModule:
        """Return the network behind the sites that the logits are computed from; it takes their maps, in the order of `heads`."""
        inside = fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        taps = {f"tap_{site}": inside.placeholder(f"maps_{site}") for site in self.heads}
        for node in _behind(self.network, taps):
            known[node] = _copied_into(inside, node, known, taps)
        return fx.GraphModule(self.network, inside)

    @contextmanager
    def visiting(self, visit: Visit) -> Iterator[None]:
        """Let `visit` see and replace the tensor at every tap: sites are numbered first, in order."""
        for probe in self.taps:
            probe.visit = visit
        try:
            yield
        finally:
            for probe in self.taps:
                probe.visit = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of its input."""

    SCHEMA: ClassVar[Schema] = Schema("preprocessing/1", "Preprocessing")

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = field(default=None, metadata=hashing.GROWN)
    order: ChannelOrder = field(default="rgb", metadata=hashing.GROWN)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bundle is called and whose answers it gives."""

    classes: tuple[str, ...]
    name: str = ""
    content_hash: str = ""


def bundle(network: nn.Module, preprocessing: Preprocessing, identity: Identity) -> ModelBundle:
    """Return the bundle of a network, on the best device at hand. Raises Unsupported naming what cannot be read."""
    plan = _plan(network, preprocessing, identity)
    return _assembled(plan, hook_points.describe(plan.walker, plan.nodes), preprocessing, identity)


def taken_apart(
    network: nn.Module, preprocessing: Preprocessing, identity: Identity
) -> tuple[tuple[Site, ...], tuple[paths.Path, ...]]:
    """Return a network's sites and the paths between them, its taps put in; needs shapes alone. Raises Unsupported."""
    plan = _plan(network, preprocessing, identity)
    described = hook_points.describe(plan.walker, plan.nodes)
    _insert_taps(plan)
    return described, plan.paths


def block_bundle(network: nn.Module, preprocessing: Preprocessing, identity: Identity) -> ModelBundle:
    """Return a bundle whose sites are the stem and the outputs of blocks alone, without connections between them."""
    plan = _plan(network, preprocessing, identity)
    described = hook_points.describe(plan.walker, plan.nodes)
    kept = [k for k, site in enumerate(described) if site.role != "inner"]
    nodes, arrivals = (tuple(every[k] for k in kept) for every in (plan.nodes, plan.arrivals))
    heads = tuple(kept.index(head) for head in plan.heads if head in kept)
    blocks = dataclasses.replace(plan, nodes=nodes, arrivals=arrivals, paths=(), heads=heads)  # type: ignore[arg-type]
    return _assembled(blocks, tuple(described[k] for k in kept), preprocessing, identity)


def _plan(network: nn.Module, preprocessing: Preprocessing, identity: Identity) -> paths.Plan:
    shape = preprocessing.channels, *preprocessing.size
    plan = paths.plan(graph.symbolic(network.eval(), shape))
    if len(plan.nodes) < 2:
        name = identity.name or type(network).__name__
        raise Unsupported(f"{name} has {len(plan.nodes)} places with feature maps; at least 2 are needed.")
    return plan


def _assembled(
    plan: paths.Plan, described: tuple[Site, ...], preprocessing: Preprocessing, identity: Identity
) -> ModelBundle:
    traced = plan.walker.traced
    taps, ways, arrivals = _insert_taps(plan)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    traced.requires_grad_(False)
    if min(preprocessing.size) >= CHANNELS_LAST_FROM:
        # Weights that lie so make every map after them lie so.
        traced.to(memory_format=torch.channels_last)
    shape = (1, preprocessing.channels, 1, 1)
    return ModelBundle(
        network=traced.eval().to(device),
        taps=taps,
        sites=described,
        links=paths.links(plan.paths, len(plan.nodes), plan.heads),
        ways=ways,
        arrivals=arrivals,
        inputs=tuple(
            taps_[0] if len(taps_) == 1 and all(reader is node for _, reader in edges) else k
            for k, (node, taps_, edges) in enumerate(zip(plan.nodes, arrivals, plan.arrivals, strict=True))
        ),
        heads=plan.heads,
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


def _insert_taps(plan: paths.Plan) -> tuple[tuple[Probe, ...], tuple[Way, ...], tuple[tuple[int, ...], ...]]:
    inserter = _Inserter(plan.walker)
    # Edges first, sites last: a site's tap then takes over every reader, the taps on its edges included.
    arrivals = [
        tuple(inserter.on_edge(*edge, inserter.next_number(len(plan.nodes))) for edge in edges) or (k,)
        for k, edges in enumerate(plan.arrivals)
    ]
    ways = [inserter.on_path(path, plan.nodes) for path in plan.paths]
    for k, node in enumerate(plan.nodes):
        inserter.on_node(node, k)
    # What a path has a copy of may have had no other reader.
    capture.without_unused(plan.walker.traced).graph.lint()
    return tuple(probe for _, probe in sorted(inserter.taps.items())), tuple(ways), tuple(arrivals)


class _Inserter:
    """Puts taps into a captured graph."""

    def __init__(self, walker: graph.Walker) -> None:
        self.walker, self.traced = walker, walker.traced
        self.regions = {node: _region(node) for node in self.traced.graph.nodes if graph.is_map(node)}
        """Of each node that yields feature maps, the nodes that compute it from others of that kind."""
        self.taps: dict[int, Probe] = {}

    def next_number(self, first: int) -> int:
        """Return the number of the next tap on an edge; sites have those below `first`."""
        return first + len(self.taps)

    def _new(self, after: fx.Node, number: int) -> fx.Node:
        self.taps[number] = Probe(number)
        self.traced.add_submodule(f"tap_{number}", self.taps[number])
        with self.traced.graph.inserting_after(after):
            call_module = self.traced.graph.call_module(f"tap_{number}", (after,))
        call_module.meta = dict(after.meta)
        return call_module

    def on_path(self, path: paths.Path, nodes: tuple[fx.Node, ...]) -> Way:
        """Tap where a path's maps enter and where they leave its convolution."""
        entrance = self.on_edge(*path.entrance, self.next_number(len(nodes)))
        exit_ = entrance
        if path.carrier is nodes[path.target]:
            # The convolution is the site: its own tap sees what leaves it, before the maps are gated.
            exit_ = path.target
        elif path.carrier is not None:
            exit_ = self.on_exit(path, self.next_number(len(nodes)))
        module = self.walker.module(path.carrier) if path.carrier is not None else None
        return Way(path.source, path.target, module, entrance, exit_, path.sources, path.targets)  # type: ignore[arg-type]

    def on_edge(self, tensor: fx.Node, reader: fx.Node, number: int) -> int:
        """Tap what `reader` takes from `tensor`, itself or through nodes of its own; taps already on that edge stay."""
        readers = [
            (node, source)
            for node in (reader, *self.regions.get(reader, ()))
            for source in node.all_input_nodes
            if _origin(source) is _origin(tensor)
        ]
        last = readers[0][1]
        result = self._new(last, number)
        for node, source in readers:
            if node is not result:
                node.replace_input_with(source, result)
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
            end, before = self._repeated(node, before, end), node
        # Taps that lie on the reader's edge already stay on it.
        readers = (path.reader, *self.regions.get(path.reader, ()))
        first, read = next(
            (node, source) for node in readers for source in node.all_input_nodes if _origin(source) is _origin(old)
        )
        while read is not old and read.op == "call_module" and str(read.target).startswith("tap_"):
            first, read = read, read.all_input_nodes[0]
        first.replace_input_with(old, end)
        return number

    def _repeated(self, node: fx.Node, before: fx.Node, end: fx.Node) -> fx.Node:
        """A copy of `node`, and of what it computes from `before` on its way, that reads `end` instead."""
        copies: dict[fx.Node, fx.Node] = {}

        def read(source: fx.Node) -> fx.Node:
            return end if _origin(source) is before else copies.get(source, source)

        inside = set(self.regions.get(node, ()))
        for item in [item for item in self.traced.graph.nodes if item in inside or item is node]:
            with self.traced.graph.inserting_before(item):
                copies[item] = self.traced.graph.node_copy(item, read)
        return copies[node]

    def on_node(self, node: fx.Node, number: int) -> int:
        """Tap what every reader takes from `node`."""
        readers = list(node.users)
        probe = self._new(node, number)
        for reader in readers:
            reader.replace_input_with(node, probe)
        return number


def _behind(network: fx.GraphModule, taps: Mapping[str, fx.Node]) -> list[fx.Node]:
    """The nodes between some taps and the answer, in order, both included."""
    output = next(node for node in reversed(network.graph.nodes) if node.op == "output")
    pending, result = [output], {output}
    while pending:
        node = pending.pop()
        if node.target not in taps and node.target is not capture.batch_size:
            new = [source for source in node.all_input_nodes if source not in result]
            result.update(new)
            pending += new
    return [node for node in network.graph.nodes if node in result]


def _copied_into(
    inside: fx.Graph, node: fx.Node, known: Mapping[fx.Node, fx.Node], taps: Mapping[str, fx.Node]
) -> fx.Node:
    if node.target in taps:
        return taps[str(node.target)]
    first = next(iter(taps.values()))
    return inside.node_copy(node, lambda source: known.get(source, first))


def _region(node: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes that yield no feature maps, on the way from those that do to `node`."""
    results: dict[fx.Node, None] = {}
    pending = list(node.all_input_nodes)
    while pending:
        source = pending.pop()
        if (
            source not in results
            and source.meta.get("live")
            and not graph.is_map(source)
            and source.op != "placeholder"
        ):
            results[source] = None
            pending += source.all_input_nodes
    return tuple(results)


def _origin(node: fx.Node) -> fx.Node:
    while node.op == "call_module" and str(node.target).startswith("tap_"):
        node = node.all_input_nodes[0]
    return node


Versions = tuple[tuple[int, int], ...]

_FOLDED: weakref.WeakKeyDictionary[nn.Module, tuple[Versions, ModelBundle]] = weakref.WeakKeyDictionary()
"""Folding takes as long as a small pass, so it is done once per state of the weights; it goes with its network."""


def folded(bundle: ModelBundle) -> ModelBundle:
    """Return the float32 twin with every batch norm that follows one convolution folded into it.

    The same function up to float32 rounding; the bundle itself where nothing can be folded. Made anew whenever a weight
    was changed in place, so shuffled weights are never answered for by a twin of the trained ones.
    """
    if not any(True for _ in _foldable(bundle.network)):
        return bundle
    versions = _versions(bundle.network)
    known = _FOLDED.get(bundle.network)
    if known is None or known[0] != versions:
        known = versions, _fold(_copied(bundle, shares_weights=True))
        _FOLDED[bundle.network] = known
    return known[1]


def reduced(bundle: ModelBundle) -> ModelBundle:
    """Return the twin that computes in bfloat16 with channels last and batch norm folded; images and logits stay float32."""
    twin = _fold(_copied(bundle, shares_weights=False))
    _narrow_casts(twin.network)
    # Preprocessing stays float32: bfloat16 has 8 significant bits, so a pixel less its mean would lose its last ones.
    graph = twin.network.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        narrow = graph.call_method("to", (image,))
    image.replace_all_uses_with(narrow, lambda user: user is not narrow)
    narrow.kwargs = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        output.args = (graph.call_method("float", (output.args[0],)),)
    twin.network.recompile()
    twin.network.to(dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return twin


def double(bundle: ModelBundle) -> ModelBundle:
    """Return a twin that computes in float64 on the CPU, for the checks of equality: rounding then leaves 1e-12 and not 1e-5."""
    twin = _copied(bundle, shares_weights=False)
    twin.network.to(device="cpu", dtype=torch.float64, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return dataclasses.replace(twin, mean=bundle.mean.cpu().double(), std=bundle.std.cpu().double())


def _narrow_casts(network: fx.GraphModule) -> None:
    """Let every change to another floating-point type, within formulas too, be one to bfloat16: types are not mixed."""

    def narrowed(argument: object) -> object:
        return torch.bfloat16 if isinstance(argument, torch.dtype) and argument.is_floating_point else argument

    for module in network.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, narrowed)  # type: ignore[arg-type]
                node.kwargs = fx.node.map_aggregate(node.kwargs, narrowed)  # type: ignore[arg-type]
            module.recompile()


def _copied(bundle: ModelBundle, *, shares_weights: bool) -> ModelBundle:
    """The bundle with a network of its own; the tensors of its weights may stay the same ones."""
    tensors = itertools.chain(bundle.network.parameters(), bundle.network.buffers())
    network = copy.deepcopy(bundle.network, {id(tensor): tensor for tensor in tensors} if shares_weights else {})
    names = {module: name for name, module in bundle.network.named_modules()}
    copies = {module: network.get_submodule(name) for module, name in names.items()}
    ways = tuple(
        dataclasses.replace(way, module=way.module and copies[way.module])  # type: ignore[arg-type]
        for way in bundle.ways
    )
    taps = {module.number: module for module in network.modules() if isinstance(module, Probe)}
    return dataclasses.replace(
        bundle, network=network, ways=ways, taps=tuple(probe for _, probe in sorted(taps.items()))
    )


def _fold(twin: ModelBundle) -> ModelBundle:
    for node, convolution, norm in list(_foldable(twin.network)):
        with torch.no_grad():
            weight, bias = fusion.fuse_conv_bn_weights(
                convolution.weight.double(),
                None if convolution.bias is None else convolution.bias.double(),
                norm.running_mean.double(),  # type: ignore[union-attr]
                norm.running_var.double(),  # type: ignore[union-attr]
                norm.eps,
                norm.weight.double() if norm.affine else None,
                norm.bias.double() if norm.affine else None,
            )
        convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
        node.replace_all_uses_with(node.all_input_nodes[0])
        twin.network.graph.erase_node(node)
    twin.network.recompile()
    return twin


def _foldable(network: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Conv2d, nn.BatchNorm2d]]:
    """The batch norms that alone read a convolution, taps between them apart, both called only once."""
    calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in network.graph.nodes:
        norm = _module(network, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or calls[node.target] > 1:
            continue
        source = node.all_input_nodes[0]
        while isinstance(_module(network, source), Probe) and len(source.users) == 1:
            source = source.all_input_nodes[0]
        convolution = _module(network, source)
        if isinstance(convolution, nn.Conv2d) and len(source.users) == calls[source.target] == 1:
            yield node, convolution, norm


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _versions(network: nn.Module) -> Versions:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
