"""A result that somebody wants, and what whoever waits for it is told."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from engine import work
from engine.jobs import Jobs, Priority
from engine.records import Answer, ExaminationRequest, RosterRequest
from engine.records.restoration import FooledRequest, GroupProofRequest

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
    "take-model": "adding a model",
    "take-data": "adding a data set",
    "demo": "adding the demo",
}


A_MOMENT: Final = 0.15
"""Seconds to wait after handing work in, so that quick work needs no poll."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One result that somebody wants."""

    kind: str
    key: str
    request: work.Request
    priority: Priority
    doing: str


def hand_in(jobs: Jobs, wanted: Asked, patience: float = A_MOMENT) -> None:
    """Hand in what is wanted unless it is being done already, and wait a moment for what is new."""
    task = work.task(wanted.kind, wanted.key, wanted.request)
    if jobs.submit(task, priority=wanted.priority, doing=wanted.doing):
        jobs.wait(wanted.key, patience)


def pending(jobs: Jobs, key: str) -> Answer[Any]:
    """Return how far work is whose result is not stored yet, or why it failed."""
    progress = jobs.progress(key)
    if progress.state == "failed":
        return Answer("failed", message=progress.message)
    return Answer("working", None, progress.done, progress.total, progress.message)
