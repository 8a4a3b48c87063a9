"""What a network must be before it is attacked: logits and gradients, told from probabilities, one image apart from others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from engine import images
from engine.errors import BadInput

FEWEST: Final = 4
"""Images below which answers may lie between 0 and 1, or sum to the same, by chance."""
LOOKED_AT: Final = 8
"""Images that are shown far outside their range, where their own answers do not tell."""
FAR: Final = 1e4
"""Times as bright: the logits of most networks grow as much, what a sigmoid makes of them does not.

At a thousand times 6 % of an adversarially trained network's sigmoids still lay between their ends.
"""
GROWN: Final = 20.0
"""Times as large as before: what stayed below that far outside did not grow with the pictures."""
NONE: Final = 1e-6
"""How far below 0 arithmetic may carry what cannot be negative."""
SMALL: Final = 0.01
"""By how much values may exceed 1 or a logarithm 0: a little is often added against a logarithm of zero."""
SAME: Final = 1e-4
"""By how much sums and logarithms of sums may miss one and zero."""
WHOLE: Final = 0.1
"""By how much the logarithm of a sum of smoothed or clamped shares may miss that of one."""
SAME_SUM: Final = 2e-3
SAME_ROUNDED_SUM: Final = 0.02
"""By how much the sums of one network's shares may differ, as a part of them: more where they were rounded."""
PILED: Final = 0.95
"""Share of squashed answers that lie at one of the two ends far outside."""
DEEP: Final = -5.0
"""A logarithm of a probability falls below this far outside."""
BASES: Final = (math.e, 2.0, 10.0)

Answer = Callable[[Tensor], Tensor]
"""From images (images, channels, height, width) to what the network answers (images, classes)."""


def form(answers: Tensor) -> str:
    """Return what (images, classes) answers are where they alone tell that they are no logits; empty where they do not.

    It ends a sentence that begins `The answers`.
    """
    if not bool(answers.isfinite().all()):
        return ""
    if bool((answers >= 0).all()) and bool(((answers.sum(dim=1) - 1).abs() < SAME).all()):
        return "are probabilities"
    if any(bool((_log_sums(answers, base).abs() < SAME).all()) for base in BASES):
        return "are logarithms of probabilities"
    if len(answers) < FEWEST or answers.shape[1] < 2 or not bool((answers != answers[:1]).any()):
        return ""
    if bool((answers >= -NONE).all()) and _are_alike(answers.sum(dim=1), _tolerance(answers)):
        return f"of every image sum to {float(answers.sum(dim=1).mean()):.4g}, as shares do"
    sums = [_log_sums(answers, base) for base in BASES]
    if bool((answers <= SMALL).all()) and any(
        _spread(item) < SMALL and float(item.abs().max()) < WHOLE for item in sums
    ):
        return "are logarithms of shares"
    return ""


def form_of(answer: Answer, pictures: Tensor, near: Tensor) -> str:
    """Return what a network's answers `near` to some pictures are where they are no logits; empty for logits.

    Where they are all of one sign, the network is asked again, about the pictures far outside their range of brightness.
    """
    result = form(near)
    if result or len(near) < FEWEST or not bool(near.isfinite().all()):
        return result
    if not bool((near >= -NONE).all()) and not bool((near <= SMALL).all()):
        return ""
    return _squashed(near, _far(answer, pictures[:LOOKED_AT], near))


def _far(answer: Answer, pictures: Tensor, near: Tensor) -> Tensor:
    """Return the finite answers to pictures far outside their range; none where the network refuses such pictures."""
    try:
        result = torch.cat([answer(pictures * FAR), answer(pictures * -FAR)])
    except (RuntimeError, ValueError):
        return near[:0]
    return result[result.isfinite().all(dim=1)]


def _squashed(near: Tensor, far: Tensor) -> str:
    every = torch.cat([near, far])
    if bool(((every >= -NONE) & (every <= 1 + SMALL)).all()):
        return "all lie between 0 and 1, as probabilities do"
    if not len(far):
        return ""
    top = float(far.max())
    if bool((every >= -NONE).all()) and top <= GROWN * float(near.max()) and _are_piled(far, top):
        return f"are squashed between 0 and {top:.4g}, as percentages are"
    is_at_top = far.max(dim=1).values >= -SMALL
    if bool((every <= SMALL).all()) and 2 * int(is_at_top.sum()) >= len(far) and float(far.min()) <= DEEP:
        return "never exceed 0, as logarithms of probabilities"
    return ""


def _are_piled(far: Tensor, top: float) -> bool:
    """Tell whether hardly any answer lies between the two ends, and some lie at either."""
    low, high = far <= SAME_ROUNDED_SUM * top, far >= (1 - SAME_ROUNDED_SUM) * top
    return bool(low.any()) and bool(high.any()) and float((low | high).float().mean()) >= PILED


