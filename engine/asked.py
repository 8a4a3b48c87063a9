"""A result that somebody wants, and what whoever waits for it is told."""

from __future__ import annotations

import dataclasses
from typing import Final

from engine import work
from engine.jobs import Priority
from engine.records import ExaminationRequest, RosterRequest
from engine.restoration_records import FooledRequest, GroupProofRequest

OfModel = (
    RosterRequest
    | ExaminationRequest
    | FooledRequest
    | GroupProofRequest
    | work.Place
    | work.FeatureRequest
    | work.CredibilityRequest
)
"""Requests that name a model and a data set."""
DOING: Final = {
    "roster": "attacking a class",
    "examination": "examining the pair",
    "gallery": "collecting the top patches",
    "synthesis": "making the picture of a feature map",
    "responses": "attacking at growing strength",
    "proof": "putting maps back",
    "group-proof": "putting maps back in a group",
    "smallest": "searching the smallest sets of maps",
    "curve": "putting growing numbers of maps back",
    "profile": "putting maps back layer by layer",
    "defence": "trying the maps on other images",
    "credibility": "checking how far the attacks can be believed",
    "intake": "checking the model",
    "demo": "adding the demo",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One result that somebody wants."""

    kind: str
    key: str
    request: work.Request
    priority: Priority
    doing: str
