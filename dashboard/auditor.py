"""What the dashboard asks of the engine: `engine.Auditor` answers it, and so does the fake of the tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np

from engine import (
    Answer,
    AttackCard,
    Certificates,
    Credibility,
    DataOrder,
    DatasetCard,
    Defence,
    Direction,
    Entry,
    Examination,
    ExaminationRequest,
    FooledRequest,
    Forecast,
    Gallery,
    IntakeReport,
    MapSet,
    ModelCard,
    ModelOrder,
    Proof,
    Responses,
    RestorationCurve,
    Roster,
    RosterRequest,
    RunCard,
    RunView,
    SiteProfile,
    SmallestSets,
    Synthesis,
    Taken,
)

Card = TypeVar("Card", ModelCard, DatasetCard)
Kept = TypeVar("Kept")
FRESH = 0.4
"""Seconds for which an answer that is still growing is taken for the latest: panels ask within milliseconds of each other."""
MOST_KEPT = 256
"""Requests whose examination is remembered; only their keys are, the records stay in the store."""


class Registry(Protocol):
    """What a store holds of models and data sets, and what could be added to it."""

    def models(self, *, retired: bool = False) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, or of those that are retired."""

    def datasets(self, *, retired: bool = False) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, or of those that are retired."""

    def retire(self, shelf: Literal["models", "data"], name: str, *, retired: bool = True) -> None:
        """Take a model or data set out of the menus, or back into them; raises UnknownName, StoreError."""

    def reports(self, model: str, datasets: Iterable[str]) -> tuple[IntakeReport, ...]:
        """Return the intake reports of a model that are made already, on noise and on these data sets."""

    def architectures(self) -> tuple[str, ...]:
        """Return the names of the architectures that weights can be loaded into."""

    @property
    def has_inbox(self) -> bool:
        """Whether the administrator has set a folder to add from."""

    def entries(self) -> tuple[Entry, ...]:
        """Return what lies in the inbox; raises StoreError."""

    def left_out(self) -> str:
        """Return one sentence on what is left out of the inbox."""

    def take_model(self, order: ModelOrder) -> Answer[Taken]:
        """Add a model; raises UnknownName and BadInput."""

    def take_data(self, order: DataOrder) -> Answer[Taken]:
        """Add a data set; raises UnknownName and BadInput."""

    def forget(self, order: ModelOrder | DataOrder) -> None:
        """Let an order that failed be tried again."""


class Runs(Protocol):
    """The audit runs of a store."""

    def cards(self) -> tuple[RunCard, ...]:
        """Return the cards of all audit runs, those that go on first."""

    def view(self, run: str) -> RunView:
        """Return a run with what its finished shards add up to; raises UnknownName, StoreError."""

    def forecast(self, values: Mapping[str, Any]) -> Answer[Forecast]:
        """Return what a plan will cost; raises WrongPlan, BadInput."""

    def start(self, values: Mapping[str, Any]) -> str:
        """Begin the run of a plan, and return its id; raises WrongPlan, BadInput, StoreError."""

    def resume(self, run: str) -> None:
        """Take up a run that was interrupted or cancelled; raises UnknownName, StoreError."""

    def cancel(self, run: str) -> None:
        """Ask whoever drives a run to stop; raises UnknownName, BadInput, StoreError."""


class Auditor(Protocol):
    """Everything that the page asks. Answers come at once; what is still being made says how far it is."""

    @property
    def desk(self) -> Registry:
        """Where models and data sets come in and are retired."""

    @property
    def audits(self) -> Runs:
        """The audit runs of the store."""

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use."""

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use."""

    def attacks(self) -> tuple[AttackCard, ...]:
        """Return the cards of all attacks and noise controls."""

    def methods(self) -> tuple[str, ...]:
        """Return the names of the ways to score feature maps, the default first."""

    def intake(self, model: str, data: str = "") -> Answer[IntakeReport]:
        """Return what was checked of a model when it was handed in; raises UnknownName."""

    def roster(self, request: RosterRequest) -> Answer[Roster]:
        """Return how every image of a class fares under one attack; raises BadInput."""

    def examination(self, request: ExaminationRequest) -> Answer[Examination]:
        """Return the examination of a pair or a small group; raises BadInput."""

    def examined(self, key: str) -> Examination:
        """Return a stored examination by its key; raises UnknownName."""

    def certificates(self, request: ExaminationRequest) -> Answer[Certificates]:
        """Return what is known so far of how far an examination can be trusted; raises BadInput."""

    def gallery(self, model: str, data: str) -> Answer[Gallery]:
        """Return the top patches of every feature map of a model over a data set; raises BadInput."""

    def synthesis(self, model: str, data: str, layer: str, channel: int) -> Answer[Synthesis]:
        """Return the picture made to excite one feature map; raises BadInput."""

    def responses(self, examination: str) -> Answer[Responses]:
        """Return how every feature map answers to the attack at other strengths; raises UnknownName."""

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean and adversarial activations at a site, (channels, height, width); raises UnknownName."""

    def noise_maps(self, key: str, site: int) -> np.ndarray:
        """Return the same of each image's first noisy copy; raises UnknownName."""

    def pictures(self, data: str, samples: tuple[str, ...]) -> np.ndarray:
        """Return the images of some samples, (images, height, width, channels) uint8; raises UnknownName."""

    def proof(self, examination: str, chosen: MapSet, direction: Direction) -> Answer[Proof]:
        """Return what putting the chosen maps of one run into the other does, with its controls."""

    def smallest_sets(self, group: FooledRequest) -> Answer[SmallestSets]:
        """Return the smallest sets of maps found that restore the label; raises BadInput."""

    def restoration_curve(self, group: FooledRequest) -> Answer[RestorationCurve]:
        """Return the share of labels restored against the number of maps; raises BadInput."""

    def site_profile(self, group: FooledRequest) -> Answer[SiteProfile]:
        """Return what a few maps of each site alone win back; raises BadInput."""

    def defence(self, group: FooledRequest) -> Answer[Defence]:
        """Return whether maps found on half of a group help the other half; raises BadInput."""

    def credibility(self, run: str) -> Answer[Credibility]:
        """Return the credibility checks of a run's candidate; raises UnknownName, StoreError."""

    def install_demo(self) -> Answer[tuple[ModelCard, ...]]:
        """Add the embedded demo to an empty store."""

    def close(self) -> None:
        """End the worker, if this process started it."""


