"""Putting labelled images into the store as a data set."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

import numpy as np

from engine import class_names, hashing
from engine.data.sources import Images
from engine.store import files
from engine.store.store import Store, image_hash
from engine.types.core import DatasetCard

FEW = 30
UNEVEN = 10
"""How many times the images of the smallest class the largest may have before it is said."""


def add(store: Store, name: str, images: Images, *, source: str, epsilon: str = "", licence: str = "") -> DatasetCard:
    """Store images under a name. The same ones again change nothing; raises BadInput for others under that name."""
    return put(store, card(name, images, source=source, epsilon=epsilon, licence=licence), images)


def put(store: Store, described: DatasetCard, images: Images) -> DatasetCard:
    """Store images under the name of their card, and return the card that the store has; raises as `add`."""
    store.add_data(described, images.x, images.y, images.names)
    return store.data_card(described.name)


def card(name: str, images: Images, *, source: str, epsilon: str = "", licence: str = "") -> DatasetCard:
    """Return what describes images, with all that is to be said of them; nothing is stored. Raises BadInput for the name."""
    files.require_name("data set", name)
    hashes = tuple(image_hash(image) for image in images.x)
    pixels = hashing.array_hash(np.ascontiguousarray(images.x)), hashing.array_hash(np.ascontiguousarray(images.y))
    return DatasetCard(
        name=name,
        content_hash=hashing.content_key((*pixels, images.classes)),
        count=len(images.x),
        classes=images.classes,
        class_counts=tuple(int(n) for n in np.bincount(images.y, minlength=len(images.classes))),
        channels=images.x.shape[3],
        size=(images.x.shape[1], images.x.shape[2]),
        source=source,
        added=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        epsilon=epsilon,
        warnings=(
            *class_names.remarks(images.classes),
            *images.remarks,
            *_duplicates(images, hashes),
            *_counts(images),
        ),
        licence=licence,
    )


def _duplicates(images: Images, hashes: Sequence[str]) -> Iterator[str]:
    """One sentence where images stand in a data set twice: they make intervals look narrower than they are."""
    places: dict[str, list[int]] = {}
    for index, one in enumerate(hashes):
        places.setdefault(one, []).append(index)
    again = [rows for rows in places.values() if len(rows) > 1]
    if not again:
        return
    extra, first = sum(len(rows) - 1 for rows in again), again[0]
    torn = sum(len({int(images.y[row]) for row in rows}) > 1 for rows in again)
    torn_text = f"; {torn} of them with different labels" if torn else ""
    yield (
        f"{extra} image{'s are' if extra > 1 else ' is'} the same as another one (first: {images.names[first[0]]} and "
        f"{images.names[first[1]]}){torn_text}."
    )


def _counts(images: Images) -> Iterator[str]:
    """One sentence where classes have so few images that rates of a class say little."""
    counts = np.bincount(images.y, minlength=len(images.classes))
    empty, few = int((counts == 0).sum()), int(((counts > 0) & (counts < FEW)).sum())
    if empty:
        yield f"{empty} of {len(counts)} classes have no image."
    if few:
        yield f"{few} of {len(counts)} classes have fewer than {FEW} images; their rates are never ranked."
    present = counts[counts > 0]
    if present.max() > UNEVEN * present.min():
        yield f"Classes are uneven: from {present.min()} to {present.max()} images."
