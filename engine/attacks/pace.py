"""How long one pass takes on this machine: a short measurement for the estimate of what an audit costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.gradient import Classifier
from engine.attacks.isolation import isolated
from engine.audit.paces import Pace

REPEATS = 3
"""Of which the fastest counts: whatever else runs on the machine only ever makes a pass slower."""


def measure(bundle: Classifier, pictures: Tensor, labels: Tensor) -> Pace:
    """Return the seconds per image of a pass over a batch of the size that will be used.

    pictures: (batch, channels, height, width) in [0, 1]; labels: (batch,) int64; both on the bundle's device.
    """

    def forward() -> None:
        with torch.no_grad():
            bundle.logits(pictures)

    def forward_backward() -> None:
        points = pictures.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(bundle.logits(points), labels, reduction="sum"), points)

    with isolated(bundle.network):
        passes, forwards = (_fastest(run, bundle.device) for run in (forward_backward, forward))
    return Pace(passes / len(pictures), forwards / len(pictures))


def _fastest(run: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of the fastest of some runs, after one that does not count."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
