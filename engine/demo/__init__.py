"""The embedded demo: two digit networks and scikit-learn's handwritten digits, split once for all."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.sources import Images
from engine.store.store import Store

SIDE = 32
HELD_OUT_PER_CLASS = 50
SPLIT_SEED = 20211
BRIGHTEST = 16
"""Largest grey value in scikit-learn's file."""


def held_out() -> Images:
    """Return the 500 images (50 per class) that no network of the demo was trained on, in the file's order."""
    return _part(_is_held_out())


def training() -> Images:
    """Return the other 1,297 images."""
    return _part(~_is_held_out())


def _part(chosen: np.ndarray) -> Images:
    x, y = _all()
    indices = np.flatnonzero(chosen)
    names = tuple(f"digit-{index:04d}" for index in indices)
    return Images(_read_only(x[indices]), _read_only(y[indices]), CLASSES, names)


def _is_held_out() -> np.ndarray:
    """Return (images,) bool: the same 50 of each class on every machine."""
    _, y = _all()
    generator = np.random.default_rng(SPLIT_SEED)
    chosen = np.zeros(len(y), dtype=bool)
    for label in range(len(CLASSES)):
        chosen[generator.permutation(np.flatnonzero(y == label))[:HELD_OUT_PER_CLASS]] = True
    return chosen


@cache
def _all() -> tuple[np.ndarray, np.ndarray]:
    # Imported here: scikit-learn takes 1.5 s and 100 MB, and a filled store never needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / BRIGHTEST)).astype(np.uint8)
    x = np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in small]
    )
    return _read_only(x[..., None]), _read_only(bunch.target.astype(np.int64))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


MODELS = ("digits-standard", "digits-robust")
DATA = "digits"
CLASSES = tuple("0123456789")
ARCHITECTURE = "digits_resnet"
LICENCE = "CC BY 4.0, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, doi 10.24432/C50P49"
"""Of the data; scikit-learn, which carries it, is BSD 3-clause."""
EPSILON = Fraction(24, 255)
"""Under PGD-10 of this strength the standard network is right on 0.2 % of the held-out images, the robust on 88.4 %."""


def weights(model: str) -> Path:
    """Return where the weights of one of `MODELS` lie."""
    return Path(__file__).parent / "weights" / f"{model}.safetensors"


def install(store: Store) -> None:
    """Put the demo's models and held-out digits into a store; what is there already stays. Imports torch."""
    from engine.data import register

    pass
    from engine.models import register as load

    for name in MODELS:
        load.add(store, load.Submission(name, ARCHITECTURE, weights(name), CLASSES, source="embedded demo"))
    register.add(store, DATA, held_out(), source="embedded demo", epsilon=f"{EPSILON * 255}/255", licence=LICENCE)
