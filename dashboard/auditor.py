"""What the dashboard asks of the engine: `engine.Auditor` answers it, and so does the fake of the tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import IO, Any, Literal, Protocol, TypeVar, cast

import numpy as np

from engine import (
    Act,
    Answer,
    AttackCard,
    AttackResults,
    AttackResultsRequest,
    AttackSanity,
    CausalTest,
    Confusion,
    DataOrder,
    DatasetCard,
    Defence,
    Direction,
    Entry,
    Explanation,
    ExplanationRequest,
    Faithfulness,
    FaithfulnessStudy,
    FeatureVisualization,
    FooledRequest,
    Forecast,
    Gallery,
    Halves,
    HeldOutTest,
    Inside,
    Listing,
    LocalisationStudy,
    MapMatching,
    MapSet,
    ModelCard,
    ModelOrder,
    Rebuilt,
    Responses,
    RestorationCurve,
    RunCard,
    RunRiver,
    RunView,
    Scope,
    Selection,
    SiteProfile,
    SmallestSets,
    Taken,
    ValidationReport,
    Versus,
)

Card = TypeVar("Card", ModelCard, DatasetCard)
Kept = TypeVar("Kept")
FRESH = 0.4
"""Seconds for which an answer that is still growing is taken for the latest: panels ask within milliseconds of each other."""
MOST_KEPT = 256
"""Requests whose explanation is remembered; only their keys are, the records stay in the store."""


class Registry(Protocol):
    """What a store holds of models and data sets, and what could be added to it."""

    def models(self, *, archived: bool = False) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, or of those that are archived."""

    def datasets(self, *, archived: bool = False) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, or of those that are archived."""

    def archive(self, shelf: Literal["models", "data"], name: str, *, archived: bool = True) -> None:
        """Take a model or data set out of the menus, or back into them; raises UnknownName, StoreError."""

    def reports(self, model: str, datasets: Iterable[str]) -> tuple[ValidationReport, ...]:
        """Return the validation reports of a model that are made already, on noise and on these data sets."""

    def architectures(self) -> tuple[str, ...]:
        """Return the names of the architectures that weights can be loaded into."""

    @property
    def has_import_folder(self) -> bool:
        """Whether the administrator has set a folder to add from."""

    def entries(self) -> tuple[Entry, ...]:
        """Return what lies in the import folder; raises StoreError."""

    @property
    def takes_uploads(self) -> bool:
        """Whether files may be sent into the import folder from the page."""

    def receive(self, name: str, stream: IO[bytes], size: int) -> Entry:
        """Put a file of `size` bytes into the import folder; raises BadInput, StoreError, and then nothing is there."""

    def left_out(self) -> str:
        """Return one sentence on what is left out of the import folder."""

    def take_model(self, order: ModelOrder) -> Answer[Taken]:
        """Add a model; raises UnknownName and BadInput."""

    def take_data(self, order: DataOrder) -> Answer[Taken]:
        """Add a data set; raises UnknownName and BadInput."""

    def forget(self, order: ModelOrder | DataOrder) -> None:
        """Let an order that failed be tried again."""


class Runs(Protocol):
    """The audit runs of a store."""

    def cards(self) -> tuple[RunCard, ...]:
        """Return the cards of all audit runs, the newest first."""

    def view(self, run: str) -> RunView:
        """Return a run with what its finished shards add up to; raises UnknownName, StoreError."""

    def inside(self, run: str, scope: Scope) -> Inside:
        """Return where attacks take hold over all images of a finished run; raises UnknownName, BadInput, StoreError."""

    def confusion(self, run: str, scope: Scope, most: int | None = None) -> Confusion:
        """Return where fooled images of a run end, also while it goes on; raises UnknownName, BadInput, StoreError."""

    def versus(self, run: str, scope: Scope, most: int | None = None) -> Versus:
        """Return candidate beside baseline, also while the run goes on; raises UnknownName, BadInput, StoreError."""

    def matching(self, run: str, act: Act) -> Answer[MapMatching] | None:
        """Return the feature maps of both models of a run, matched; None where that was not asked for yet."""

    def held_out(self, run: str, scope: Scope, count: int, act: Act) -> Answer[HeldOutTest] | None:
        """Return what patching the ranked maps of a run does in held-out images; None where that was not asked for yet."""

    def halves(self, run: str, scope: Scope) -> tuple[str, Halves]:
        """Return the attack of such a test, and on which fooled images it ranks and which it holds out."""

    def damaged(self, run: str) -> tuple[str, ...]:
        """Return the damaged files of a finished run's result; raises UnknownName, StoreError."""

    def rebuilt(self, run: str, act: Act) -> Answer[Rebuilt] | None:
        """Return how far the rebuilding of a damaged result is; None where that was not asked for."""

    def river(self, run: str, scope: Scope, share: float) -> RunRiver:
        """Return the datapaths of all images of a scope at a share of kept maps; raises UnknownName, BadInput, StoreError."""

    def images(self, run: str, selection: Selection) -> Listing:
        """Return the images of a run that a selection chooses, finished or not; raises UnknownName, BadInput, StoreError."""

    def picture(self, run: str, folder: str, sample: str, expected: str) -> np.ndarray:
        """Return the stored image of a hash, (height, width, channels) uint8; raises UnknownName, BadInput, StoreError."""

    def forecast(self, values: Mapping[str, Any]) -> Answer[Forecast]:
        """Return what a plan will cost; raises WrongPlan, BadInput."""

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise WrongPlan or BadInput where a plan cannot be run."""

    def values(self, run: str) -> Mapping[str, Any]:
        """Return the values of a run's plan, from which the same can be planned again; raises UnknownName, StoreError."""

    def start(self, values: Mapping[str, Any]) -> str:
        """Begin the run of a plan, and return its id; raises WrongPlan, BadInput, StoreError."""

    def resume(self, run: str) -> None:
        """Take up a run that was interrupted or cancelled; raises UnknownName, StoreError."""

    def cancel(self, run: str) -> None:
        """Ask whoever drives a run to stop; raises UnknownName, BadInput, StoreError."""


