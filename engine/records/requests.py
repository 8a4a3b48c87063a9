"""What a worker can be asked for: one frozen record per kind of task that is no record of its own already."""

from __future__ import annotations

from dataclasses import dataclass

from engine.intake.inbox import DataTask, ModelTask
from engine.methods import StoredMethodOrNone
from engine.records import ExaminationRequest, RosterRequest
from engine.records.proof import Direction, MapSet
from engine.records.restoration import FooledRequest, GroupProofRequest


@dataclass(frozen=True, slots=True)
class Place:
    """A model and a data set, by name."""

    model: str
    data: str


@dataclass(frozen=True, slots=True)
class CertificatePart:
    """One part of the certificate of a stored examination."""

    examination: str
    """Its key."""
    part: str


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """One feature map of a model, and the stored gallery that holds its top patches."""

    model: str
    data: str
    layer: str
    channel: int
    gallery: str
    """Key of the gallery."""


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """How the images of a stored examination answer to its attack at other strengths."""

    examination: str
    """Its key."""


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """Which maps of a stored examination's runs to put where."""

    examination: str
    """Its key."""
    chosen: MapSet
    direction: Direction


@dataclass(frozen=True, slots=True)
class CredibilityRequest:
    """A model, the images it is attacked on, and the model whose adversarial images are transferred to it."""

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

    model: str
    data: str
    method: StoredMethodOrNone
    threads: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """The request of a task that needs none."""


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """One block of images of an audit run under one condition."""

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