def _log_sums(answers: Tensor, base: float) -> Tensor:
    """Return (images,) the logarithm of the sum of what `answers` are logarithms of, in that base."""
    return (answers.double() * math.log(base)).logsumexp(dim=1)


def _tolerance(answers: Tensor) -> float:
    hundredths = answers.double() * 100
    return SAME_ROUNDED_SUM if bool(((hundredths - hundredths.round()).abs() < SAME).all()) else SAME_SUM


def _are_alike(sums: Tensor, tolerance: float) -> bool:
    return float(sums.mean()) > 0 and _spread(sums) <= tolerance * float(sums.mean())


def _spread(values: Tensor) -> float:
    return float(values.max() - values.min())


STEP_TOLERANCE = 1e-6
"""How far, in [0, 1] units, a pixel may lie from a multiple of 1/255."""


def check_images(pictures: Tensor) -> np.ndarray:
    """Return images (batch, channels, height, width) float32 as the uint8 they were made from; raises BadInput."""
    if pictures.ndim != 4 or pictures.numel() == 0:
        raise BadInput(f"Images must be (batch, channels, height, width), not empty; got {tuple(pictures.shape)}.")
    if pictures.dtype != torch.float32:
        raise BadInput(f"Images must be float32 in [0, 1], got {pictures.dtype}.")
    stored = images.to_bytes(pictures.detach().cpu().numpy())
    if np.abs(images.to_float(stored) - pictures.detach().cpu().numpy()).max() > STEP_TOLERANCE:
        raise BadInput("Images must hold 8-bit values divided by 255; got values in between. Round them first.")
    return stored


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Raise BadInput unless labels are (count,) int64 class indices: torch takes -100 to mean 'ignore this image'."""
    _check_integers("Labels", labels, count)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        outside = int(labels[(labels < 0) | (labels >= classes)][0])
        raise BadInput(f"Labels must lie between 0 and {classes - 1}, got {outside}.")


def check_seeds(seeds: Tensor, samples: tuple[str, ...], count: int) -> None:
    """Raise BadInput unless there is one int64 seed and one sample key per image."""
    _check_integers("Seeds", seeds, count)
    if len(samples) != count:
        raise BadInput(f"There must be one sample key per image, got {len(samples)} for {count} images.")


def check_logits(logits: Tensor, count: int, classes: int) -> None:
    """Raise BadInput unless a network answers (count, classes) finite values; what they mean `check_form` asks."""
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (count, classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"The network must answer one tensor of shape ({count}, {classes}), got {got}.")
    if not logits.isfinite().all():
        raise BadInput("The network answers clean images with values that are not finite.")


def check_form(answer: Answer, pictures: Tensor, near: Tensor) -> None:
    """Raise BadInput where the answers `near` to some pictures are probabilities or made of them."""
    result = form_of(answer, pictures, near)
    if result:
        raise BadInput(f"The network's answers {result}; attacks need the logits before a softmax or sigmoid.")


def _check_integers(name: str, values: Tensor, count: int) -> None:
    if values.dtype != torch.int64 or tuple(values.shape) != (count,):
        raise BadInput(f"{name} must be ({count},) int64, got {tuple(values.shape)} {values.dtype}.")


GLOBAL_SEED = 0
"""What torch's global generator starts from inside, so that a network that draws numbers draws the same ones again."""


@contextmanager
def isolated(network: nn.Module) -> Iterator[None]:
    """Evaluate and freeze `network` inside, and give back afterwards everything an attack may touch.

    Training flags of every submodule, `requires_grad` and gradients of every parameter, the values of every buffer and
    torch's global generators are restored, also after an exception. Freezing saves 17-24 % of the time of an attack.
    """
    before = _State.of(network)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        try:
            torch.manual_seed(GLOBAL_SEED)
            network.eval()
            network.requires_grad_(False)
            yield
        finally:
            before.restore()


@dataclass(frozen=True, eq=False, slots=True)
class _State:
    training: tuple[tuple[nn.Module, bool], ...]
    parameters: tuple[tuple[nn.Parameter, bool, Tensor | None], ...]
    buffers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, network: nn.Module) -> _State:
        return cls(
            tuple((module, module.training) for module in network.modules()),
            tuple(
                (parameter, parameter.requires_grad, None if parameter.grad is None else parameter.grad.clone())
                for parameter in network.parameters()
            ),
            tuple((buffer, buffer.clone()) for buffer in network.buffers()),
        )

    def restore(self) -> None:
        for module, was_training in self.training:
            module.training = was_training
        for parameter, required, gradient in self.parameters:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
