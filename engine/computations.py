"""What computes each task: from a request to its record. Loaded in workers and commands only, for it loads torch."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine import demo as demo_store
from engine import examination as examinations
from engine import rosters
from engine.audit.paces import Pace
from engine.blocks import pacing
from engine.blocks import shard as shards
from engine.credibility import task as credibility_task
from engine.credibility.checking import Reference
from engine.evaluation import pairing
from engine.features import gallery as galleries
from engine.features import responses as response_curves
from engine.features import synthesis as syntheses
from engine.intake import checks, taking
from engine.proving import causal, certificates, curves, flows, fooled
from engine.proving import defence as fixing
from engine.proving import smallest as smallest_sets
from engine.records import Certificates, Examination, ExaminationRequest, Gallery, Roster, RosterRequest
from engine.records.credibility import Credibility
from engine.records.feature import Responses, Synthesis
from engine.records.imports import DataTask, ModelTask, Taken
from engine.records.intake import IntakeReport
from engine.records.proof import MapSet, Proof
from engine.records.requests import (
    CertificatePart,
    CredibilityRequest,
    FeatureRequest,
    Nothing,
    PaceRequest,
    Place,
    ProofRequest,
    ResponsesRequest,
    ShardRequest,
)
from engine.records.restoration import (
    CorrectImages,
    CorrectRequest,
    Defence,
    FooledRequest,
    GroupProofRequest,
    RestorationCurve,
    SiteProfile,
    SmallestSets,
    StrongestRequest,
)
from engine.tasks import EXAMINATION, GALLERY
from engine.work import Bench, Kept


def roster(bench: Bench, request: RosterRequest) -> Roster:
    """Attack every image of a class."""
    return rosters.attack_class(*bench.both(request), request, bench.report)


def examination(bench: Bench, request: ExaminationRequest) -> Kept[Examination]:
    """Explain a pair or a small group; its feature maps are kept beside it in half precision, for the screen."""
    found, maps = examinations.examine(*bench.both(request), request, bench.report)
    kept = {name: np.asarray(one, dtype=np.float16) for name, one in maps.items()}
    return Kept(dataclasses.replace(found, key=bench.key), {"maps": kept})


def certificate(bench: Bench, request: CertificatePart) -> Certificates:
    """Check one part of how far an explanation can be trusted."""
    examined = bench.stored(EXAMINATION, request.examination)
    found = certificates.part(request.part, *bench.both(examined.request), examined, bench.report)
    return dataclasses.replace(found, done=(request.part,))


def gallery(bench: Bench, request: Place) -> Gallery:
    """Collect the crops of a data set that each feature map contributes most on."""
    return galleries.build(*bench.both(request), bench.report)


def synthesis(bench: Bench, request: FeatureRequest) -> Synthesis:
    """Make the picture that excites a feature map."""
    bundle, dataset = bench.both(request)
    place = [site.name for site in bundle.sites].index(request.layer), request.channel
    return syntheses.synthesise(bundle, dataset, bench.stored(GALLERY, request.gallery), place, bench.report)


def responses(bench: Bench, request: ResponsesRequest) -> Responses:
    """Attack the images of an explanation at other strengths."""
    examined = bench.stored(EXAMINATION, request.examination)
    return response_curves.respond(*bench.both(examined.request), examined, bench.report)


def proof(bench: Bench, request: ProofRequest) -> Proof:
    """Put chosen maps of an explanation's one run into the other, with every control."""
    examined = bench.stored(EXAMINATION, request.examination)
    bundle, dataset = bench.both(examined.request)
    bench.report(0, 0, "Putting maps back, with controls")
    return causal.prove(bundle, dataset, examined, request.chosen, request.direction)


def group_proof(bench: Bench, request: GroupProofRequest) -> Proof:
    """Put chosen maps back in every image of a group that the attack fools."""
    return causal.prove_group(*bench.both(request), request, bench.report)


def smallest(bench: Bench, request: FooledRequest) -> SmallestSets:
    """Search the smallest sets of maps that restore the label."""
    return smallest_sets.find(*bench.both(request), request, bench.report)


def curve(bench: Bench, request: FooledRequest) -> RestorationCurve:
    """Put growing numbers of maps back."""
    return curves.curve(*bench.both(request), request, bench.report)


def profile(bench: Bench, request: FooledRequest) -> SiteProfile:
    """Put a few maps of each layer back alone."""
    return curves.profile(*bench.both(request), request, bench.report)


def strongest(bench: Bench, request: StrongestRequest) -> MapSet:
    """Find the maps with the most attack flow over a group; raises BadSetting for more than the network has."""
    return flows.strongest(fooled.gather(*bench.both(request), request.group), request.count)


def correct(bench: Bench, request: CorrectRequest) -> CorrectImages:
    """Find correctly classified images."""
    return CorrectImages(pairing.right(*bench.both(request), request.count, first=request.first).samples)


def defence(bench: Bench, request: FooledRequest) -> Defence:
    """Try maps found on half of a group on the other half."""
    return fixing.hint(*bench.both(request), request, bench.report)


def credibility(bench: Bench, request: CredibilityRequest) -> Credibility:
    """Check whether attacks on a model can be believed."""
    bundle, dataset = bench.both(request)
    name = request.reference
    reference = Reference(name, bench.bundle(name)) if name else None
    return credibility_task.check(bundle, dataset, request.samples, request.epsilon, reference, bench.report)


def pace(bench: Bench, request: PaceRequest) -> Pace:
    """Measure how fast this machine attacks and scores."""
    bundle, dataset = bench.both(request)
    bench.report(0, 0, "Measuring how fast this machine is")
    return pacing.measure(bundle, dataset, request.method, request.threads)


def intake(bench: Bench, request: Place) -> IntakeReport:
    """Check a stored model."""
    dataset = bench.store.dataset(request.data) if request.data else None
    subject = checks.stored(bench.store, bench.bundle(request.model))
    return checks.check(subject, dataset, bench.report)


def take_model(bench: Bench, request: ModelTask) -> Taken:
    """Add a model from the inbox."""
    bench.report(0, 0, "Adding a model")
    return taking.model(bench.store, request)


def take_data(bench: Bench, request: DataTask) -> Taken:
    """Add a data set from the inbox."""
    bench.report(0, 0, "Adding a data set")
    return taking.data(bench.store, request)


def demo(bench: Bench, request: Nothing) -> Nothing:
    """Add the demo's models and images."""
    bench.report(0, 0, "Adding the demo's models and images")
    demo_store.install(bench.store)
    return request


def shard(bench: Bench, request: ShardRequest) -> Nothing:
    """Make one block of images of a run under one condition."""
    shards.make(bench.store, bench.bundle, (request.run, request.condition, request.block), bench.report)
    return Nothing()
