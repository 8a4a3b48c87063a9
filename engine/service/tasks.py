"""The task table: everything that can be asked of a worker, with what it takes, what it leaves and what tells it apart.

A new kind of work is one line of `TASKS` and one function in `engine.service.computations`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from engine import hashing, serialization
from engine.audit import runs, stored_images
from engine.errors import BadInput, BadSetting, StoreError, UnknownName
from engine.jobs import Priority
from engine.specs.of_run import OfRun
from engine.store import Store
from engine.types.checks import VALIDATION_CHECKS, AttackSanity, FeatureVisualization, Responses, ValidationReport
from engine.types.core import (
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
    EvaluateRequest,
    Evaluation,
    FaithfulnessStudy,
    FooledRequest,
    GroupTestRequest,
    LocalisationStudy,
    MapSet,
    OfGroup,
    RestorationCurve,
    SiteProfile,
    SmallestSets,
    StrongestRequest,
)
from engine.types.requests import (
    AttackSanityRequest,
    CausalTestRequest,
    CorrectImages,
    CorrectRequest,
    DataTask,
    FaithfulnessRequest,
    FeatureRequest,
    ModelTask,
    Nothing,
    Pace,
    PaceRequest,
    Place,
    ResponsesRequest,
    ShardRequest,
    SmallestRequest,
    Taken,
)
from engine.types.run_studies import (
    HeldOutRequest,
    HeldOutTest,
    MapMatching,
    MatchRequest,
    RebuildRequest,
    Rebuilt,
)

Request = TypeVar("Request")
Record = TypeVar("Record")
MOST_SAMPLES: Final = 16
MOST_FOOLED: Final = 2000
"""Attacked images of a group that maps are patched in."""
LARGEST_SEED: Final = 2**31 - 1


class OfModel(Protocol):
    """A request that names a model and a data set."""

    @property
    def model(self) -> str: ...
    @property
    def data(self) -> str: ...


@functools.lru_cache(maxsize=64)
def model_key(card: ModelCard) -> str:
    """Return the key of all that a result depends on in a model: content, classes, preprocessing, sites and links."""
    return hashing.content_key(dataclasses.replace(card, added="", source="", licence=""))


def data_key(card: DatasetCard) -> str:
    """Return the key of all that a result depends on in a data set."""
    return hashing.content_key(card.content_hash, card.classes, card.count, card.channels, card.size)


def _by_model(shelf: str, store: Store, request: OfModel) -> str:
    model, data = model_key(store.model_card(request.model)), data_key(store.data_card(request.data))
    return hashing.content_key(shelf, request, model, data, *_stored_hashes(store, request), hashing.FORMAT)


def _stored_hashes(store: Store, request: Any) -> tuple[tuple[str, ...], ...]:
    """Return the hashes of the images that a request takes from a run; nothing where it attacks anew."""
    asked = getattr(request, "group", request)
    attack = getattr(asked, "attack", None)
    return (stored_images.hashes(store, attack, asked.samples),) if isinstance(attack, OfRun) else ()


def _by_two_models(shelf: str, store: Store, request: MatchRequest) -> str:
    return hashing.content_key(_by_model(shelf, store, request), model_key(store.model_card(request.baseline)))


def _by_request(shelf: str, _store: Store, request: Any) -> str:
    """The request stands for everything: the key of an explanation, say, for model, data and attack."""
    return hashing.content_key(shelf, request, hashing.FORMAT)


def _by_values(shelf: str, _store: Store, request: Any) -> str:
    """The same, by the values of the request alone."""
    values = [getattr(request, field.name) for field in dataclasses.fields(request)]
    return hashing.content_key(shelf, *values, hashing.FORMAT)


def _by_checks(shelf: str, store: Store, request: Place) -> str:
    """Without a name there is no data set."""
    data = data_key(store.data_card(request.data)) if request.data else ""
    # A report that knows fewer checks is no answer: what it does not name would read as passed.
    checks = tuple(check.name for check in VALIDATION_CHECKS)
    return hashing.content_key(shelf, request, model_key(store.model_card(request.model)), data, checks, hashing.FORMAT)


def _by_block(_shelf: str, _store: Store, request: ShardRequest) -> str:
    return runs.shard_key(request.run, request.condition, request.block)


def _first(_request: Any) -> int:
    """No answer has changed since version 0.1."""
    return 0


def _tested(_request: Any) -> int:
    """1: the layer-matched control is drawn from all maps of a layer, and says by how much the chosen ones exceed it."""
    return 1


def _checked(request: FaithfulnessRequest) -> int:
    """1: restoration by the default ranking, beside layer-matched random maps."""
    return 1 if request.part == "restoration" else 0


def _anything(_store: Store, _request: Any) -> None:
    """Nothing to check."""


@dataclass(frozen=True, slots=True)
class Task(Generic[Request, Record]):
    """One kind of work."""

    kind: str
    """Part of keys, and the folder of its records, for ever."""
    request: type[Request]
    record: type[Record]
    """What it leaves in the store; `Nothing` where it leaves no record."""
    run: str
    """`module:function` of what computes it, imported in a worker only."""
    title: str
    """What whoever waits is told, for example `attacking a class`."""
    priority: Priority = "interactive"
    depends: Callable[[str, Store, Any], str] = _by_model
    """From the shelf, the store and a request to the key of all that the result depends on."""
    require: Callable[[Store, Any], None] = _anything
    """Raises BadInput or UnknownName for a request that cannot be computed."""
    folder: str = ""
    """Of its records, where that is not the kind."""
    is_shown_early: bool = False
    """Whether a worker may leave what can be shown before the rest is done (`Bench.publish`)."""
    revision: Callable[[Any], int] = _first
    """Of a request: raised when it gets another answer than before. Older answers stay in the store and are not mixed in."""

    @property
    def shelf(self) -> str:
        """Folder of its records."""
        return self.folder or self.kind

    @property
    def early(self) -> str:
        """Folder of what can be shown before a record is whole."""
        return f"{self.shelf}-early"

    def key(self, store: Store, request: Request) -> str:
        """Return the key of a result. Raises UnknownName for a model or data set that is not there."""
        key, revision = self.depends(self.shelf, store, request), self.revision(request)
        return hashing.content_key(key, revision) if revision else key


def order(task: Task[Request, Any], key: str, request: Request) -> dict[str, Any]:
    """Return a piece of work as the plain JSON that a worker takes."""
    return {"format": hashing.FORMAT, "kind": task.kind, "key": key, "request": serialization.flatten(request).value}


def understood(ordered: dict[str, Any]) -> tuple[Task[Any, Any], str, Any]:
    """Return the task, the key and the request of what `order` made; raises BadInput."""
    if not isinstance(ordered, dict) or set(ordered) != {"format", "kind", "key", "request"}:
        raise BadInput("A task consists of format, kind, key and request.")
    if ordered["format"] != hashing.FORMAT:
        raise BadInput(
            f"The task has format {str(ordered['format'])[:20]}, this worker knows {hashing.FORMAT}; "
            "run the same version of Faultline everywhere."
        )
    kind = ordered["kind"]
    if kind not in TASKS:
        raise BadInput(f"A worker knows no task called '{str(kind)[:80]}'. Known: {', '.join(sorted(TASKS))}.")
    try:
        return TASKS[kind], ordered["key"], serialization.rebuild(TASKS[kind].request, ordered["request"])
    except StoreError as error:
        raise BadInput(f"The request of a {kind} task is malformed: {error}") from error


def _class_attack(store: Store, request: AttackResultsRequest) -> None:
    _check_seed(request.seed)
    model = store.model_card(request.model)
    store.dataset(request.data).labels_for(model)
    if type(request.label) is not int or not 0 <= request.label < len(model.classes):
        raise BadSetting(f"A class index must lie in 0 to {len(model.classes) - 1}, got {str(request.label)[:20]}.")


def _one_class(store: Store, request: ExplanationRequest) -> None:
    _check_seed(request.seed)
    dataset = store.dataset(request.data)
    labels = dataset.labels_for(store.model_card(request.model))
    if not 1 <= len(request.samples) <= MOST_SAMPLES or len(set(request.samples)) != len(request.samples):
        raise BadInput(f"An explanation takes 1 to {MOST_SAMPLES} different samples, got {len(request.samples)}.")
    _of_run(store, request)
    if len({int(labels[dataset.row(sample)]) for sample in request.samples}) > 1:
        raise BadInput("The samples of an explanation must be of one class.")


def _of_run(store: Store, request: ExplanationRequest | FooledRequest) -> None:
    """Where images of a run are asked for, they must be of this model and data set."""
    if isinstance(request.attack, OfRun):
        stored_images.require(store, request.attack, request.model, request.data)


def _group(store: Store, group: FooledRequest) -> None:
    dataset = store.dataset(group.data)
    dataset.labels_for(store.model_card(group.model))
    for sample in group.samples:
        dataset.row(sample)
    if not 1 <= len(group.samples) <= MOST_FOOLED or len(set(group.samples)) != len(group.samples):
        raise BadInput(f"A group takes 1 to {MOST_FOOLED} different samples, got {len(group.samples)}.")
    _of_run(store, group)
    _check_seed(group.seed)


def _group_of(store: Store, request: OfGroup) -> None:
    _group(store, request.group)


def _known_part(_store: Store, request: FaithfulnessRequest) -> None:
    if request.part not in PARTS:
        raise BadInput(f"There is no faithfulness check called '{request.part[:80]}'. Known: {', '.join(PARTS)}.")


def _known_map(store: Store, request: FeatureRequest) -> None:
    channels = {site.name: site.channels for site in store.model_card(request.model).sites}
    if request.layer not in channels:
        raise UnknownName("layer", request.layer, channels)
    if type(request.channel) is not int or not 0 <= request.channel < channels[request.layer]:
        raise UnknownName(f"feature map of {request.layer}", request.channel, [f"0 to {channels[request.layer] - 1}"])


def _check_seed(seed: int) -> None:
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise BadSetting(f"A seed must be a whole number from 0 to {LARGEST_SEED}, got {str(seed)[:20]}.")


_HOME: Final = "engine.service.computations"
ATTACK_RESULTS: Final = Task(
    kind="roster", request=AttackResultsRequest, record=AttackResults, run=f"{_HOME}:attack_results", title="attacking a class",
    priority="roster", require=_class_attack,
)  # fmt: skip
EXPLANATION: Final = Task(
    kind="examination", request=ExplanationRequest, record=Explanation, run=f"{_HOME}:explanation",
    title="explaining the pair", require=_one_class, is_shown_early=True,
)  # fmt: skip
FAITHFULNESS: Final = Task(
    kind="certificate", request=FaithfulnessRequest, record=Faithfulness, run=f"{_HOME}:faithfulness_part",
    title="checking a part of the faithfulness checks", priority="certificate", depends=_by_values, require=_known_part,
    revision=_checked,
)  # fmt: skip
GALLERY: Final = Task(
    kind="gallery", request=Place, record=Gallery, run=f"{_HOME}:gallery", title="collecting the top patches",
    priority="gallery",
)  # fmt: skip
FEATURE_VISUALIZATION: Final = Task(
    kind="synthesis", request=FeatureRequest, record=FeatureVisualization, run=f"{_HOME}:feature_visualization",
    title="making the feature visualization", require=_known_map,
)  # fmt: skip
RESPONSES: Final = Task(
    kind="responses", request=ResponsesRequest, record=Responses, run=f"{_HOME}:responses",
    title="attacking at growing epsilon", depends=_by_values,
)  # fmt: skip
CAUSAL_TEST: Final = Task(
    kind="proof", request=CausalTestRequest, record=CausalTest, run=f"{_HOME}:causal_test", title="patching the chosen channels",
    depends=_by_request, revision=_tested,
)  # fmt: skip
GROUP_TEST: Final = Task(
    kind="group-proof", request=GroupTestRequest, record=CausalTest, run=f"{_HOME}:group_test",
    title="patching the chosen channels in a group", require=_group_of, revision=_tested,
)  # fmt: skip
SMALLEST: Final = Task(
    kind="smallest", request=FooledRequest, record=SmallestSets, run=f"{_HOME}:smallest",
    title="searching the smallest sets of channels", require=_group, revision=_tested,
)  # fmt: skip
SMALLEST_WITHIN: Final = Task(
    kind="smallest-within", request=SmallestRequest, record=SmallestSets, run=f"{_HOME}:smallest_within",
    title="searching the smallest sets of maps for longer", require=_group_of, folder="smallest",
)  # fmt: skip
CURVE: Final = Task(
    kind="curve", request=FooledRequest, record=RestorationCurve, run=f"{_HOME}:curve",
    title="patching growing numbers of channels", require=_group, revision=_tested,
)  # fmt: skip
PROFILE: Final = Task(
    kind="profile", request=FooledRequest, record=SiteProfile, run=f"{_HOME}:profile",
    title="patching layer by layer", require=_group,
)  # fmt: skip
LOCALISATION: Final = Task(
    kind="localisation", request=FooledRequest, record=LocalisationStudy, run=f"{_HOME}:localisation",
    title="localising the attack layer by layer", require=_group,
)  # fmt: skip
FAITHFULNESS_CURVE: Final = Task(
    kind="faithfulness-curve", request=FooledRequest, record=FaithfulnessStudy, run=f"{_HOME}:faithfulness_curve",
    title="measuring faithfulness over sizes", require=_group,
)  # fmt: skip
EVALUATION: Final = Task(
    kind="evaluation", request=EvaluateRequest, record=Evaluation, run=f"{_HOME}:evaluation",
    title="evaluating the methods",
)  # fmt: skip
STRONGEST: Final = Task(
    kind="strongest", request=StrongestRequest, record=MapSet, run=f"{_HOME}:strongest",
    title="ranking channels by attack conductance", require=_group_of,
)  # fmt: skip
CORRECT: Final = Task(
    kind="correct", request=CorrectRequest, record=CorrectImages, run=f"{_HOME}:correct",
    title="finding correctly classified images",
)  # fmt: skip
DEFENCE: Final = Task(
    kind="defence", request=FooledRequest, record=Defence, run=f"{_HOME}:defence",
    title="trying the channels on other images", require=_group,
)  # fmt: skip
ATTACK_SANITY: Final = Task(
    kind="credibility", request=AttackSanityRequest, record=AttackSanity, run=f"{_HOME}:attack_sanity",
    title="running the attack sanity checks", priority="gallery",
)  # fmt: skip
MATCHING: Final = Task(
    kind="map-matching", request=MatchRequest, record=MapMatching, run=f"{_HOME}:matching",
    title="matching the channels of two models", depends=_by_two_models,
)  # fmt: skip
HELD_OUT: Final = Task(
    kind="held-out-test", request=HeldOutRequest, record=HeldOutTest, run=f"{_HOME}:held_out",
    title="testing channels on held-out images", depends=_by_request,
)  # fmt: skip
REBUILD: Final = Task(
    kind="rebuilt", request=RebuildRequest, record=Rebuilt, run=f"{_HOME}:rebuild", title="rebuilding the result of a run",
    depends=_by_request,
)  # fmt: skip
PACE: Final = Task(
    kind="pace", request=PaceRequest, record=Pace, run=f"{_HOME}:pace", title="measuring the pace",
)  # fmt: skip
VALIDATION: Final = Task(
    kind="intake", request=Place, record=ValidationReport, run=f"{_HOME}:validation", title="checking the model",
    priority="gallery", depends=_by_checks,
)  # fmt: skip
TAKE_MODEL: Final = Task(
    kind="take-model", request=ModelTask, record=Taken, run=f"{_HOME}:take_model", title="adding a model",
    depends=_by_request, folder="taken",
)  # fmt: skip
TAKE_DATA: Final = Task(
    kind="take-data", request=DataTask, record=Taken, run=f"{_HOME}:take_data", title="adding a data set",
    depends=_by_request, folder="taken",
)  # fmt: skip
DEMO: Final = Task(
    kind="demo", request=Nothing, record=Nothing, run=f"{_HOME}:demo", title="adding the demo", depends=_by_values,
)  # fmt: skip
SHARD: Final = Task(
    kind="shard", request=ShardRequest, record=Nothing, run=f"{_HOME}:shard", title="making a block of a run",
    priority="shard", depends=_by_block,
)  # fmt: skip

TASKS: Final[dict[str, Task[Any, Any]]] = {
    task.kind: task
    for task in (
        ATTACK_RESULTS, EXPLANATION, FAITHFULNESS, GALLERY, FEATURE_VISUALIZATION, RESPONSES, CAUSAL_TEST, GROUP_TEST,
        SMALLEST, SMALLEST_WITHIN, CURVE, PROFILE, LOCALISATION, FAITHFULNESS_CURVE,
        EVALUATION, STRONGEST, CORRECT, DEFENCE, ATTACK_SANITY, MATCHING,
        HELD_OUT, REBUILD, PACE, VALIDATION, TAKE_MODEL, TAKE_DATA, DEMO, SHARD,
    )
}  # fmt: skip
"""Every kind of work by its name."""
