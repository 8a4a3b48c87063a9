"""What a command that studies a stored model is of, and the JSON file that its answer goes to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import BadInput
from engine.models import load
from engine.models.bundle import ModelBundle
from engine.store import durable
from engine.store.dataset import Dataset
from engine.store.store import Store


@dataclass(frozen=True, slots=True)
class Place:
    """The model and data a study is of, and the file it goes to."""

    model: str
    data: str
    sites: Literal["all", "blocks"]
    out: Path


def opened(store: Store, place: Place) -> tuple[ModelBundle, Dataset]:
    """Return what is studied. Raises BadInput for a file that exists or cannot be there, UnknownName."""
    if place.out.exists():
        raise BadInput(f"{place.out.name} exists already; choose another file.")
    if not place.out.parent.is_dir():
        raise BadInput(f"There is no folder {place.out.parent.name} for {place.out.name}.")
    dataset = store.dataset(place.data)
    return (load.block_bundle if place.sites == "blocks" else load.bundle)(store, place.model), dataset


def write(place: Place, found: dict[str, Any], doing: str) -> None:
    """Write an answer whole, or raise StoreError that says what was being done."""
    with durable.disk_errors(doing):
        durable.write_file(place.out, (json.dumps(found, indent=2) + "\n").encode())
