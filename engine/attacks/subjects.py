"""The images an attack works on, and how a point it finds is stored and judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import images
from engine.attacks.gradient import Classifier
from engine.attacks.spec import Attack


@dataclass(frozen=True, eq=False, slots=True)
class Subjects:
    """The correctly classified images of a batch."""

    images: Tensor
    """(batch, channels, height, width) float32 in [0, 1]."""
    clean: np.ndarray
    """The same as uint8."""
    labels: Tensor
    seeds: Tensor
    targets: Tensor | None = None
    """(batch,) class each image is to be mistaken for; None for any wrong one."""

    def at(self, rows: Tensor) -> Subjects:
        """Return some of them, by (rows,) indices."""
        targets = None if self.targets is None else self.targets[rows]
        places = rows.cpu()
        return Subjects(self.images[rows], self.clean[places.numpy()], self.labels[rows], self.seeds[places], targets)


def unit(pictures: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 images as float32 in [0, 1] on a device."""
    return torch.from_numpy(images.to_float(pictures)).to(device)


def answers(bundle: Classifier, pictures: Tensor) -> Tensor:
    """Return (batch, classes) logits, without gradients."""
    with torch.no_grad():
        return bundle.logits(pictures)


def rounded(clean: np.ndarray, points: Tensor, spec: Attack) -> np.ndarray:
    """Return points as they are stored: nearest 8-bit values within the budget of `spec`."""
    return spec.stored(clean, points.detach().cpu().numpy())
