"""Putting labelled images into the store as a data set."""

from __future__ import annotations

import datetime

import numpy as np

from engine import keys
from engine.data.intake import Images
from engine.records import DatasetCard
from engine.store.store import Store


def add(store: Store, name: str, found: Images, *, source: str, epsilon: str = "") -> DatasetCard:
    """Store images under a name. The same ones again change nothing; raises BadInput for others under that name."""
    pixels = keys.array_hash(np.ascontiguousarray(found.x)), keys.array_hash(np.ascontiguousarray(found.y))
    card = DatasetCard(
        name=name,
        content_hash=keys.content_key((*pixels, found.classes)),
        count=len(found.x),
        classes=found.classes,
        class_counts=tuple(int(n) for n in np.bincount(found.y, minlength=len(found.classes))),
        channels=found.x.shape[3],
        size=(found.x.shape[1], found.x.shape[2]),
        source=source,
        added=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        epsilon=epsilon,
    )
    store.add_data(card, found.x, found.y, found.names)
    return store.data_card(name)
