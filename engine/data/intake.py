"""Labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class Images:
    """Labelled images of one size."""

    x: np.ndarray
    """(images, height, width, channels) uint8; 1 channel where all images are grey, else 3."""
    y: np.ndarray
    """(images,) int64 class indices."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """What to call each image: a file stem, or its index."""
