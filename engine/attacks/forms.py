"""What a network answers where it should answer logits: probabilities, shares, squashed values, or their logarithms.

Attacks follow the gradient of the cross-entropy of logits. Through a softmax or a sigmoid it vanishes wherever the network is
sure, and they find less than there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

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
    if bool((answers <= SMALL).all()) and any(_spread(one) < SMALL and float(one.abs().max()) < WHOLE for one in sums):
        return "are logarithms of shares"
    return ""


def form_of(answer: Answer, pictures: Tensor, near: Tensor) -> str:
    """Return what a network's answers `near` to some pictures are where they are no logits; empty for logits.

    Where they are all of one sign, the network is asked again, about the pictures far outside their range of brightness.
    """
    found = form(near)
    if found or len(near) < FEWEST or not bool(near.isfinite().all()):
        return found
    if not bool((near >= -NONE).all()) and not bool((near <= SMALL).all()):
        return ""
    return _squashed(near, _far(answer, pictures[:LOOKED_AT], near))


def _far(answer: Answer, pictures: Tensor, near: Tensor) -> Tensor:
    """Return the finite answers to pictures far outside their range; none where the network refuses such pictures."""
    try:
        found = torch.cat([answer(pictures * FAR), answer(pictures * -FAR)])
    except (RuntimeError, ValueError):
        return near[:0]
    return found[found.isfinite().all(dim=1)]


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
