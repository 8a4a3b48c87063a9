"""The faithfulness table: every method asked the same questions of the same images, and how stable it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine import statistics
from engine.attribution import scorers
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, measures, trials
from engine.patching import subjects as pairing
from engine.patching.subjects import FooledGroup, FooledPairs, MatchedImages, Others
from engine.patching.trials import Ask
from engine.specs.methods import RANDOM, TWO_RUN, Method
from engine.statistics import Estimate
from engine.store.store import Dataset
from engine.types.faithfulness import ClassJaccard, RankingTable, Restore, Stability
from engine.types.patching import Evaluation, EvaluationRequest, MethodRow

SHARE = 0.2


def stability(bundle: ModelBundle, method: Method, subjects: MatchedImages, own: PerMap, *, seed: int) -> Stability:
    """Return how a method's scores `own` of the clean images hold up."""
    ask = trials.against_partners(subjects)
    redrawn = pairing.matched(bundle, subjects.samples, subjects.images, subjects.labels, seed=seed + 1)
    seeded, _ = trials.score(bundle, method, trials.against_partners(redrawn), seed=seed + 1)
    noisy = replace(ask, images=controls.shaken(subjects.images, seed))
    shaken, _ = trials.score(bundle, method, noisy, seed=_fresh(method, seed, 2))
    with hooks.weights(bundle, seed):
        scrambled, _ = trials.score(bundle, method, ask, seed=_fresh(method, seed, 3))
    kept = _kept(own, seed)
    return Stability(
        seed_jaccard=_alike(kept, _kept(seeded, seed + 1)),
        noise_jaccard=_alike(kept, _kept(shaken, seed + 2)),
        class_jaccard=between_classes(kept, subjects.labels),
        random_weights_jaccard=_alike(kept, _kept(scrambled, seed + 3)),
    )


def between_classes(kept: PerMap, labels: Tensor) -> ClassJaccard:
    """Return the similarity of datapaths within and between classes, averaged per image over all others of the kind.

    kept: per site (images, channels) bool; labels: (images,).
    """
    alike = torch.stack([_pairwise(site.float()) for site in kept]).mean(0).cpu().numpy()
    same = (labels[:, None] == labels[None]).cpu().numpy()
    mates = same & ~np.eye(len(alike), dtype=bool)
    has_mate = mates.any(axis=1)
    within = (alike * mates).sum(axis=1)[has_mate] / mates.sum(axis=1)[has_mate]
    between = (alike * ~same).sum(axis=1) / (~same).sum(axis=1)
    return ClassJaccard(statistics.mean_of_several(within), statistics.mean(between))


def _kept(per_map: PerMap, seed: int) -> PerMap:
    """The strongest fifth of every site; which of equal ones, is drawn anew for each image.

    Dead maps and copies would else be kept at the same places by every score, and read as agreement.
    """
    generator = torch.Generator().manual_seed(seed)
    results = []
    for site in per_map:
        order = torch.rand(site.shape, generator=generator).argsort(1).to(site.device)
        (kept,) = scorers.share_of_each_site((site.abs().gather(1, order),), SHARE)
        results.append(torch.zeros_like(kept).scatter(1, order, kept))
    return tuple(results)


def _alike(kept: PerMap, there: PerMap) -> Estimate:
    """Similarity of each image's kept maps with those of other scores of the same images."""
    ratios = [(a & b).sum(1) / (a | b).sum(1) for a, b in zip(kept, there, strict=True)]
    return statistics.mean(torch.stack(ratios).mean(0).cpu().numpy())


def _pairwise(kept: Tensor) -> Tensor:
    """(images, images) Jaccard similarities of rows of (images, channels) zeros and ones."""
    shared, sizes = kept @ kept.T, kept.sum(1)
    return shared / (sizes[:, None] + sizes[None] - shared)


def _fresh(method: Method, seed: int, draw: int) -> int:
    """Random scores look at nothing but their seed: each comparison draws new ones, so that it shows chance."""
    return seed + draw if method == RANDOM else seed


STEPS = ("scores", "sufficient", "transplant", "restore", "measures", "one site", "stability")

Report = Callable[[int, int, str], None]
"""Called with (done, total, message)."""


@dataclass(frozen=True, eq=False, slots=True)
class Walk:
    """What every row needs."""

    bundle: ModelBundle
    subjects: MatchedImages
    pairs: FooledPairs
    seed: int
    maps: tuple[int, ...]
    set_maps: int | None = None


