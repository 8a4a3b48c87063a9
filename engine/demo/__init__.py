"""The embedded demo: two networks and a data set that need no network connection."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

MODELS = ("digits-standard", "digits-robust")
DATA = "digits"
CLASSES = tuple("0123456789")
ARCHITECTURE = "digits_resnet"
EPSILON = Fraction(24, 255)
"""Strength at which PGD-10 leaves nothing of the standard network."""


def weights(model: str) -> Path:
    """Return where the weights of one of `MODELS` lie."""
    return Path(__file__).parent / "weights" / f"{model}.safetensors"
