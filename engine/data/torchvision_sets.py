"""Torchvision's data sets by name from a folder on this machine; nothing is downloaded.

Only those are here whose files hold no code, and the CIFAR sets, whose pickles torchvision compares with the published MD5 sums
before it opens them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from torchvision import datasets

from engine import files
from engine.data import intake, npz
from engine.data.intake import Images
from engine.errors import BadInput, UnknownName

BY_TRAIN: Final = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS")
"""Ask for `train` or `test`."""
BY_SPLIT: Final = (
    "Country211", "DTD", "FGVCAircraft", "Flowers102", "Food101", "GTSRB", "Imagenette", "OxfordIIITPet", "STL10", "SVHN",
)  # fmt: skip
"""Have splits of their own, most of them `train` and `test`."""


def read(name: str, root: Path, split: str = "test", *, size: tuple[int, int] | None = None) -> Images:
    """Return a data set, its pictures fitted to `size` (height, width) if one is given.

    Raises UnknownName, and BadInput where the folder does not hold all of it or pictures differ in size.
    """
    found = _opened(name, root, split)
    pixels, labels = _decoded(found, name, size)
    classes = tuple(map(str, getattr(found, "classes", range(int(labels.max()) + 1))))
    named = intake.checked_names(name, classes)
    return intake.labelled(name, pixels, labels, named, tuple(f"{split}-{index:05d}" for index in range(len(labels))))


def _opened(name: str, root: Path, split: str) -> Any:
    if name not in (*BY_TRAIN, *BY_SPLIT):
        raise UnknownName("data set of torchvision", name, (*BY_TRAIN, *BY_SPLIT))
    if name in BY_TRAIN and split not in ("train", "test"):
        raise UnknownName(f"split of {name}", split, ("train", "test"))
    options: dict[str, Any] = {"train": split == "train"} if name in BY_TRAIN else {"split": split}
    try:
        return getattr(datasets, name)(str(root), download=False, **options)
    except Exception as error:
        raise BadInput(
            f"{root.name} does not hold all of {name}'s {split} images ({files.reason(error)}); fetch it there first."
        ) from error


def _decoded(found: Any, name: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, height, width, 3) uint8 and (images,) int64 labels."""
    count = len(found)
    if not 1 <= count <= intake.MOST_IMAGES:
        raise BadInput(f"{name} has {count:,} images; 1 to {intake.MOST_IMAGES:,} are read.")
    first, _ = _sample(found, name, 0, size)
    if first.nbytes * count > npz.MOST_BYTES:
        raise BadInput(
            f"{count:,} pictures of {first.nbytes:,} bytes are more than the {npz.MOST_BYTES:,} that are read."
        )
    pixels, labels = np.empty((count, *first.shape), dtype=np.uint8), np.empty(count, dtype=np.int64)
    for index in range(count):
        picture, labels[index] = _sample(found, name, index, size)
        if picture.shape != first.shape:
            raise BadInput(f"The pictures of {name} have several sizes; name one size to fit all of them to it.")
        pixels[index] = picture
    return pixels, labels


def _sample(found: Any, name: str, index: int, size: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """Return a (height, width, 3) uint8 picture and its label."""
    what = f"Image {index} of {name}"
    with files.told(what, "a picture with a label"):
        picture, label = found[index]
        decoded, number = np.asarray(picture.convert("RGB")), int(label)
    return intake.fitted(what, decoded, size), number
