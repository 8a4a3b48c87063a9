"""Twins of a bundle for scoring: batch norm folded in float32, or folded, channels-last and in bfloat16.

A twin is a bundle of its own with the same sites, taps and ways; the bundle it was made of is left as it was submitted,
and whatever is claimed about a network (transplants, agreement, attacks) is measured on that.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.utils import fusion

from engine.models.bundle import ModelBundle, Tap

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
    """Return a twin that computes in float64 on the CPU, for proofs: rounding then leaves 1e-12 and not 1e-5."""
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
    taps = {module.number: module for module in network.modules() if isinstance(module, Tap)}
    return dataclasses.replace(bundle, network=network, ways=ways, taps=tuple(tap for _, tap in sorted(taps.items())))


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
        while isinstance(_module(network, source), Tap) and len(source.users) == 1:
            source = source.all_input_nodes[0]
        convolution = _module(network, source)
        if isinstance(convolution, nn.Conv2d) and len(source.users) == calls[source.target] == 1:
            yield node, convolution, norm


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _versions(network: nn.Module) -> Versions:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
