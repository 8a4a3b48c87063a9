"""What computes each task: from a request to its record. Loaded in workers and commands only, for it loads torch."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine import demo as demo_store
from engine.attribution import explain
from engine.audit import compute, stored_images
from engine.audit import held_out as held_outs
from engine.audit import manifest as manifests
from engine.audit import rebuild as rebuilding
from engine.checks import attacks
from engine.checks import model as checks
from engine.checks.attacks import Reference
from engine.data import csv_table, register, sources
from engine.features import dose_response, visualization
from engine.features import gallery as galleries
from engine.features import matching as matchings
from engine.models import register as models
from engine.patching import causal, evaluate, faithfulness, measures, minimal, subjects, trials
from engine.service import registry
from engine.service.tasks import EXPLANATION, GALLERY
from engine.service.worker import Bench, Kept
from engine.specs import catalogue
from engine.specs.of_run import OfRun
from engine.store import Store
from engine.types.checks import AttackSanity, FeatureVisualization, Responses, ValidationReport
from engine.types.core import AttackResults, AttackResultsRequest, Explanation, ExplanationRequest, Gallery
from engine.types.faithfulness import Faithfulness
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
from engine.types.run_studies import HeldOutRequest, HeldOutTest, MapMatching, MatchRequest, RebuildRequest, Rebuilt


def model(store: Store, task: ModelTask) -> Taken:
    """Add a model; raises BadInput, UnknownName and Unsupported, and then nothing is stored."""
    order = task.order
    weights = registry.unchanged(task.weights, order.entry)
    classes = _classes(store, order.classes, task.classes)
    declared = models.declared(order)
    submission = models.Submission(
        order.name, order.architecture, weights, classes, declared, weights.name, order.licence
    )
    added = models.add(store, submission)
    return Taken(added.card.name, added.notes)


def data(store: Store, task: DataTask) -> Taken:
    """Add a data set; raises BadInput, and then nothing is stored."""
    order = task.order
    if order.epsilon:
        catalogue.attack_at("pgd-linf", order.epsilon)
    classes = _classes(store, order.classes, task.classes) if order.classes else None
    images = _images(task, classes)
    card = register.add(store, order.name, images, source=task.kind, epsilon=order.epsilon, licence=order.licence)
    return Taken(card.name, card.warnings)


def _images(task: DataTask, classes: tuple[str, ...] | None) -> sources.Images:
    order = task.order
    source, size = registry.unchanged(task.source, order.entry), models.size(order.size)
    sources.check_options(task.kind, size, order.first_label)
    if task.kind == "npz":
        return sources.read_npz(source, classes, first_label=order.first_label)
    if task.images is not None:
        columns = csv_table.Columns(first_label=order.first_label)
        return csv_table.read(source, registry.unchanged(task.images, order.images or ""), columns, classes, size=size)
    return sources.read_folder(source, classes, size=size)


def _classes(store: Store, named: str, path: str | None) -> tuple[str, ...]:
    """Return the class names of a text file, or of a stored data set named as `data:NAME`."""
    if path is not None:
        return sources.read_classes(registry.unchanged(path, named))
    return store.data_card(named.removeprefix("data:")).classes


def attack_results(bench: Bench, request: AttackResultsRequest) -> AttackResults:
    """Attack every image of a class, or read how those of a run ended."""
    if isinstance(request.attack, OfRun):
        return stored_images.attack_results(bench.store, request, request.attack)
    return explain.attack_class(*bench.both(request), request, bench.report)


def explanation(bench: Bench, request: ExplanationRequest) -> Kept[Explanation]:
    """Explain a pair or a small group; its feature maps are kept beside it in half precision, for the screen."""

    def kept(result: Explanation, maps: explain.Overviews) -> Kept[Explanation]:
        halved = {name: np.asarray(one, dtype=np.float16) for name, one in maps.items()}
        return Kept(dataclasses.replace(result, key=bench.key), {"maps": halved})

    def publish(result: Explanation, maps: explain.Overviews) -> None:
        bench.publish(EXPLANATION, kept(result, maps))

    return kept(*explain.explain(*bench.both(request), request, bench.report, publish))


def faithfulness_part(bench: Bench, request: FaithfulnessRequest) -> Faithfulness:
    """Check one part of how far an explanation can be trusted."""
    explained = bench.stored(EXPLANATION, request.explanation)
    part = faithfulness.part(request.part, *bench.both(explained.request), explained, bench.report)
    return dataclasses.replace(part, done=(request.part,))


def gallery(bench: Bench, request: Place) -> Gallery:
    """Collect the crops of a data set that each feature map contributes most on."""
    return galleries.build(*bench.both(request), bench.report)


def feature_visualization(bench: Bench, request: FeatureRequest) -> FeatureVisualization:
    """Make the picture that excites a feature map."""
    bundle, dataset = bench.both(request)
    place = [site.name for site in bundle.sites].index(request.layer), request.channel
    return visualization.visualize(bundle, dataset, bench.stored(GALLERY, request.gallery), place, bench.report)


def responses(bench: Bench, request: ResponsesRequest) -> Responses:
    """Attack the images of an explanation at other strengths."""
    explained = bench.stored(EXPLANATION, request.explanation)
    return dose_response.respond(*bench.both(explained.request), explained, bench.report)


def causal_test(bench: Bench, request: CausalTestRequest) -> CausalTest:
    """Put chosen maps of an explanation's one run into the other, with every control."""
    explained = bench.stored(EXPLANATION, request.explanation)
    bundle, dataset = bench.both(explained.request)
    bench.report(0, 0, "Putting maps back, with controls")
    return causal.intervene(bundle, dataset, explained, request.chosen, request.direction)