class Auditor(Protocol):
    """Everything that the page asks. Answers come at once; what is still being made says how far it is."""

    @property
    def model_registry(self) -> Registry:
        """Where models and data sets come in and are archived."""

    @property
    def audits(self) -> Runs:
        """The audit runs of the store."""

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use."""

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use."""

    def attacks(self) -> tuple[AttackCard, ...]:
        """Return the cards of all attacks and noise controls."""

    def attack_of_run(self, text: str, model: str, data: str) -> AttackCard:
        """Return what menus show of images that a run stored, named `run:RUN/ROLE/CONDITION`; raises BadInput."""

    def methods(self) -> tuple[str, ...]:
        """Return the names of the ways to score feature maps, the default first."""

    def validation(self, model: str, data: str = "") -> Answer[ValidationReport]:
        """Return what was checked of a model when it was handed in; raises UnknownName."""

    def attack_results(self, request: AttackResultsRequest) -> Answer[AttackResults]:
        """Return how every image of a class fares under one attack; raises BadInput."""

    def explanation(self, request: ExplanationRequest) -> Answer[Explanation]:
        """Return the explanation of a pair or a small group; raises BadInput."""

    def explained(self, key: str) -> Explanation:
        """Return a stored explanation by its key; raises UnknownName."""

    def faithfulness_checks(self, request: ExplanationRequest) -> Answer[Faithfulness]:
        """Return what is known so far of how far an explanation can be trusted; raises BadInput."""

    def is_stored(self, request: AttackResultsRequest | ExplanationRequest) -> bool:
        """Tell whether attack results, or an explanation with all of its checks, lie in the store; hands no work in."""

    def gallery(self, model: str, data: str) -> Answer[Gallery]:
        """Return the top patches of every feature map of a model over a data set; raises BadInput."""

    def feature_visualization(self, model: str, data: str, layer: str, channel: int) -> Answer[FeatureVisualization]:
        """Return the picture made to excite one feature map; raises BadInput."""

    def responses(self, explanation: str) -> Answer[Responses]:
        """Return how every feature map answers to the attack at other strengths; raises UnknownName."""

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean and adversarial activations at a site, (channels, height, width); raises UnknownName."""

    def noise_maps(self, key: str, site: int) -> np.ndarray:
        """Return the same of each image's first noisy copy; raises UnknownName."""

    def pictures(self, data: str, samples: tuple[str, ...]) -> np.ndarray:
        """Return the images of some samples, (images, height, width, channels) uint8; raises UnknownName."""

    def causal_test(self, explanation: str, chosen: MapSet, direction: Direction) -> Answer[CausalTest]:
        """Return what putting the chosen maps of one run into the other does, with its controls."""

    def smallest_sets(self, group: FooledRequest) -> Answer[SmallestSets]:
        """Return the smallest sets of maps found that restore the label; raises BadInput."""

    def restoration_curve(self, group: FooledRequest) -> Answer[RestorationCurve]:
        """Return the share of labels restored against the number of maps; raises BadInput."""

    def site_profile(self, group: FooledRequest) -> Answer[SiteProfile]:
        """Return what a few maps of each site alone win back; raises BadInput."""

    def localisation(self, group: FooledRequest) -> Answer[LocalisationStudy]:
        """Return layer by layer what share of its channels must be patched alone, ranked and at random; raises BadInput."""

    def faithfulness_curve(self, group: FooledRequest) -> Answer[FaithfulnessStudy]:
        """Return the field's measures of the channels with the most attack conductance; raises BadInput."""

    def defence(self, group: FooledRequest) -> Answer[Defence]:
        """Return whether maps found on half of a group help the other half; raises BadInput."""

    def attack_sanity(self, run: str) -> Answer[AttackSanity]:
        """Return the attack sanity checks of a run's candidate; raises UnknownName, StoreError."""

    def install_demo(self) -> Answer[tuple[ModelCard, ...]]:
        """Add the embedded demo to an empty store."""

    def close(self) -> None:
        """End the worker, if this process started it."""


