"""Proof that the network that is audited answers as the module that was handed in, in batches and alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import Unsupported
from engine.models import capture, precision
from engine.models.bundle import ModelBundle

SAME = 1e-5
"""Largest difference of two answers, as a share of how far logits differ between pictures, that rounding may explain."""
ALONE = 8
"""Pictures that are also answered one at a time."""
TOGETHER = 8
"""Pictures of a batch."""
IN_DOUBLE = 2
"""Pictures that are answered alone in float64 where float32 leaves more than `SAME`."""
ROUNDING = 1e-2
"""Difference from which on none is taken for rounding."""
LEAST = 64
"""Pictures that are compared when a model is added or checked."""
AT_LOADING = 4
"""Pictures that are compared each time a network is made ready for use."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the answers of two networks to the same pictures differ, as shares of how far logits differ between pictures."""

    pictures: int
    together: float
    """In batches: the audited network against the module."""
    alone: float
    """One at a time: the audited network against the module."""
    beside_others: float
    """The module in batches against the module one at a time: whether a picture's answer depends on the others."""

    @property
    def holds(self) -> bool:
        """Whether the audited network is the one that was handed in. Answers that are not finite differ from nothing."""
        return all(error <= SAME for error in (self.together, self.alone, self.beside_others))


def require(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Agreement:
    """Return how far the audited network agrees with the untouched one; raises Unsupported where it is another function."""
    found = compare(network, bundle, images)
    if not found.holds:
        raise Unsupported(sentence(found))
    return found


def sentence(found: Agreement) -> str:
    """Return what was compared, for people."""
    worst = max(found.together, found.alone)
    if found.holds:
        return (
            f"On {found.pictures} pictures, in batches and alone, logits differ from those of the module handed in by at most "
            f"{worst:.0e} of their range over the pictures."
        )
    if found.beside_others > SAME:
        return (
            f"The network answers a picture otherwise beside others than alone (by {found.beside_others:.0e} of the range of "
            "logits): its answers depend on the batch, or on what it was asked before."
        )
    return (
        f"The network that would be audited is not the one handed in: logits differ by {worst:.0e} of their range over "
        f"{found.pictures} pictures. Its forward does something that cannot be captured: write it in plain operations."
    )


def pictures(bundle: ModelBundle, count: int, real: Tensor | None = None) -> Tensor:
    """Return `count` pictures (count, channels, height, width) in [0, 1]: at most three quarters real ones, the others made up.

    Made up are black, white, noise and smooth patterns of several contrasts: a network may treat some of them otherwise.
    """
    shape = bundle.channels, *bundle.size
    generator = torch.Generator("cpu").manual_seed(0)
    kept = torch.zeros(0, *shape, device="cpu") if real is None else real[: count * 3 // 4].cpu()
    made = count - len(kept)
    coarse = torch.rand((made, bundle.channels, 4, 4), generator=generator, device="cpu")
    smooth = nn.functional.interpolate(coarse, size=bundle.size, mode="bilinear")
    noise = torch.rand((made, *shape), generator=generator, device="cpu")
    contrast = torch.linspace(0.1, 1.0, made, device="cpu").view(-1, 1, 1, 1)
    drawn = torch.where(torch.arange(made, device="cpu").view(-1, 1, 1, 1) % 2 == 0, smooth, noise) * contrast
    drawn[:2] = torch.tensor([0.0, 1.0], device="cpu").view(2, 1, 1, 1)[: len(drawn[:2])]
    return torch.cat([kept, drawn]).to(bundle.device)


@torch.no_grad()
def compare(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Agreement:
    """Return how the audited network agrees with the untouched module.

    network: as it was handed in, in evaluation mode; images: (pictures, channels, height, width) in [0, 1].
    Raises Unsupported where the module cannot answer a batch, or one picture alone.
    """
    network = network.to(bundle.device)
    parts = images.split(TOGETHER)
    expected = torch.cat([untouched(network, bundle, part) for part in parts])
    answered = torch.cat([bundle.logits(part) for part in parts])
    singles = images[:: max(1, len(images) // ALONE)][:ALONE]
    expected_alone = torch.cat([untouched(network, bundle, one[None]) for one in singles])
    answered_alone = torch.cat([bundle.logits(one[None]) for one in singles])
    rows = torch.arange(len(images), device=images.device)[:: max(1, len(images) // ALONE)][:ALONE]
    errors = (
        _error(answered, expected),
        _error(answered_alone, expected_alone),
        _error(expected[rows], expected_alone),
    )
    found = Agreement(len(images), *errors)
    if SAME < max(errors) < ROUNDING:
        return _in_double(network, bundle, images, _worst(answered, expected), found)
    return found


def untouched(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Tensor:
    """Return the logits (batch, classes) of the module itself, with the preprocessing that was declared."""
    ordered = images if bundle.order == "rgb" else images.flip(1)
    try:
        answers = network((ordered - bundle.mean) / bundle.std)
    except Exception as error:
        many = "one picture alone" if len(images) == 1 else f"a batch of {len(images)} pictures"
        reason = " ".join(str(error).split())[:160]
        raise Unsupported(f"The network cannot answer {many}{capture.source_line(error)}: {reason}.") from error
    return capture.logits(answers, len(images))


def _error(answered: Tensor, expected: Tensor) -> float:
    if answered.shape != expected.shape:
        return float("inf")
    both = answered.isfinite() & expected.isfinite()
    if not bool((answered.isfinite() == expected.isfinite()).all()):
        return float("inf")
    difference = torch.where(both, (answered - expected).abs(), 0.0)
    # A logit that is the same for every picture, such as that of a class that is masked out, is no measure of anything.
    known = torch.where(both, expected, 0.0)
    spread = (known.amax(dim=0) - known.amin(dim=0)).max()
    return float(difference.max() / spread.clamp(min=1e-12 + 1e-9 * float(known.abs().max())))


def _worst(answered: Tensor, expected: Tensor) -> slice:
    """The batch in which answers differ most: a network may answer batches of other sizes otherwise."""
    difference = (answered - expected).abs().nan_to_num(nan=torch.inf).amax(dim=1)
    start = int(difference.argmax()) // TOGETHER * TOGETHER
    return slice(start, start + TOGETHER)


def _in_double(network: nn.Module, bundle: ModelBundle, images: Tensor, rows: slice, single: Agreement) -> Agreement:
    """Compare again in float64, where rounding leaves nothing; what cannot be computed so stands as it was found."""
    try:
        twin, original = precision.double(bundle), copy.deepcopy(network).cpu().double()
        chosen = images[rows].cpu().double()
        expected, answered = untouched(original, twin, chosen), twin.logits(chosen)
        expected_alone = torch.cat([untouched(original, twin, one[None]) for one in chosen[:IN_DOUBLE]])
        answered_alone = torch.cat([twin.logits(one[None]) for one in chosen[:IN_DOUBLE]])
    except (Unsupported, RuntimeError, TypeError):
        return single
    errors = (
        _error(answered, expected),
        _error(answered_alone, expected_alone),
        _error(expected[:IN_DOUBLE], expected_alone),
    )
    return Agreement(single.pictures, *errors)


@torch.no_grad()
def require_same_twice(network: nn.Module, again: nn.Module, bundle: ModelBundle, images: Tensor) -> None:
    """Raise Unsupported where a module built again from the same weights answers otherwise.

    What a module draws when it is built and keeps outside of its `state_dict` (layers in a plain list, a permutation) is in no
    file: another network would be audited each time.
    """
    first, second = (untouched(one.to(bundle.device), bundle, images) for one in (network, again))
    if _error(first, second) > SAME:
        raise Unsupported(
            "The network answers otherwise each time it is built: it draws numbers that are not among its weights. Register them "
            "as buffers, and layers in an nn.ModuleList, so that the file holds them."
        )
