"""The facade: answers from the store at once, hands what is missing to a worker, and says how far that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar, final

import numpy as np

from engine.audit import stored_images
from engine.errors import BadInput, UnknownName
from engine.jobs import Jobs, Workers
from engine.service import driver, tasks, worker
from engine.service.answers import Answers
from engine.service.demo_audit import DemoAudit
from engine.service.registry import ImportFolder, ModelRegistry
from engine.service.tasks import Task
from engine.specs import catalogue, methods
from engine.specs.catalogue import AttackCard
from engine.specs.of_run import OfRun
from engine.store import NotStored, Store
from engine.types import faithfulness
from engine.types.checks import AttackSanity, FeatureVisualization, Responses, ValidationReport
from engine.types.core import (
    Answer,
    AttackResults,
    AttackResultsRequest,
    DatasetCard,
    Explanation,
    ExplanationRequest,
    Gallery,
    ModelCard,
)
from engine.types.faithfulness import PARTS, Faithfulness
from engine.types.patching import (
    CausalTest,
    Defence,
    Direction,
    FaithfulnessStudy,
    FooledRequest,
    GroupTestRequest,
    LocalisationStudy,
    MapSet,
    RestorationCurve,
    SiteProfile,
    SmallestSets,
)
from engine.types.requests import (
    CausalTestRequest,
    FaithfulnessRequest,
    FeatureRequest,
    Nothing,
    Place,
    ResponsesRequest,
)

Request = TypeVar("Request")
Record = TypeVar("Record")
NOT_WHOLE: Final[Answer[Any]] = Answer("working", message="Waiting for the noise control of this pair")
"""What builds on an explanation waits until all of it is stored."""


@final
class Auditor:
    """Everything the screen may ask. Thread-safe; several processes may open one store."""

    def __init__(self, store: Store, jobs: Workers, import_folder: ImportFolder | None = None) -> None:
        self._store = store
        self._jobs = jobs
        self._answers = Answers(store, jobs)
        self.model_registry = ModelRegistry(self._answers, import_folder or ImportFolder(None))
        """Where models and data sets come in and are archived."""
        self.audits = driver.Runs(self._answers)
        """The audit runs of the store."""
        self._demo_audit = DemoAudit(store, self.audits)

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        scheduler: str | None = None,
        allow_plain: bool = False,
        import_folder: Path | None = None,
        takes_uploads: bool = True,
    ) -> Auditor:
        """Open a store, or make one of an empty folder; no worker starts before the first piece of work.

        import folder: folder that models and data sets may be added from; takes_uploads: whether the page may put files there.
        scheduler: address of an existing Dask cluster that
        sees the same folder; by default a worker on this machine.
        Raises StoreError for a folder that cannot be used and BadInput for an unsafe address.
        """
        store = Store(root)
        store.sweep()
        jobs = Jobs(store.root, worker.perform, scheduler=scheduler, allow_plain=allow_plain)
        return cls(store, jobs, ImportFolder(import_folder, takes_uploads=takes_uploads))

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, in the order they were added."""
        return self.model_registry.models()

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, in the order they were added."""
        return self.model_registry.datasets()

    def attacks(self) -> tuple[AttackCard, ...]:
        """Return the cards of all attacks and noise controls."""
        return catalogue.cards()

    def attack_of_run(self, text: str, model: str, data: str) -> AttackCard:
        """Return what menus show of images that a run stored, named `run:RUN/ROLE/CONDITION`.

        Raises BadInput for what is not there any more, or is of another model or data set.
        """
        attack = catalogue.attack(text)
        if not isinstance(attack, OfRun):
            raise BadInput(f"'{text[:80]}' names no images of a run.")
        return stored_images.card(self._store, attack, model, data)

    def methods(self) -> tuple[str, ...]:
        """Return the names of the ways to score feature maps, the default first."""
        return tuple(methods.METHODS)

    def ask(self, task: Task[Request, Record], request: Request) -> Answer[Record]:
        """Return the result of a task from the store, or how far the work is that makes it.

        Raises BadInput for a request that cannot be computed, and UnknownName for what it names and is not there.
        """
        return self._answers.ask(task, request)

    def validation(self, model: str, data: str = "") -> Answer[ValidationReport]:
        """Return what was checked of a model when it was handed in, on labelled images if named; raises UnknownName."""
        return self.ask(tasks.VALIDATION, Place(model, data))

    def attack_results(self, request: AttackResultsRequest) -> Answer[AttackResults]:
        """Return how every image of a class fares under one attack; raises BadInput."""
        if isinstance(request.attack, OfRun):
            # The run's rows say it: there is nothing to wait for, and an unfinished run says more each time.
            return Answer("ready", stored_images.attack_results(self._store, request, request.attack))
        return self.ask(tasks.ATTACK_RESULTS, request)

    def explanation(self, request: ExplanationRequest) -> Answer[Explanation]:
        """Return the explanation of a pair or a small group; raises BadInput.

        Of a network on large pictures the answer that is still working holds it without its noise control, once it is there.
        """
        return self.ask(tasks.EXPLANATION, request)

    def faithfulness_checks(self, request: ExplanationRequest) -> Answer[Faithfulness]:
        """Return what is known so far of how far an explanation can be trusted; raises BadInput.

        Asked for only once the explanation is there. A part that failed is listed in `failed` with its reason.
        """
        explained = self.explanation(request)
        if explained.value is None or explained.state != "ready":
            return Answer(explained.state, None, explained.done, explained.total, explained.message)
        answers = [self._part(explained.value.key, part) for part in PARTS]
        failed = Faithfulness(failed=tuple(answer.message for answer in answers if answer.state == "failed"))
        merged = faithfulness.merge([*(answer.value for answer in answers if answer.value is not None), failed])
        working = [answer for answer in answers if answer.state == "working"]
        done, total = len(answers) - len(working), len(answers)
        if not working:
            return Answer("ready", merged, done, total)
        return Answer("working", merged, done, total, max(working, key=lambda one: one.total).message)

    def is_stored(self, request: AttackResultsRequest | ExplanationRequest) -> bool:
        """Tell whether attack results, or an explanation with all of its checks, lie in the store; hands no work in."""
        if isinstance(request, AttackResultsRequest):
            return self._answers.is_stored(tasks.ATTACK_RESULTS, request)
        key = tasks.EXPLANATION.key(self._store, request)
        return self._answers.is_stored(tasks.EXPLANATION, request) and all(
            self._answers.is_stored(tasks.FAITHFULNESS, FaithfulnessRequest(key, part)) for part in PARTS
        )

    def gallery(self, model: str, data: str) -> Answer[Gallery]:
        """Return the top patches of every feature map of a model over a data set; raises BadInput."""
        return self.ask(tasks.GALLERY, Place(model, data))

    def feature_visualization(self, model: str, data: str, layer: str, channel: int) -> Answer[FeatureVisualization]:
        """Return the picture made to excite one feature map, judged by its top patches; raises BadInput.

        Made only once the gallery is there; until then the answer says how far that is.
        """
        place = Place(model, data)
        request = FeatureRequest(model, data, layer, channel, tasks.GALLERY.key(self._store, place))
        tasks.FEATURE_VISUALIZATION.require(self._store, request)
        gallery = self.ask(tasks.GALLERY, place)
        if gallery.value is None:
            return Answer(gallery.state, None, gallery.done, gallery.total, gallery.message)
        return self.ask(tasks.FEATURE_VISUALIZATION, request)

    def responses(self, explanation: str) -> Answer[Responses]:
        """Return how every feature map answers to a stored explanation's attack at other strengths.

        explanation: its key; raises UnknownName. An attack without epsilon fails with its reason.
        """
        explained = self.explained(explanation)
        if not explained.has_noise_control:
            return NOT_WHOLE
        return self.ask(tasks.RESPONSES, ResponsesRequest(explained.key))

    def explained(self, key: str) -> Explanation:
        """Return a stored explanation by its key, or what can be shown of it already; raises UnknownName."""
        try:
            return self._answers.shown(tasks.EXPLANATION, key)
        except NotStored as error:
            raise UnknownName("examination", key, []) from error

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean and adversarial activations at a site, (channels, height, width) float32, mean over images.

        Sides longer than 32 are max-pooled down to at most 32. Raises UnknownName for a key or site that is not stored.
        """
        clean, adversarial = self._maps(key, site, ("clean", "adversarial"))
        return clean, adversarial

    def noise_maps(self, key: str, site: int) -> np.ndarray:
        """Return the activations of each image's first same-norm noise copy at a site, as `maps` returns the others.

        Raises UnknownName for a key or site that is not stored, and for an explanation made before these were kept.
        """
        (noise,) = self._maps(key, site, ("noise",))
        return noise

    def pictures(self, data: str, samples: tuple[str, ...]) -> np.ndarray:
        """Return the images of some samples, (images, height, width, channels) uint8; raises UnknownName."""
        return self._store.dataset(data).images(samples)

    def install_demo(self) -> Answer[tuple[ModelCard, ...]]:
        """Add the embedded demo to an empty store, and go on with it where it was interrupted.

        Ready, with the models, once the store holds something that is not a half-added demo.
        """
        key = tasks.DEMO.key(self._store, Nothing())
        progress = self._jobs.progress(key)
        is_wanted = self._jobs.is_unfinished(key) or not (self._store.models() or self._store.datasets())
        if progress.state == "unknown" and is_wanted:
            order = tasks.order(tasks.DEMO, key, Nothing())
            self._jobs.submit(order, priority=tasks.DEMO.priority, doing=tasks.DEMO.title)
            progress = self._jobs.progress(key)
        if progress.state == "unknown":
            return Answer("ready", self.models())
        return Answer(progress.state, None, progress.done, progress.total, progress.message)

    def begin_demo_audit(self) -> None:
        """Make the demo's small audit in the background, once, in a store that holds nothing else; raises StoreError."""
        self._demo_audit.begin()

    def retry(self, request: AttackResultsRequest | ExplanationRequest) -> None:
        """Let work that failed be asked again at once, an explanation with all its faithfulness checks."""
        if isinstance(request, AttackResultsRequest):
            self._answers.retry(tasks.ATTACK_RESULTS, request)
            return
        key = self._answers.retry(tasks.EXPLANATION, request)
        self._answers.retry(tasks.RESPONSES, ResponsesRequest(key))
        for part in PARTS:
            self._answers.retry(tasks.FAITHFULNESS, FaithfulnessRequest(key, part))

    def causal_test(self, explanation: str, chosen: MapSet, direction: Direction) -> Answer[CausalTest]:
        """Return what putting the chosen maps of one run into the other does, with its controls.

        explanation: key of a stored one; raises UnknownName. Maps that are not there, and an attack that took nothing, fail
        with their reason.
        """
        explained = self.explained(explanation)
        if not explained.has_noise_control:
            return NOT_WHOLE
        return self.ask(tasks.CAUSAL_TEST, CausalTestRequest(explained.key, chosen, direction))

    def group_test(self, group: FooledRequest, chosen: MapSet, direction: Direction) -> Answer[CausalTest]:
        """Return the same for all images of a group that the attack fools, of one class or several; raises BadInput."""
        return self.ask(tasks.GROUP_TEST, GroupTestRequest(group, chosen, direction))

    def smallest_sets(self, group: FooledRequest) -> Answer[SmallestSets]:
        """Return the smallest sets of maps found that restore the label, per image and for the group; raises BadInput."""
        return self.ask(tasks.SMALLEST, group)

    def restoration_curve(self, group: FooledRequest) -> Answer[RestorationCurve]:
        """Return the share of labels restored against the number of maps, with controls; raises BadInput."""
        return self.ask(tasks.CURVE, group)

    def site_profile(self, group: FooledRequest) -> Answer[SiteProfile]:
        """Return what a few maps of each site alone win back; raises BadInput."""
        return self.ask(tasks.PROFILE, group)

    def localisation(self, group: FooledRequest) -> Answer[LocalisationStudy]:
        """Return layer by layer what share of its channels must be patched alone, ranked and at random; raises BadInput."""
        return self.ask(tasks.LOCALISATION, group)

    def faithfulness_curve(self, group: FooledRequest) -> Answer[FaithfulnessStudy]:
        """Return how faithful growing sets are, ranked by attack conductance, beside layer-matched random ones; raises BadInput."""
        return self.ask(tasks.FAITHFULNESS_CURVE, group)

    def defence(self, group: FooledRequest) -> Answer[Defence]:
        """Return whether maps found on half of a group help the other half, and what fixing them costs; raises BadInput."""
        return self.ask(tasks.DEFENCE, group)

    def attack_sanity(self, run: str) -> Answer[AttackSanity]:
        """Return the attack sanity checks of a run's candidate, on some of the run's images at its largest pixel budget.

        The baseline's adversarial images are those that are transferred. Raises UnknownName, StoreError.
        """
        return self.ask(tasks.ATTACK_SANITY, driver.sanity_request(self._store, run))

    def close(self) -> None:
        """End the worker, if this process started it. What was in flight can be asked for again."""
        self._demo_audit.close()
        self._jobs.close()
        self.audits.close()

    def _maps(self, key: str, site: int, sides: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        sites = self.explained(key).sites
        if not 0 <= site < len(sites):
            raise UnknownName("site", site, [f"0 to {len(sites) - 1}"])
        members = tuple(f"{site:03d}/{side}" for side in sides)
        try:
            extra = self._answers.read_shown(
                tasks.EXPLANATION,
                lambda shelf: self._store.records.read_extra(shelf, key, "maps", members, Explanation),
            )
        except NotStored as error:
            raise UnknownName("examination", key, []) from error
        return tuple(_read_only(maps) for maps in extra)

    def _part(self, explanation: str, part: str) -> Answer[Faithfulness]:
        doing = f"checking {faithfulness.PART_TITLES[part]}"
        return self._answers.ask(tasks.FAITHFULNESS, FaithfulnessRequest(explanation, part), patience=0, doing=doing)


def _read_only(maps: np.ndarray) -> np.ndarray:
    astype = maps.astype(np.float32)
    astype.setflags(write=False)
    return astype
