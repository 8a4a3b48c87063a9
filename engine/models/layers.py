"""Layers with fixed weights, made of the operations that an exported program consists of, whatever they were written as."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
NORMS: Final = (aten._native_batch_norm_legit_no_training.default,)


def are_alike(first: object, second: nn.Module) -> bool:
    """Whether two modules of the graph are one called twice: the same kind, weights and settings."""
    if type(first) is not type(second):
        return False
    kept, other = vars(first), vars(second)
    weights = zip(kept["_parameters"].items(), other["_parameters"].items(), strict=True)
    return all(
        a is b or (a[1] is not None and b[1] is not None and a[1].data_ptr() == b[1].data_ptr()) for a, b in weights
    ) and (first.extra_repr() == second.extra_repr())


Made = tuple[nn.Module, fx.Node]
"""A module, and the node of what it is applied to."""


def _given(node: fx.Node, names: tuple[str, ...], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def convolution(node: fx.Node, known: Mapping[fx.Node, Any], padding: tuple[int, int] | None = None) -> Made | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = _given(node, names, {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1})
    weight, bias = given["weight"], given["bias"]
    if weight not in known or (bias is not None and bias not in known) or given["input"] in known:
        return None
    kernel, stride, dilation = (_pair(item) for item in (known[weight].shape[2:], given["stride"], given["dilation"]))
    padding = padding or _padding(given["padding"], kernel, dilation)
    if padding is None:
        return None
    outputs, inputs = known[weight].shape[0], known[weight].shape[1] * given["groups"]
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": given["groups"],
        "bias": bias is not None,
    }
    module = nn.Conv2d(inputs, outputs, kernel, device="meta", **options)
    module.weight = _frozen(known[weight])
    if bias is not None:
        module.bias = _frozen(known[bias])
    return module.eval(), given["input"]


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int] | None:
    """Padding in numbers; None where the two sides differ, which a convolution cannot say in numbers."""
    if value == "valid":
        return (0, 0)
    if value != "same":
        return _pair(value)
    whole = [step * (side - 1) for side, step in zip(kernel, dilation, strict=True)]
    return None if any(side % 2 for side in whole) else (whole[0] // 2, whole[1] // 2)


def padding_around(node: fx.Node, known: Mapping[fx.Node, Any]) -> list[int] | None:
    """Left, right, top and bottom of `same` padding whose two sides differ; None for any other, or where weights are computed."""
    given = _given(
        node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), {"dilation": 1, "padding": 0}
    )
    if given["weight"] not in known or given["padding"] != "same":
        return None
    kernel, dilation = _pair(known[given["weight"]].shape[2:]), _pair(given["dilation"])
    if _padding("same", kernel, dilation) is not None:
        return None
    whole = [step * (side - 1) for side, step in zip(kernel, dilation, strict=True)]
    return [whole[1] // 2, whole[1] - whole[1] // 2, whole[0] // 2, whole[0] - whole[0] // 2]


def _linear(node: fx.Node, known: Mapping[fx.Node, Any]) -> Made | None:
    given = _given(node, ("input", "weight", "bias"), {"bias": None})
    weight, bias = given["weight"], given["bias"]
    if (
        weight not in known
        or known[weight].ndim != 2
        or (bias is not None and bias not in known)
        or given["input"] in known
    ):
        return None
    outputs, inputs = known[weight].shape
    module = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    module.weight = _frozen(known[weight])
    if bias is not None:
        module.bias = _frozen(known[bias])
    return module.eval(), given["input"]


def _first_of_three(node: fx.Node, known: Mapping[fx.Node, Any]) -> Made | None:
    """Of the three tensors that torch's own batch norm of evaluation answers, the one that is normalised."""
    norm, which = node.args
    if not isinstance(norm, fx.Node) or norm.target not in NORMS or which != 0:
        return None
    return _normalising(norm.args[:5], cast(float, norm.args[5]), cast(float, norm.args[6]), known)


def _batch_norm(node: fx.Node, known: Mapping[fx.Node, Any]) -> Made | None:
    if node.args[5]:
        # With the statistics of the batch at hand it is no layer with fixed weights.
        return None
    return _normalising(node.args[:5], cast(float, node.args[6]), cast(float, node.args[7]), known)


def _normalising(arguments: tuple[Any, ...], momentum: float, eps: float, known: Mapping[fx.Node, Any]) -> Made | None:
    tensor, *weights = arguments
    if any(item is not None and item not in known for item in weights) or len(tensor.meta["val"].shape) != 4:
        return None
    weight, bias, mean, variance = (None if item is None else cast(Tensor, known[item]) for item in weights)
    if mean is None or variance is None:
        return None
    is_affine = weight is not None or bias is not None
    module = nn.BatchNorm2d(len(mean), eps=eps, momentum=momentum, affine=is_affine, device="meta")
    if module.affine:
        module.weight = _frozen(torch.ones_like(mean) if weight is None else weight)
        module.bias = _frozen(torch.zeros_like(mean) if bias is None else bias)
    module.running_mean, module.running_var, module.num_batches_tracked = mean.detach(), variance.detach(), None
    return module.eval(), tensor


MAKERS: Final[Mapping[Any, Callable[[fx.Node, Mapping[fx.Node, Any]], Made | None]]] = {
    aten.conv2d.default: convolution,
    aten.conv2d.padding: convolution,
    aten.linear.default: _linear,
    operator.getitem: _first_of_three,
    aten.batch_norm.default: _batch_norm,
}
"""How an operation with fixed weights becomes a module."""
