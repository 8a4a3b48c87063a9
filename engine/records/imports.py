"""What lies in the inbox, what is asked to be added from it, and what was added. Frozen, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from engine import keys
from engine.schemas import Schema

EntryKind = Literal["weights", "npz", "folder", "csv", "classes"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder that lies in the inbox."""

    key: str
    """Changes with name, size and time, of a folder also those below: what was looked at is what is added."""
    name: str
    kind: EntryKind
    bytes: int
    """Of a file; 0 for a folder."""


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """A model to add; the texts are written as the options of `model add`."""

    SCHEMA: ClassVar[Schema] = Schema("model-import/1", "ModelOrder")

    entry: str
    """Key of the weights."""
    name: str
    architecture: str
    classes: str
    """Key of a text file with one class name per line, or `data:NAME` for those of a stored data set."""
    mean: str | None = None
    std: str | None = None
    size: str | None = None
    resize: int | None = None
    channels: str = "rgb"
    range: str = "1"
    accuracy: str | None = None


@dataclass(frozen=True, slots=True)
class DataOrder:
    """A data set to add; the texts are written as the options of `data add`."""

    SCHEMA: ClassVar[Schema] = Schema("data-import/1", "DataOrder")

    entry: str
    """Key of an npz file, a folder of folders, or a table of pictures."""
    name: str
    classes: str | None = None
    """As in `ModelOrder`; None where the source names them."""
    size: str | None = None
    epsilon: str = ""
    images: str | None = field(default=None, metadata=keys.GROWN)
    """Key of the folder whose pictures the table names."""
    first_label: int = field(default=0, metadata=keys.GROWN)
    """What labels call the first class: 0 or 1."""


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A model order with the files it names, as a worker gets it."""

    SCHEMA: ClassVar[Schema] = Schema("model-import-request/1", "ModelTask")

    order: ModelOrder
    weights: str
    classes: str | None
    """Path of the class names, or None where a data set has them."""


@dataclass(frozen=True, slots=True)
class DataTask:
    """A data order with the files it names, as a worker gets it."""

    SCHEMA: ClassVar[Schema] = Schema("data-import-request/1", "DataTask")

    order: DataOrder
    kind: EntryKind
    source: str
    classes: str | None
    images: str | None
    """Path of the folder whose pictures a table names."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was added."""

    SCHEMA: ClassVar[Schema] = Schema("import-result/1", "Taken")

    name: str
    notes: tuple[str, ...]
    """What was done on the way, and what an auditor should know of it."""
