"""What an attack refuses: most libraries take these in silence, and the audit then reports nonsense."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine import images
from engine.attacks import forms
from engine.attacks.forms import Answer
from engine.errors import BadInput

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
    found = forms.form_of(answer, pictures, near)
    if found:
        raise BadInput(f"The network's answers {found}; attacks need the logits before a softmax or sigmoid.")


def _check_integers(name: str, values: Tensor, count: int) -> None:
    if values.dtype != torch.int64 or tuple(values.shape) != (count,):
        raise BadInput(f"{name} must be ({count},) int64, got {tuple(values.shape)} {values.dtype}.")
