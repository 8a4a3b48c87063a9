"""A data set as it lies in the store: images memory-mapped, each checked against its hash when it is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, final

import numpy as np

from engine import class_names, keys
from engine.errors import BadInput, StoreError, UnknownName
from engine.records import DatasetCard
from engine.store.durable import disk_errors

HASH_WIDTH = 2 * keys.DIGEST_BYTES


class Classifier(Protocol):
    """What has a name and ordered class names: a model's card or its bundle."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


@final
class Dataset:
    """Images, labels and names of one data set; every sample has a key such as `00017`."""

    def __init__(self, card: DatasetCard, folder: Path) -> None:
        self.card = card
        self._folder = folder

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of all samples, in order."""
        return tuple(f"{index:05d}" for index in range(self.card.count))

    @cached_property
    def labels(self) -> np.ndarray:
        """(samples,) int64 indices into the card's classes, read-only."""
        return self._loaded("labels.npy")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each sample was called where it came from, in order."""
        with disk_errors("reading a data set"):
            return tuple(json.loads((self._folder / "names.json").read_text(encoding="utf-8")))

    def images(self, samples: Sequence[str]) -> np.ndarray:
        """Return images as (samples, height, width, channels) uint8, read-only.

        Raises UnknownName for a key that is not there and StoreError for an image that changed since it was added.
        """
        rows = [self.row(sample) for sample in samples]
        height, width = self.card.size
        found = np.empty((len(rows), height, width, self.card.channels), dtype=np.uint8)
        with disk_errors("reading an image"):
            for place, row in enumerate(rows):
                found[place] = self._pixels[row]
                self._check(found[place], row)
        found.setflags(write=False)
        return found

    def image_hashes(self, samples: Sequence[str]) -> tuple[str, ...]:
        """Return the hashes that guard some images, without reading the images; raises UnknownName."""
        return tuple(str(self._hashes[self.row(sample)]) for sample in samples)

    def row(self, sample: str) -> int:
        """Return the index of a sample; raises UnknownName."""
        if isinstance(sample, str) and sample.isascii() and sample.isdigit() and len(sample) < 16:
            index = int(sample)
            if index < self.card.count and sample == f"{index:05d}":
                return index
        raise UnknownName("sample", sample, [f"00000 to {self.card.count - 1:05d}"] if self.card.count else [])

    def keys_of(self, label: int) -> tuple[str, ...]:
        """Return the keys of all samples of one class (an index into the card's classes), in order."""
        return tuple(f"{index:05d}" for index in np.flatnonzero(self.labels == label))

    def labels_for(self, model: Classifier) -> np.ndarray:
        """Return (samples,) int64 labels as a model counts its classes; see `labels_for_classes`."""
        return self.labels_for_classes(model.classes)

    def labels_for_classes(self, classes: tuple[str, ...]) -> np.ndarray:
        """Return (samples,) int64 indices into a model's classes, matched by class name, read-only.

        Raises BadInput for a class with images that is not among `classes`, or stands twice in one list of the two.
        """
        if class_names.same(self.card.classes, classes):
            return self.labels
        places = class_names.matched(self.card.classes, classes)
        for name, count, place in zip(self.card.classes, self.card.class_counts, places, strict=True):
            if count and place == class_names.LACKING:
                raise self._misfit(name, classes)
        # LACKING for a class that the model lacks: no image has that label.
        found = np.asarray(places, dtype=np.int64)[self.labels]
        found.setflags(write=False)
        return found

    def _misfit(self, name: str, classes: tuple[str, ...]) -> BadInput:
        often, own = (Counter(map(class_names.plain, names)) for names in (classes, self.card.classes))
        form = class_names.plain(name)
        problem = f"{'twice' if often[form] > 1 else 'not at all'} among the model's {len(classes)} classes"
        if often[form] == 1 and own[form] > 1:
            problem = "twice among the data set's classes, and once among the model's"
        return BadInput(
            f"Class '{name[:80]}' of data set '{self.card.name}' stands {problem}; use a data set whose class names are "
            "the model's."
        )

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.load(self._folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def _hashes(self) -> np.ndarray:
        return self._loaded("hashes.npy")

    def _check(self, image: np.ndarray, row: int) -> None:
        if image_hash(image) != str(self._hashes[row]):
            raise StoreError(
                f"Image {row:05d} of data set '{self.card.name}' changed on the disk; add the data set again."
            )

    def _loaded(self, file: str) -> np.ndarray:
        with disk_errors("reading a data set"):
            array = np.load(self._folder / file, allow_pickle=False)
        array.setflags(write=False)
        return array


def image_hash(image: np.ndarray) -> str:
    """Return the hash that guards one stored image."""
    return keys.bytes_hash(image.tobytes())
