"""A store whose network tells two digits apart: the demo's, its head cut down to threes and fives, and their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from engine import demo
from engine.data import register
from engine.data.sources import Images
from engine.models import register as load
from engine.store import Store

LABELS = (3, 5)
CLASSES = ("three", "five")
MODEL, DATA = "two", "threes-and-fives"
HEAD = ("linear.weight", "linear.bias")


def fill(root: Path, labels: tuple[int, ...] = LABELS) -> Store:
    """Make the store: about fifty held-out images of each class, nearly all of them right; `labels` may be one of the two."""
    store, file = Store(root), root.parent / "two.safetensors"
    tensors = load_file(demo.weights("digits-standard"))
    for name in HEAD:
        tensors[name] = tensors[name][list(labels)].contiguous()
    save_file(tensors, file)
    images = some(labels)
    load.add(store, load.Submission(MODEL, demo.ARCHITECTURE, file, images.classes))
    register.add(store, DATA, images, source="test")
    return store


def some(labels: tuple[int, ...]) -> Images:
    """The held-out digits of some classes, labelled in their order."""
    every = demo.held_out()
    rows = np.flatnonzero(np.isin(every.y, labels))
    known = np.array([labels.index(int(label)) for label in every.y[rows]])
    names = tuple(CLASSES[LABELS.index(label)] for label in labels)
    return Images(every.x[rows], known, names, tuple(every.names[k] for k in rows))
