"""What a worker can be asked for: one frozen record per kind of task that is no record of its own already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.methods import StoredMethodOrNone
from engine.records import ExaminationRequest, RosterRequest
from engine.records.imports import DataTask, ModelTask
from engine.records.proof import Direction, MapSet
from engine.records.restoration import FooledRequest, GroupProofRequest
from engine.schemas import Schema


@dataclass(frozen=True, slots=True)
class Place:
    """A model and a data set, by name."""

    SCHEMA: ClassVar[Schema] = Schema("model-and-data/1", "Place")

    model: str
    data: str


@dataclass(frozen=True, slots=True)
class CertificatePart:
    """One part of the certificate of a stored examination."""

    SCHEMA: ClassVar[Schema] = Schema("faithfulness-part-request/1", "CertificatePart")

    examination: str
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
    """How the images of a stored examination answer to its attack at other strengths."""

    SCHEMA: ClassVar[Schema] = Schema("dose-response-request/1", "ResponsesRequest")

    examination: str
    """Its key."""


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """Which maps of a stored examination's runs to put where."""

    SCHEMA: ClassVar[Schema] = Schema("patching-request/1", "ProofRequest")

    examination: str
    """Its key."""
    chosen: MapSet
    direction: Direction


@dataclass(frozen=True, slots=True)
class CredibilityRequest:
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


Request = (
    RosterRequest
    | ExaminationRequest
    | CertificatePart
    | Place
    | FeatureRequest
    | ResponsesRequest
    | ProofRequest
    | FooledRequest
    | GroupProofRequest
    | CredibilityRequest
    | PaceRequest
    | ModelTask
    | DataTask
    | Nothing
    | ShardRequest
)