def group_test(bench: Bench, request: GroupTestRequest) -> CausalTest:
    """Put chosen maps back in every image of a group that the attack fools."""
    return causal.intervene_in_group(*bench.both(request), request, bench.report)


def smallest(bench: Bench, request: FooledRequest) -> SmallestSets:
    """Search the smallest sets of maps that restore the label."""
    return minimal.find(*bench.both(request), request, bench.report)


def smallest_within(bench: Bench, request: SmallestRequest) -> SmallestSets:
    """Search the smallest sets of maps that restore the label for as long as was asked for."""
    return minimal.find(*bench.both(request), request.group, bench.report, request.passes)


def curve(bench: Bench, request: FooledRequest) -> RestorationCurve:
    """Put growing numbers of maps back."""
    return causal.curve(*bench.both(request), request, bench.report)


def profile(bench: Bench, request: FooledRequest) -> SiteProfile:
    """Put a few maps of each layer back alone."""
    return causal.profile(*bench.both(request), request, bench.report)


def localisation(bench: Bench, request: FooledRequest) -> LocalisationStudy:
    """Localise the attack layer by layer in the fooled images of a group."""
    return measures.localise(*bench.both(request), request, bench.report)


def faithfulness_curve(bench: Bench, request: FooledRequest) -> FaithfulnessStudy:
    """Measure the faithfulness of growing sets of maps."""
    return measures.study(*bench.both(request), request, bench.report)


def evaluation(bench: Bench, request: EvaluateRequest) -> Evaluation:
    """Ask every method the same questions of the same images."""
    return evaluate.run(*bench.both(request), request.settings, bench.report)


def strongest(bench: Bench, request: StrongestRequest) -> MapSet:
    """Find the channels with the most attack conductance over a group; raises BadSetting for more than the network has."""
    return trials.strongest(subjects.gather_group(*bench.both(request), request.group), request.count, request.ranking)


def correct(bench: Bench, request: CorrectRequest) -> CorrectImages:
    """Find correctly classified images."""
    return CorrectImages(subjects.right(*bench.both(request), request.count, first=request.first).samples)


def defence(bench: Bench, request: FooledRequest) -> Defence:
    """Try maps found on half of a group on the other half."""
    return causal.hint(*bench.both(request), request, bench.report)


def attack_sanity(bench: Bench, request: AttackSanityRequest) -> AttackSanity:
    """Check whether attacks on a model can be believed."""
    bundle, dataset = bench.both(request)
    name = request.reference
    reference = Reference(name, bench.bundle(name)) if name else None
    return attacks.check_samples(bundle, dataset, request.samples, request.epsilon, reference, bench.report)


def matching(bench: Bench, request: MatchRequest) -> MapMatching:
    """Match the feature maps of two models."""
    bundles = bench.bundle(request.model), bench.bundle(request.baseline)
    return matchings.match(bundles, bench.store.dataset(request.data), request, bench.report)


def held_out(bench: Bench, request: HeldOutRequest) -> HeldOutTest:
    """Rank feature maps on one half of a run's fooled images, and patch the first of them in the other half."""
    place = manifests.place(bench.store.root, request.run)
    manifest, halves = manifests.read(place), held_outs.halves(place, request)
    condition = held_outs.condition_of(manifest, request)
    bundle, dataset = bench.bundle(manifest.model(condition.role).name), bench.store.dataset(manifest.images.data)
    compute.require_same(manifest, condition, bundle, dataset)
    eligible = {site.name for site in bundle.sites if site.is_eligible}
    chosen = held_outs.strongest(place, request, halves.ranking, eligible, bench.report)
    samples = tuple(manifest.images.samples[k] for k in halves.tested)
    group = FooledRequest(bundle.name, manifest.images.data, condition.attack, samples, manifest.plan.seed)
    test = causal.intervene_in_group(bundle, dataset, GroupTestRequest(group, chosen, "restore"), bench.report)
    return HeldOutTest(len(halves.ranking), len(halves.held_out), test)


def rebuild(bench: Bench, request: RebuildRequest) -> Rebuilt:
    """Put back the damaged files of a run's result."""
    return Rebuilt(rebuilding.rebuild(bench.store.root, request.run, bench.report))


def pace(bench: Bench, request: PaceRequest) -> Pace:
    """Measure how fast this machine attacks and scores."""
    bundle, dataset = bench.both(request)
    bench.report(0, 0, "Measuring how fast this machine is")
    return compute.measure_pace(bundle, dataset, request.method, request.threads)


def validation(bench: Bench, request: Place) -> ValidationReport:
    """Check a stored model."""
    dataset = bench.store.dataset(request.data) if request.data else None
    subject = checks.stored(bench.store, bench.bundle(request.model))
    return checks.check(subject, dataset, bench.report)


def take_model(bench: Bench, request: ModelTask) -> Taken:
    """Add a model from the import folder."""
    bench.report(0, 0, "Adding a model")
    return model(bench.store, request)


def take_data(bench: Bench, request: DataTask) -> Taken:
    """Add a data set from the import folder."""
    bench.report(0, 0, "Adding a data set")
    return data(bench.store, request)


def demo(bench: Bench, request: Nothing) -> Nothing:
    """Add the demo's models and images."""
    bench.report(0, 0, "Adding the demo's models and images")
    demo_store.install(bench.store)
    return request


def shard(bench: Bench, request: ShardRequest) -> Nothing:
    """Make one block of images of a run under one condition."""
    compute.make(bench.store, bench.bundle, (request.run, request.condition, request.block), bench.report)
    return Nothing()
