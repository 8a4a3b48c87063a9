"""What a worker does for a task: find the model and the data, compute, store. Torch is imported only inside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import keys, loaded, serial, streams
from engine.audit.paces import Pace
from engine.errors import BadInput, StoreError, UnknownName
from engine.intake.inbox import DataTask, ModelTask, Taken
from engine.jobs.notes import Notes, Report
from engine.records import Certificates, DatasetCard, Examination, ExaminationRequest, Gallery, ModelCard, RosterRequest
from engine.records.certificate_parts import PARTS
from engine.records.feature import Responses, Synthesis
from engine.records.intake import INTAKE_CHECKS, IntakeReport
from engine.records.proof import Proof
from engine.records.requests import (
    CertificatePart,
    CredibilityRequest,
    FeatureRequest,
    Nothing,
    PaceRequest,
    Place,
    ProofRequest,
    Request,
    ResponsesRequest,
    ShardRequest,
)
from engine.records.restoration import STUDIES, FooledRequest, GroupProofRequest
from engine.store import Dataset, Store

if TYPE_CHECKING:
    from engine.models.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every computation needs."""

    store: Store
    key: str
    report: Report


def task(kind: str, key: str, request: Request) -> dict[str, Any]:
    """Return a task as the plain JSON that `perform` takes."""
    return {"format": keys.FORMAT, "kind": kind, "key": key, "request": serial.flatten(request).value}


def perform(task: dict[str, Any], store_root: str) -> str:
    """Do a task and return its key; the result lies in the store. What is stored already is not computed again.

    Raises BadInput for a task that this version does not understand, and whatever EngineError the work ends with.
    """
    kind, key, request = _understood(task)
    inputs = Inputs(_store(store_root), key, Notes(store_root).reporter(key))
    with streams.kept_apart():
        KINDS[kind].compute(inputs, request)
    return key


@functools.lru_cache(maxsize=64)
def model_key(card: ModelCard) -> str:
    """Return the key of all that a result depends on in a model: content, classes, preprocessing, sites and links."""
    return keys.content_key(dataclasses.replace(card, added=""))


def data_key(card: DatasetCard) -> str:
    """Return the key of all that a result depends on in a data set."""
    return keys.content_key(card.content_hash, card.classes, card.count, card.channels, card.size)


def pace_key(store: Store, request: PaceRequest) -> str:
    """Return the key under which a measured pace is kept; raises UnknownName."""
    model, data = model_key(store.model_card(request.model)), data_key(store.data_card(request.data))
    return keys.content_key("pace", request, model, data, keys.FORMAT)


def intake_key(store: Store, request: Place) -> str:
    """Return the key of a model's intake report; raises UnknownName. Without a name there is no data set."""
    data = data_key(store.data_card(request.data)) if request.data else ""
    # A report that knows fewer checks is no answer: what it does not name would read as passed.
    checks = tuple(check.name for check in INTAKE_CHECKS)
    return keys.content_key("intake", request, model_key(store.model_card(request.model)), data, checks, keys.FORMAT)


def _understood(task: dict[str, Any]) -> tuple[str, str, Request]:
    if not isinstance(task, dict) or set(task) != {"format", "kind", "key", "request"}:
        raise BadInput("A task consists of format, kind, key and request.")
    if task["format"] != keys.FORMAT:
        raise BadInput(
            f"The task has format {str(task['format'])[:20]}, this worker knows {keys.FORMAT}; "
            "run the same version of Faultline everywhere."
        )
    if task["kind"] not in KINDS:
        raise BadInput(f"A worker knows no task called '{str(task['kind'])[:80]}'. Known: {', '.join(sorted(KINDS))}.")
    try:
        return task["kind"], task["key"], serial.rebuild(KINDS[task["kind"]].request, task["request"])
    except StoreError as error:
        raise BadInput(f"The request of a {task['kind']} task is malformed: {error}") from error


@functools.lru_cache(maxsize=4)
def _store(root: str) -> Store:
    """A worker on another machine must see the same folder; it never starts a store of its own."""
    return Store(root, create=False)