def run(bundle: ModelBundle, dataset: Dataset, request: EvaluationRequest, report: Report) -> Evaluation:
    """Return the table of a request. Raises BadInput where the images do not suffice."""
    started = time.perf_counter()
    scored = 1 + len(STEPS) * len(request.methods)
    total = scored + len(request.rankings) + bool(request.rankings)
    report(0, total, "choosing and attacking images")
    subjects = pairing.choose(bundle, dataset, request.images, first=request.first, seed=request.seed)
    pairs = pairing.fooled(bundle, dataset, subjects, request.attack, request.seed)
    walk = Walk(bundle, subjects, pairs, request.seed, trials.map_counts(bundle, request.maps), request.set_maps)
    rows = []
    for k, method in enumerate(request.methods):
        steps = Steps(report, 1 + k * len(STEPS), total, method.name)
        rows.append(row(walk, method, steps))
    compared = _rankings(walk, request, lambda done, name: report(scored + done, total, f"ranking: {name}"))
    return Evaluation(
        request=request,
        model=bundle.name,
        data=dataset.card.name,
        images=len(subjects.samples),
        fooled=pairs.images.count,
        sites=len(bundle.sites),
        total_maps=sum(site.channels for site in bundle.sites),
        left_out=tuple(site.name for site in bundle.sites if not site.is_eligible),
        maps=walk.maps,
        rows=tuple(rows),
        seconds=time.perf_counter() - started,
        missing=_missing(walk),
        rankings=compared,
    )


def _rankings(walk: Walk, request: EvaluationRequest, progress: trials.Progress) -> RankingTable | None:
    if not request.rankings:
        return None
    return trials.compare(walk.bundle, walk.pairs, request.rankings, walk.maps, progress)


def _missing(walk: Walk) -> tuple[str, ...]:
    results = []
    if walk.subjects.thirds is None or walk.pairs.thirds is None:
        results.append(f"wrong class: a third class is needed, and the network has {len(walk.bundle.classes)}.")
    lacking = [
        question
        for question, strangers in (("transplant", walk.subjects.strangers), ("restore", walk.pairs.strangers))
        if strangers is None
    ]
    if lacking:
        results.append(
            f"other image ({', '.join(lacking)}): every image needs another one of a third class, correctly classified, "
            "among those looked at."
        )
    return tuple(results)


def row(walk: Walk, method: Method, steps: Steps) -> MethodRow:
    """Return one method's answers."""
    bundle, subjects = walk.bundle, walk.subjects
    ask = trials.against_partners(subjects)
    steps.next()
    started = time.perf_counter()
    own, passes = trials.score(bundle, method, ask, seed=walk.seed)
    seconds = time.perf_counter() - started
    aimed = _aimed(walk, method, ask)
    steps.next()
    sufficient = trials.sufficient(bundle, subjects, own, aimed)
    steps.next()
    carrying = trials.for_transplant(bundle, method, ask, own)
    forcing = None if aimed is None else trials.for_transplant(bundle, method, ask, aimed)
    transplant = trials.transplant(bundle, subjects, carrying, forcing, walk.maps)
    steps.next()
    ranked = trials.for_restore(bundle, method, walk.pairs, seed=walk.seed)
    restore = _restored(walk, ranked)
    joint = _restored(walk, trials.joint(bundle, walk.pairs)) if method == TWO_RUN else None
    steps.next()
    circuit = None if walk.set_maps is None else measures.measured(_group(walk), ranked[0], walk.set_maps)
    steps.next()
    one_site = trials.one_site(bundle, subjects, own)
    steps.next()
    alike = stability(bundle, method, subjects, own, seed=walk.seed)
    count = len(subjects.samples)
    return MethodRow(
        method=method,
        passes_per_image=passes / count,
        seconds_per_image=seconds / count,
        sufficient=sufficient,
        transplant=transplant,
        restore=restore,
        joint_restore=joint,
        one_site=one_site,
        stability=alike,
        measures=circuit,
    )


def _group(walk: Walk) -> FooledGroup:
    """The fooled images without other ones, which the measures do not need."""
    images = walk.pairs.images
    none = Others(images.clean[:0], images.before[:0], images.before.new_zeros(images.count, 0))
    return FooledGroup(walk.bundle, images, none, walk.seed)


def _aimed(walk: Walk, method: Method, ask: Ask) -> PerMap | None:
    """Return a method's scores aimed at the third classes, None where there are none."""
    if walk.subjects.thirds is None:
        return None
    return trials.score(walk.bundle, method, replace(ask, targets=walk.subjects.thirds), seed=walk.seed)[0]


def _restored(walk: Walk, ranked: tuple[PerMap, PerMap | None]) -> Restore:
    own, aimed = ranked
    return trials.restore(walk.bundle, walk.pairs, own, aimed, walk.maps)


class Steps:
    """Counts the steps of one method for whoever waits."""

    def __init__(self, report: Report, done: int, total: int, method: str) -> None:
        self.report, self.done, self.total, self.method = report, done, total, method
        self.step = 0

    def next(self) -> None:
        """Report the step that begins."""
        self.report(self.done + self.step, self.total, f"{self.method}: {STEPS[self.step]}")
        self.step += 1
