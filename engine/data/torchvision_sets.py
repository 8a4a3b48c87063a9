"""Torchvision's data sets by name from a folder on this machine; nothing is downloaded.

Only those are here whose files hold no code, and the CIFAR sets, whose pickles torchvision compares with the published MD5 sums
before it opens them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from torchvision import datasets

from engine import images
from engine.data import sources
from engine.data.sources import Images
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
    opened = _opened(name, root, split)
    pixels, labels, remarks = _decoded(opened, name, size)
    classes = tuple(map(str, getattr(opened, "classes", range(int(labels.max()) + 1))))
    named = sources.checked_names(name, classes)
    _check_folders(name, named)
    samples = tuple(f"{split}-{index:05d}" for index in range(len(labels)))
    return replace(sources.labelled(name, pixels, labels, named, samples), remarks=remarks)


def _check_folders(name: str, classes: tuple[str, ...]) -> None:
    """Refuse what torchvision took for a class because it lay among the class folders; raises BadInput."""
    left = next((class_ for class_ in classes if sources.is_left_over(class_)), None)
    if left is not None:
        raise BadInput(f"Among the class folders of {name} lies '{left}', left by another program; remove it.")


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
            f"{root.name} does not hold all of {name}'s {split} images ({images.reason(error)}); fetch it there first."
        ) from error


def _decoded(result: Any, name: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return (images, height, width, 3) uint8, (images,) int64 labels, and what is to be said of them."""
    count = len(result)
    if not 1 <= count <= sources.MOST_IMAGES:
        raise BadInput(f"{name} has {count:,} images; 1 to {sources.MOST_IMAGES:,} are read.")
    first = _sample(result, name, 0, size).pixels
    if first.nbytes * count > sources.MOST_BYTES:
        raise BadInput(
            f"{count:,} pictures of {first.nbytes:,} bytes are more than the {sources.MOST_BYTES:,} that are read."
        )
    pixels, labels = np.empty((count, *first.shape), dtype=np.uint8), np.empty(count, dtype=np.int64)
    noted = []
    for index in range(count):
        sample = _sample(result, name, index, size)
        picture, labels[index] = sample.pixels, sample.label
        if sample.is_turned:
            noted.append(f"image {index}")
        if picture.shape != first.shape:
            raise BadInput(f"The pictures of {name} have several sizes; name one size to fit all of them to it.")
        pixels[index] = picture
    return pixels, labels, sources.turned(len(noted), noted[0] if noted else "")


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One image of a set."""

    pixels: np.ndarray
    """(height, width, 3) uint8."""
    label: int
    is_turned: bool


def _sample(result: Any, name: str, index: int, size: tuple[int, int] | None) -> Sample:
    what = f"Image {index} of {name}"
    with images.read_errors(what, "a picture with a label"):
        picture, label = result[index]
        decoded, number, is_turned = np.asarray(picture.convert("RGB")), int(label), images.is_turned(picture)
    return Sample(sources.fitted(what, decoded, size), number, is_turned)