LOADED: Final = loaded.Bundles()


def _bundle(inputs: Inputs, model: str) -> ModelBundle:
    """The bundle of a stored model, loaded once."""
    return LOADED.bundle(inputs.store, model, model_key(inputs.store.model_card(model)), inputs.report)


def _both(
    inputs: Inputs,
    request: RosterRequest | ExaminationRequest | Place | FeatureRequest | CredibilityRequest | PaceRequest,
) -> tuple[ModelBundle, Dataset]:
    return _bundle(inputs, request.model), inputs.store.dataset(request.data)


def _roster(inputs: Inputs, request: RosterRequest) -> None:
    from engine import rosters

    if not inputs.store.records.has("roster", inputs.key):
        bundle, dataset = _both(inputs, request)
        found = rosters.attack_class(bundle, dataset, request, inputs.report)
        inputs.store.records.write("roster", inputs.key, found)


def _examination(inputs: Inputs, request: ExaminationRequest) -> None:
    from engine import examination

    if not inputs.store.records.has("examination", inputs.key):
        bundle, dataset = _both(inputs, request)
        found, maps = examination.examine(bundle, dataset, request, inputs.report)
        keyed = dataclasses.replace(found, key=inputs.key)
        inputs.store.records.write("examination", inputs.key, keyed, extras={"maps": _for_the_screen(maps)})


def _for_the_screen(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(one, dtype=np.float16) for name, one in maps.items()}


def _certificate(inputs: Inputs, request: CertificatePart) -> None:
    from engine.proving import certificates

    if request.part not in PARTS:
        raise BadInput(f"A certificate has no part called '{request.part[:80]}'. Known: {', '.join(PARTS)}.")
    if inputs.store.records.has("certificate", inputs.key):
        return
    examined = inputs.store.records.read("examination", request.examination, Examination)
    bundle, dataset = _both(inputs, examined.request)
    found: Certificates = certificates.part(request.part, bundle, dataset, examined, inputs.report)
    inputs.store.records.write("certificate", inputs.key, dataclasses.replace(found, done=(request.part,)))


def _gallery(inputs: Inputs, request: Place) -> None:
    from engine.features import gallery

    if not inputs.store.records.has("gallery", inputs.key):
        bundle, dataset = _both(inputs, request)
        found: Gallery = gallery.build(bundle, dataset, inputs.report)
        inputs.store.records.write("gallery", inputs.key, found)


def _synthesis(inputs: Inputs, request: FeatureRequest) -> None:
    from engine.features import synthesis

    if inputs.store.records.has("synthesis", inputs.key):
        return
    bundle, dataset = _both(inputs, request)
    names = [site.name for site in bundle.sites]
    if request.layer not in names or not 0 <= request.channel < bundle.sites[names.index(request.layer)].channels:
        raise UnknownName("feature map", f"{request.layer}, {request.channel}", names)
    gallery = inputs.store.records.read("gallery", request.gallery, Gallery)
    place = names.index(request.layer), request.channel
    found: Synthesis = synthesis.synthesise(bundle, dataset, gallery, place, inputs.report)
    inputs.store.records.write("synthesis", inputs.key, found)


def _responses(inputs: Inputs, request: ResponsesRequest) -> None:
    from engine.features import responses

    if not inputs.store.records.has("responses", inputs.key):
        examined = inputs.store.records.read("examination", request.examination, Examination)
        bundle, dataset = _both(inputs, examined.request)
        found: Responses = responses.respond(bundle, dataset, examined, inputs.report)
        inputs.store.records.write("responses", inputs.key, found)


def _proof(inputs: Inputs, request: ProofRequest) -> None:
    from engine.proving import causal

    if not inputs.store.records.has("proof", inputs.key):
        examined = inputs.store.records.read("examination", request.examination, Examination)
        bundle, dataset = _both(inputs, examined.request)
        inputs.report(0, 0, "Putting maps back, with controls")
        found: Proof = causal.prove(bundle, dataset, examined, request.chosen, request.direction)
        inputs.store.records.write("proof", inputs.key, found)