class Remembering:
    """An auditor that resolves an explanation once: the panels of one view ask for the same one within milliseconds.

    Everything else is asked of the auditor behind it. What is remembered goes when models or data sets change.
    """

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self._keys: dict[ExplanationRequest, str] = {}
        self._faithfulness_checks: dict[ExplanationRequest, tuple[float, Answer[Faithfulness]]] = {}
        self._cards: dict[str, tuple[tuple[str, str], ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._auditor, name)

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use."""
        return self._watched("models", self._auditor.models())

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use."""
        return self._watched("datasets", self._auditor.datasets())

    def explanation(self, request: ExplanationRequest) -> Answer[Explanation]:
        """Return the explanation of a pair or a small group; one that is known is read by its key."""
        key = self._keys.get(request)
        if key is not None:
            return Answer("ready", self._auditor.explained(key))
        answer = self._auditor.explanation(request)
        if answer.state == "ready" and answer.value is not None:
            _keep(self._keys, request, answer.value.key)
        return answer

    def faithfulness_checks(self, request: ExplanationRequest) -> Answer[Faithfulness]:
        """Return what is known so far of how far an explanation can be trusted; what is complete is asked for once."""
        asked, known = self._faithfulness_checks.get(request, (-FRESH, None))
        if known is not None and (_is_complete(known) or time.monotonic() - asked < FRESH):
            return known
        answer = self._auditor.faithfulness_checks(request)
        if answer.value is not None:
            _keep(self._faithfulness_checks, request, (time.monotonic(), answer))
        return answer

    def _watched(self, kind: str, cards: tuple[Card, ...]) -> tuple[Card, ...]:
        known = tuple((card.name, card.content_hash) for card in cards)
        if self._cards.get(kind, known) != known:
            self._keys.clear()
            self._faithfulness_checks.clear()
        self._cards[kind] = known
        return cards


def remembering(auditor: Auditor) -> Auditor:
    """Return an auditor that resolves each explanation once."""
    return cast(Auditor, Remembering(auditor))


def _is_complete(answer: Answer[Faithfulness]) -> bool:
    return answer.state == "ready" and answer.value is not None and not answer.value.failed


def _keep(kept: dict[ExplanationRequest, Kept], request: ExplanationRequest, value: Kept) -> None:
    kept[request] = value
    for oldest in list(kept)[:-MOST_KEPT]:
        kept.pop(oldest, None)
