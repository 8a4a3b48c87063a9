"""The same network with its weights shuffled: the sanity check that an explanation depends on what was learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from engine.models.bundle import ModelBundle


@contextmanager
def weights(bundle: ModelBundle, seed: int) -> Iterator[None]:
    """Permute the entries of every convolution and fully connected weight, in the order of their first call.

    Puts them back afterwards, whatever happens.
    """
    generator = torch.Generator().manual_seed(seed)
    called = [str(node.target) for node in bundle.network.graph.nodes if node.op == "call_module"]
    modules = [bundle.network.get_submodule(name) for name in dict.fromkeys(called)]
    layers = [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
    kept = [layer.weight.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                order = torch.randperm(layer.weight.numel(), generator=generator).to(bundle.device)
                layer.weight.copy_(layer.weight.flatten()[order].view_as(layer.weight))
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)