def _study(kind: str) -> Callable[[Inputs, Any], None]:
    def compute(inputs: Inputs, request: FooledRequest | GroupProofRequest) -> None:
        from engine.proving import studies

        if not inputs.store.records.has(kind, inputs.key):
            bundle = _bundle(inputs, request.model)
            found = studies.STUDIES[kind](bundle, inputs.store.dataset(request.data), request, inputs.report)
            inputs.store.records.write(kind, inputs.key, found)

    return compute


def _credibility(inputs: Inputs, request: CredibilityRequest) -> None:
    from engine.credibility import task as credibility_task
    from engine.credibility.checking import Reference

    if inputs.store.records.has("credibility", inputs.key):
        return
    bundle, dataset = _both(inputs, request)
    name = request.reference
    reference = Reference(name, _bundle(inputs, name)) if name else None
    found = credibility_task.check(bundle, dataset, request.samples, request.epsilon, reference, inputs.report)
    inputs.store.records.write("credibility", inputs.key, found)


def _pace(inputs: Inputs, request: PaceRequest) -> None:
    from engine.blocks import pacing

    if not inputs.store.records.has("pace", inputs.key):
        bundle, dataset = _both(inputs, request)
        inputs.report(0, 0, "Measuring how fast this machine is")
        found: Pace = pacing.measure(bundle, dataset, request.method, request.threads)
        inputs.store.records.write("pace", inputs.key, found)


def _intake(inputs: Inputs, request: Place) -> None:
    from engine.intake import checks

    if not inputs.store.records.has("intake", inputs.key):
        dataset = inputs.store.dataset(request.data) if request.data else None
        subject = checks.stored(inputs.store, _bundle(inputs, request.model))
        found: IntakeReport = checks.check(subject, dataset, inputs.report)
        inputs.store.records.write("intake", inputs.key, found)


def _take_model(inputs: Inputs, request: ModelTask) -> None:
    from engine.intake import taking

    inputs.report(0, 0, "Adding a model")
    _taken(inputs, taking.model(inputs.store, request))


def _take_data(inputs: Inputs, request: DataTask) -> None:
    from engine.intake import taking

    inputs.report(0, 0, "Adding a data set")
    _taken(inputs, taking.data(inputs.store, request))


def _taken(inputs: Inputs, found: Taken) -> None:
    if not inputs.store.records.has("taken", inputs.key):
        inputs.store.records.write("taken", inputs.key, found)


def _demo(inputs: Inputs, request: Nothing) -> None:  # noqa: ARG001 (every computation is called the same way)
    from engine import demo

    inputs.report(0, 0, "Adding the demo's models and images")
    demo.install(inputs.store)


def _shard(inputs: Inputs, request: ShardRequest) -> None:
    from engine.blocks import shard

    def bundle(name: str) -> ModelBundle:
        return _bundle(inputs, name)

    shard.make(inputs.store, bundle, (request.run, request.condition, request.block), inputs.report)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task."""

    request: type
    compute: Callable[[Inputs, Any], None]


KINDS: Final[dict[str, Kind]] = {
    "roster": Kind(RosterRequest, _roster),
    "examination": Kind(ExaminationRequest, _examination),
    "certificate": Kind(CertificatePart, _certificate),
    "gallery": Kind(Place, _gallery),
    "synthesis": Kind(FeatureRequest, _synthesis),
    "responses": Kind(ResponsesRequest, _responses),
    "proof": Kind(ProofRequest, _proof),
    **{kind: Kind(GroupProofRequest if kind == "group-proof" else FooledRequest, _study(kind)) for kind in STUDIES},
    "credibility": Kind(CredibilityRequest, _credibility),
    "pace": Kind(PaceRequest, _pace),
    "intake": Kind(Place, _intake),
    "take-model": Kind(ModelTask, _take_model),
    "take-data": Kind(DataTask, _take_data),
    "demo": Kind(Nothing, _demo),
    "shard": Kind(ShardRequest, _shard),
}