class Remembering:
    """An auditor that resolves an examination once: the panels of one view ask for the same one within milliseconds.

    Everything else is asked of the auditor behind it. What is remembered goes when models or data sets change.
    """

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self._keys: dict[ExaminationRequest, str] = {}
        self._certificates: dict[ExaminationRequest, tuple[float, Answer[Certificates]]] = {}
        self._cards: dict[str, tuple[tuple[str, str], ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._auditor, name)

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use."""
        return self._watched("models", self._auditor.models())

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use."""
        return self._watched("datasets", self._auditor.datasets())

    def examination(self, request: ExaminationRequest) -> Answer[Examination]:
        """Return the examination of a pair or a small group; one that is known is read by its key."""
        key = self._keys.get(request)
        if key is not None:
            return Answer("ready", self._auditor.examined(key))
        answer = self._auditor.examination(request)
        if answer.value is not None:
            _keep(self._keys, request, answer.value.key)
        return answer

    def certificates(self, request: ExaminationRequest) -> Answer[Certificates]:
        """Return what is known so far of how far an examination can be trusted; what is complete is asked for once."""
        asked, known = self._certificates.get(request, (-FRESH, None))
        if known is not None and (_is_complete(known) or time.monotonic() - asked < FRESH):
            return known
        answer = self._auditor.certificates(request)
        if answer.value is not None:
            _keep(self._certificates, request, (time.monotonic(), answer))
        return answer

    def _watched(self, kind: str, cards: tuple[Card, ...]) -> tuple[Card, ...]:
        known = tuple((card.name, card.content_hash) for card in cards)
        if self._cards.get(kind, known) != known:
            self._keys.clear()
            self._certificates.clear()
        self._cards[kind] = known
        return cards


def remembering(auditor: Auditor) -> Auditor:
    """Return an auditor that resolves each examination once."""
    return cast(Auditor, Remembering(auditor))


def _is_complete(answer: Answer[Certificates]) -> bool:
    return answer.state == "ready" and answer.value is not None and not answer.value.failed


def _keep(kept: dict[ExaminationRequest, Kept], request: ExaminationRequest, value: Kept) -> None:
    kept[request] = value
    for oldest in list(kept)[:-MOST_KEPT]:
        kept.pop(oldest, None)
