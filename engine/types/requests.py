"""What a worker can be asked for, one frozen record per kind of task, imports and the pace of a machine among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from engine import hashing
from engine.errors import BadSetting
from engine.hashing import Schema, stored_as
from engine.specs.methods import StoredMethodOrNone
from engine.types.core import AttackResultsRequest, ExplanationRequest
from engine.types.patching import Direction, FooledRequest, GroupTestRequest, MapSet, OfGroup


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per image, measured on the machine that will do the work."""

    SCHEMA: ClassVar[Schema] = Schema("pace/1", "Pace")

    pass_seconds: float
    """Of one forward with backward."""
    forward_seconds: float
    explain_seconds: float = 0.0
    """Of scoring the feature maps of one attacked image and its attack conductance; 0 where nothing is scored."""


EntryKind = Literal["weights", "npz", "folder", "csv", "classes"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder that lies in the import folder."""

    key: str
    """Changes with name, size and time, of a folder also those below: what was looked at is what is added."""
    name: str
    kind: EntryKind
    bytes: int
    """Of a file; 0 for a folder."""
    modified: str = ""
    """When it was last written: UTC, ISO 8601."""


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
    licence: str = field(default="", metadata=hashing.GROWN)


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
    images: str | None = field(default=None, metadata=hashing.GROWN)
    """Key of the folder whose pictures the table names."""
    first_label: int = field(default=0, metadata=hashing.GROWN)
    """What labels call the first class: 0 or 1."""
    licence: str = field(default="", metadata=hashing.GROWN)


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


@dataclass(frozen=True, slots=True)
class Place:
    """A model and a data set, by name."""

    SCHEMA: ClassVar[Schema] = Schema("model-and-data/1", "Place")

    model: str
    data: str


@dataclass(frozen=True, slots=True)
class FaithfulnessRequest:
    """One part of the faithfulness checks of a stored explanation."""

    SCHEMA: ClassVar[Schema] = Schema("faithfulness-part-request/1", "CertificatePart")

    explanation: str = field(metadata=stored_as("examination"))
    """Its key."""
    part: str


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """One feature map of a model, and the stored gallery that holds its top patches."""

    SCHEMA: ClassVar[Schema] = Schema("feature-request/1", "FeatureRequest")

    model: str
    data: str
    layer: str
    channel: int
    gallery: str
    """Key of the gallery."""


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """How the images of a stored explanation answer to its attack at other strengths."""

    SCHEMA: ClassVar[Schema] = Schema("dose-response-request/1", "ResponsesRequest")

    explanation: str = field(metadata=stored_as("examination"))
    """Its key."""


@dataclass(frozen=True, slots=True)
class CausalTestRequest:
    """Which maps of a stored explanation's runs to put where."""

    SCHEMA: ClassVar[Schema] = Schema("patching-request/1", "ProofRequest")

    explanation: str = field(metadata=stored_as("examination"))
    """Its key."""
    chosen: MapSet
    direction: Direction


@dataclass(frozen=True, slots=True)
class AttackSanityRequest:
    """A model, the images it is attacked on, and the model whose adversarial images are transferred to it."""

    SCHEMA: ClassVar[Schema] = Schema("attack-checks-request/1", "CredibilityRequest")

    model: str
    data: str
    samples: tuple[str, ...]
    epsilon: str
    """Budget, for example `8/255`."""
    reference: str
    """Name of a stored model, or empty for none."""
    reference_key: str
    """All that a result depends on in the reference."""


@dataclass(frozen=True, slots=True)
class PaceRequest:
    """What an audit is going to compute: a model on the images of a data set, scored by a method."""

    SCHEMA: ClassVar[Schema] = Schema("pace-request/1", "PaceRequest")

    model: str
    data: str
    method: StoredMethodOrNone
    threads: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """The request of a task that needs none."""

    SCHEMA: ClassVar[Schema] = Schema("empty-request/1", "Nothing")


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """One block of images of an audit run under one condition."""

    SCHEMA: ClassVar[Schema] = Schema("shard-request/1", "ShardRequest")

    run: str
    condition: str
    """Name of the condition's folder."""
    block: int


@dataclass(frozen=True, slots=True)
class CorrectRequest:
    """The first correctly classified images of a data set from an index on."""

    SCHEMA: ClassVar[Schema] = Schema("correct-images-request/1")

    model: str
    data: str
    count: int
    first: int


@dataclass(frozen=True, slots=True)
class CorrectImages:
    """Which images they are."""

    SCHEMA: ClassVar[Schema] = Schema("correct-images/1")

    samples: tuple[str, ...]


Request = (
    AttackResultsRequest
    | ExplanationRequest
    | FaithfulnessRequest
    | Place
    | FeatureRequest
    | ResponsesRequest
    | CausalTestRequest
    | FooledRequest
    | GroupTestRequest
    | AttackSanityRequest
    | PaceRequest
    | ModelTask
    | DataTask
    | Nothing
    | ShardRequest
)


MOST_PASSES = 100_000
"""Image-passes that the search for the smallest sets may use per image."""


@dataclass(frozen=True, slots=True)
class SmallestRequest(OfGroup):
    """How long to search for the smallest sets of each image of a group that the attack fools."""

    SCHEMA: ClassVar[Schema] = Schema("minimal-sets-request/1")

    group: FooledRequest
    passes: int
    """Image-passes per image, about."""

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MOST_PASSES:
            raise BadSetting(f"--passes must lie in 1 to {MOST_PASSES}, got {self.passes}.")
