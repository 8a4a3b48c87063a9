"""Proof of the receptive fields: what is declared is what the gradient reaches, along the height and along the width.

On a twin of the network whose convolutions have positive weights that sum to one and whose batch norms do nothing, so that no
pixel's part is lost to a unit that is silent on the pictures at hand; gates are held.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from engine.models.bundle import ModelBundle, Tap

aten = torch.ops.aten
SITES = 6
"""Sites that are looked at, spread over the network; the first and the last are among them."""
PICTURES = 6
"""Over whose gradients supports are united: a largest value is taken from another place in each."""
SLACK = 1.0
"""Pixels by which a declared field may be too large on a side: interpolation reaches half-way between pixels."""
ROUNDING = 1e-6
"""Share of the largest gradient below which it may be what rounding leaves of parts that cancel."""
Span = tuple[int, int]
DARKEST = 0.6
"""Of the values that are put in: a network that subtracts a mean first still gets positive ones."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How far declared receptive fields are those that were found."""

    sites: int
    missing: float
    """Most pixels on one side that a position depends on and that its field does not hold."""
    missing_at: int
    excess: float
    """Most pixels on one side by which a field is larger than what its position depends on."""
    excess_at: int

    @property
    def holds(self) -> bool:
        """Whether fields hold all that positions depend on, and no more."""
        return self.missing <= 0 and self.excess <= SLACK


def measure(bundle: ModelBundle) -> Sight:
    """Return how the declared receptive fields of some sites agree with the gradient's support, inside the picture."""
    sites = sorted({round(k * (len(bundle.sites) - 1) / (SITES - 1)) for k in range(SITES)})
    twin = _positive(bundle)
    missing: dict[int, float] = {}
    excess: dict[int, float] = {}
    for site, maps, image in _recorded(twin, bundle, sites):
        for place in _places(tuple(maps.shape[2:])):
            declared = bundle.sites[site].sees(*place)
            surely, at_all = _reached(maps, image, place)
            lost = [_outside(*one) for one in zip(declared, surely, bundle.size, strict=True)]
            more = [_beyond(*one) for one in zip(declared, at_all, bundle.size, strict=True)]
            missing[site] = max(missing.get(site, 0.0), *lost)
            excess[site] = max(excess.get(site, 0.0), *more)
    missing_at, excess_at = (max(each, key=lambda site: each[site]) for each in (missing, excess))
    return Sight(len(sites), missing[missing_at], missing_at, excess[excess_at], excess_at)


def _outside(declared: tuple[float, float], span: Span | None, side: int) -> float:
    """Pixels of a span that a declared field lacks, on the worse side; inside a picture of `side` pixels."""
    if span is None:
        return 0.0
    return max(max(declared[0], 0.0) - span[0], span[1] + 1 - min(declared[1], float(side)), 0.0)


def _beyond(declared: tuple[float, float], span: Span | None, side: int) -> float:
    """Pixels that a declared field has beyond a span, on the worse side; inside a picture of `side` pixels."""
    if span is None:
        return 0.0
    return max(span[0] - max(declared[0], 0.0), min(declared[1], float(side)) - span[1] - 1, 0.0)


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    height, width = shape
    middle = height // 2, width // 2
    return list(dict.fromkeys([middle, (min(middle[0] + 1, height - 1), max(middle[1] - 1, 0)), (0, width - 1)]))


def _recorded(twin: nn.Module, bundle: ModelBundle, sites: list[int]) -> list[tuple[int, Tensor, Tensor]]:
    shape = PICTURES, bundle.channels, *bundle.size
    drawn = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    image = (DARKEST + (1 - DARKEST) * drawn).requires_grad_()
    seen: dict[int, Tensor] = {}

    def visit(number: int, tensor: Tensor) -> Tensor:
        if number in sites:
            seen[number] = tensor
        return tensor

    taps = [module for module in twin.modules() if isinstance(module, Tap)]
    for tap in taps:
        tap.visit = visit
    with torch.enable_grad():
        twin(image)
    return [(site, seen[site], image) for site in sites]


def _reached(maps: Tensor, image: Tensor, place: tuple[int, int]) -> tuple[list[Span | None], list[Span | None]]:
    """The first and the last row, and column, that one position depends on by more than rounding, and at all; None for none."""
    weights = torch.rand(maps.shape[1], generator=torch.Generator("cpu").manual_seed(1), device="cpu") + 0.5
    total = (maps[:, :, place[0], place[1]] * weights).sum()
    (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
    strength = gradient.abs().sum(dim=(0, 1))
    return _spans(strength > ROUNDING * strength.max()), _spans(strength > 0)


def _spans(touched: Tensor) -> list[Span | None]:
    found: list[Span | None] = []
    for axis in (1, 0):
        rows = touched.any(dim=axis).nonzero()[:, 0]
        found.append((int(rows[0]), int(rows[-1])) if len(rows) else None)
    return found


def _positive(bundle: ModelBundle) -> fx.GraphModule:
    """The network as a twin through which every pixel's part is seen."""
    twin = copy.deepcopy(bundle.network).to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            weight = (
                torch.rand(module.weight.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu") + 0.5
            )
            module.weight = nn.Parameter(weight / weight[0].numel(), requires_grad=False)
            module.bias = None
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean, module.running_var = (
                torch.zeros_like(module.running_mean),
                torch.ones_like(module.running_var),
            )
            if module.affine:
                module.weight, module.bias = (
                    nn.Parameter(value, requires_grad=False)
                    for value in (torch.ones_like(module.weight), torch.zeros_like(module.bias))
                )
    for node in list(twin.graph.nodes):
        if node.target is aten.max_pool2d.default and len(node.args) < 5:
            # A largest value may come from any place of its window; few pictures do not show them all.
            tensor, kernel, stride, padding = (*node.args, [], 0)[:4] if len(node.args) == 2 else (*node.args, 0)[:4]
            node.target, node.args = aten.avg_pool2d.default, (tensor, kernel, stride or kernel, padding)
        if node.meta.get("is_scaling"):
            _hold_gates(twin, node)
    twin.recompile()
    return twin


def _hold_gates(twin: fx.GraphModule, node: fx.Node) -> None:
    for source in node.all_input_nodes:
        if source.meta.get("shape") != node.meta["shape"]:
            with twin.graph.inserting_before(node):
                held = twin.graph.call_function(aten.detach.default, (source,))
            node.replace_input_with(source, held)
