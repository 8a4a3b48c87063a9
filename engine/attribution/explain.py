"""The straight walk for one pair, a small group or a class: attack, score, choose, connect, compare."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import class_names, hashing
from engine.attacks import attacked as attacks
from engine.attacks import runner
from engine.attacks.attacked import AttackedImages, Batch
from engine.attribution import baselines, datapaths, edges, scorers
from engine.attribution.baselines import Case, References
from engine.attribution.datapaths import Extracted
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.specs.of_run import OfRun
from engine.specs.threat_model import Attack
from engine.store.store import Dataset
from engine.types.core import AttackResults, AttackResultsRequest, Connection, Explanation, ExplanationRequest, Outcome

Report = Callable[[int, int, str], None]
"""Called with (done, total, message)."""

Overviews = dict[str, np.ndarray]
Publish = Callable[[Explanation, Overviews], None]
"""Called once with an explanation that lacks its noise control, and its feature maps."""

FEW_AT_ONCE = 8
"""Networks that take no more images at once need seconds for a pair: 8 at 224 pixels, 4 where their maps are large."""
OVERVIEW = 32
"""Largest side of a stored feature map: larger ones are max-pooled."""
STAGES = (
    "Attacking",
    "Choosing references",
    "Clean datapath",
    "Adversarial datapath",
    "Noise control",
    "Attack conductance",
)


def explain(
    bundle: ModelBundle, dataset: Dataset, request: ExplanationRequest, report: Report, publish: Publish | None = None
) -> tuple[Explanation, Overviews]:
    """Return the explanation of a request and the feature maps to store beside it.

    publish: of a network that takes few images at once, called with both as soon as both datapaths are there. The noise
    control, which takes longer than all the rest, is then still missing (`Explanation.has_noise_control`), and no size of
    the datapaths has been tried.

    The maps are named `003/clean`, `003/adversarial` and `003/noise` (each image's first noise copy), (channels, height,
    width) float16, mean over the images, sides above `OVERVIEW` max-pooled. Raises UnknownName and BadSetting.
    """
    started = time.perf_counter()
    step = _Steps(report)
    step.next()
    pairs = attacked(bundle, dataset, request.attack, request.samples, request.seed)
    noise = noise_copies(pairs, noise_draws(pairs.count))
    step.next()
    clean, _ = sides(pairs)
    references = baselines.references(bundle, dataset, clean, avoid=attacks.played(pairs.outcomes), seed=request.seed)
    subject = _Subject(bundle, request, pairs, noise, references)
    change, overviews = _maps(bundle, pairs, noise)
    first, scores = _both_datapaths(subject, step)
    first = dataclasses.replace(first, change=_arrays(change))
    if publish is not None and is_shown_early(bundle):
        flow = flow_from(bundle, pairs, pairs.adversarial)
        first = dataclasses.replace(first, flow=_arrays(flow.scores), passes=first.passes + flow.passes)
        publish(dataclasses.replace(first, seconds=time.perf_counter() - started), overviews)
    whole = _with_noise(subject, _with_sizes(subject, first, scores), step)
    return dataclasses.replace(whole, seconds=time.perf_counter() - started), overviews


def is_shown_early(bundle: ModelBundle) -> bool:
    """Return whether an explanation takes so long that the datapaths are worth showing before their noise control."""
    return hooks.batch_limit(bundle) <= FEW_AT_ONCE


@dataclass(frozen=True, eq=False, slots=True)
class _Subject:
    """What is explained, and against what."""

    bundle: ModelBundle
    request: ExplanationRequest
    pairs: AttackedImages
    noise: Tensor
    """The noise copies, image-major."""
    references: References


def _both_datapaths(subject: _Subject, step: _Steps) -> tuple[Explanation, tuple[PerMap, PerMap]]:
    """Return the explanation as far as both rankings go, and these; no size is tried, nothing else is there."""
    bundle, request, pairs, references = subject.bundle, subject.request, subject.pairs, subject.references
    clean, adversarial = sides(pairs)
    step.next()
    of_clean = datapaths.with_edges(bundle, clean, references, method=request.method, seed=request.seed)
    step.next()
    of_adversarial = datapaths.with_edges(bundle, adversarial, references, method=request.method, seed=request.seed)
    none_yet = [torch.empty(0, site.channels, device=bundle.device) for site in bundle.sites]
    explanation = Explanation(
        key="",
        request=request,
        sites=bundle.sites,
        links=bundle.links,
        classes=class_names.handles(bundle.classes),
        outcomes=pairs.outcomes,
        clean=datapaths.unsized(clean, references, of_clean.scores, method=request.method),
        adversarial=datapaths.unsized(adversarial, references, of_adversarial.scores, method=request.method),
        noise=datapaths.unsized(clean, references, tuple(none_yet), method=request.method),
        flow=_arrays(none_yet),
        noise_flow=_arrays(none_yet),
        change=(),
        connections=_connections(bundle, references, (clean, adversarial), (of_clean, of_adversarial)),
        images=_pictures(clean=pairs.clean, adversarial=pairs.adversarial, noise=subject.noise),
        references=references.samples,
        passes=of_clean.passes + of_adversarial.passes,
    )
    return explanation, (of_clean.scores, of_adversarial.scores)


def _with_sizes(subject: _Subject, first: Explanation, scores: tuple[PerMap, PerMap]) -> Explanation:
    """Return the explanation with the smallest sizes at which its datapaths carry their answers."""
    clean, adversarial = (
        datapaths.datapath(subject.bundle, case, subject.references, per_map, method=subject.request.method)
        for case, per_map in zip(sides(subject.pairs), scores, strict=True)
    )
    return dataclasses.replace(first, clean=clean, adversarial=adversarial)


def _with_noise(subject: _Subject, first: Explanation, step: _Steps) -> Explanation:
    """Return the explanation with its noise control, and with the attack conductance where that is still missing."""
    bundle, pairs, noise, request = subject.bundle, subject.pairs, subject.noise, subject.request
    step.next()
    noisy = Case(noise, hooks.logits(bundle, noise).argmax(1))
    scores, passes = datapaths.score(bundle, noisy, subject.references, method=request.method, seed=request.seed)
    step.next()
    if len(first.flow[0]):
        flow, noise_flow = first.flow, flow_from(bundle, pairs, noise)
    else:
        attack_flow, noise_flow = flows(bundle, pairs, noise)
        flow, passes = _arrays(attack_flow.scores), passes + attack_flow.passes
    return dataclasses.replace(
        first,
        noise=datapaths.unsized(noisy, subject.references, scores, method=request.method),
        flow=flow,
        noise_flow=_arrays(noise_flow.scores),
        passes=first.passes + passes + noise_flow.passes,
    )


def _pictures(**sides: Tensor) -> dict[str, np.ndarray]:
    return {name: attacks.pixels(images) for name, images in sides.items()}


def attacked(
    bundle: ModelBundle, dataset: Dataset, attack: Attack, samples: tuple[str, ...], seed: int
) -> AttackedImages:
    """Return some samples under an attack, or as a run stored them; the seed of each image is its own."""
    labels = baselines.labels(bundle, dataset)[[dataset.row(sample) for sample in samples]]
    clean = baselines.load(bundle, dataset, samples)
    seeds = image_seeds(attack, dataset.card.content_hash, samples, seed)
    if isinstance(attack, OfRun):
        stored = attacks.pictures(dataset.stored_images(attack, samples), bundle.device)
        asked = Batch(clean, torch.as_tensor(labels, device=bundle.device), samples)
        return AttackedImages.of(clean, stored, seeds, runner.judged(bundle, asked, stored))
    rows, fellows = torch.as_tensor(labels, device=bundle.device), baselines.fellows(bundle, dataset)
    return runner.run(bundle, clean, rows, attack, seeds, samples=samples, fellows=fellows)


def noise_copies(pairs: AttackedImages, draws: int) -> Tensor:
    """Return the 8-bit same-norm noise copies (images * draws, channels, height, width), image-major."""
    return attacks.eight_bit(pairs.noisy(pairs.clean, draws))


def noise_draws(images: int) -> int:
    """Return the noise copies per image: one pair's floor is their range, a group's a mean that its images share.

    Four of a single pair, else two each, or one each from eight images on.
    """
    if images == 1:
        return 4
    return 2 if images < 8 else 1


def image_seed(attack: Attack | str, data: str, sample: str, seed: int) -> int:
    """Return the seed of one image under one attack: it depends on nothing else, so neither does the result.

    attack: or the name of a condition in which nothing is attacked.
    """
    return int(hashing.content_key((attack, data, sample, seed))[:15], 16)


def image_seeds(attack: Attack | str, data: str, samples: tuple[str, ...], seed: int) -> Tensor:
    """Return (images,) int64 the seeds of some images under one attack."""
    return torch.tensor([image_seed(attack, data, sample, seed) for sample in samples])


def flows(
    bundle: ModelBundle, pairs: AttackedImages, noise: Tensor
) -> tuple[scorers.Contributions, scorers.Contributions]:
    """Return the attack conductance of the adversarial images and, as its control, of their noise copies."""
    count = pairs.count
    copies = noise.view(count, -1, *noise.shape[1:])
    # Together: an adversarial image alone would go through at half the speed.
    both = flow_from(bundle, pairs, torch.cat([pairs.adversarial[:, None], copies], dim=1).flatten(0, 1))
    sites = [site.view(count, -1, site.shape[1]) for site in both.scores]
    share = both.passes // (len(pairs.adversarial) + len(noise))
    return (
        scorers.Contributions(tuple(site[:, 0] for site in sites), {}, share * count),
        scorers.Contributions(tuple(site[:, 1:].flatten(0, 1) for site in sites), {}, share * len(noise)),
    )


def flow_from(bundle: ModelBundle, pairs: AttackedImages, starts: Tensor) -> scorers.Contributions:
    """Return the conductance from `starts` (images * copies, channels, height, width), image-major, to the clean images."""
    rivals = torch.tensor([attacks.rival(outcome) for outcome in pairs.outcomes], device=bundle.device)
    rows = torch.arange(pairs.count).repeat_interleave(len(starts) // pairs.count)
    question = scorers.Question(pairs.clean[rows], pairs.before[rows], rivals[rows])
    return scorers.batched(
        bundle, len(rows), lambda part: scorers.conductance(bundle, question.rows(part), starts[part])
    )


def sides(pairs: AttackedImages) -> tuple[Case, Case]:
    """Return the clean images and the adversarial ones, each with what the network says of it."""
    return Case(pairs.clean, pairs.before), Case(pairs.adversarial, pairs.after)


def changes(clean: hooks.Trace, adversarial: hooks.Trace) -> hooks.PerMap:
    """Return per site (images, channels): L2 distance of each map over the mean of the two norms, 0 to 2."""
    results = []
    for a, b in zip(clean.maps, adversarial.maps, strict=True):
        distance, first, second = ((t.flatten(2).norm(dim=2)) for t in (a - b, a, b))
        results.append(2 * distance / (first + second).clamp(min=1e-6))
    return tuple(results)


def _connections(
    bundle: ModelBundle, references: References, sides: tuple[Case, Case], extracteds: tuple[Extracted, Extracted]
) -> tuple[Connection, ...]:
    last = len(bundle.sites)
    heads = [head(bundle, case, references, sides) for case in sides]
    result = []
    for link in bundle.links:
        if link.target == last:
            matrices = [head.matrices[link.source] for head in heads]
            error = max(head.completeness for head in heads)
        else:
            matrices = [side.matrices[link.source, link.target] for side in extracteds]
            error = max(side.completeness[link.target] for side in extracteds)
        clean, adversarial = _arrays(matrices)
        result.append(Connection.of((link.source, link.target), clean, adversarial, error))
    return tuple(result)


def head(bundle: ModelBundle, case: Case, references: References, sides: tuple[Case, Case]) -> edges.Head:
    """Return what the last maps add to the commonest target of either side, mean over all pairs of an image and a reference."""
    classes = torch.stack([side.targets.mode().values for side in sides])
    rows, refs = case.pairs(references)
    parts = []
    for part in torch.arange(len(rows)).split(hooks.batch_limit(bundle)):
        distinct, inverse = torch.unique(rows[part], return_inverse=True)
        run = hooks.record(bundle, case.images[distinct]).rows(inverse)
        parts.append(edges.head(bundle, run, references.trace.rows(refs[part]), classes))
    total = functools.reduce(operator.add, parts)
    means = {site: matrix / len(rows) for site, matrix in total.matrices.items()}
    return edges.Head(means, total.arriving / len(rows), total.rounding / len(rows))


def _maps(bundle: ModelBundle, pairs: AttackedImages, noise: Tensor) -> tuple[list[Tensor], Overviews]:
    """Relative changes, per site (channels,) mean over images, and the maps to store; few images' maps are kept at a time."""
    count = pairs.count
    inputs = {"clean": pairs.clean, "adversarial": pairs.adversarial, "noise": noise[:: len(noise) // count]}
    change = [torch.zeros(site.channels, device=bundle.device) for site in bundle.sites]
    means: dict[str, Tensor] = {}
    for rows in torch.arange(count).split(hooks.batch_limit(bundle)):
        runs = {name: hooks.record(bundle, pictures[rows]) for name, pictures in inputs.items()}
        for k, site in enumerate(changes(runs["clean"], runs["adversarial"])):
            change[k] += site.sum(dim=0) / count
        for name, run in runs.items():
            for k, site in enumerate(run.maps):
                means[f"{k:03d}/{name}"] = means.get(f"{k:03d}/{name}", 0) + site.sum(dim=0) / count
    return change, {name: _overview(mean) for name, mean in means.items()}


def _overview(mean: Tensor) -> np.ndarray:
    side = max(mean.shape[1:])
    if side > OVERVIEW:
        mean = F.adaptive_max_pool2d(mean, tuple(-(-s * OVERVIEW // side) for s in mean.shape[1:]))
    # Activations beyond float16 (65,504) would turn into infinities on the screen.
    return mean.clamp(-65504, 65504).half().cpu().numpy()


def _arrays(tensors: tuple[Tensor, ...] | list[Tensor]) -> tuple[np.ndarray, ...]:
    result = tuple(np.ascontiguousarray(tensor.float().cpu().numpy()) for tensor in tensors)
    for array in result:
        array.setflags(write=False)
    return result


class _Steps:
    """Counts the stages of one explanation for whoever waits."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.done = 0

    def next(self) -> None:
        self.report(self.done, len(STAGES), STAGES[self.done])
        self.done += 1


MOST = 100
"""Images of a class that are attacked; a larger class is sampled evenly."""


def attack_class(bundle: ModelBundle, dataset: Dataset, request: AttackResultsRequest, report: Report) -> AttackResults:
    """Return the outcome of every image of the class (at most `MOST`, evenly spread), in data-set order."""
    every = np.flatnonzero(baselines.labels(bundle, dataset) == request.label)
    if len(every) > MOST:
        every = every[np.linspace(0, len(every) - 1, MOST).astype(int)]
    outcomes: list[Outcome] = []
    fellows = baselines.fellows(bundle, dataset)
    for start in range(0, len(every), hooks.batch_limit(bundle)):
        report(
            start,
            len(every),
            f"Attacking {len(every)} images of '{class_names.handles(bundle.classes)[request.label]}'",
        )
        samples = tuple(dataset.keys[k] for k in every[start : start + hooks.batch_limit(bundle)])
        seeds = image_seeds(request.attack, dataset.card.content_hash, samples, request.seed)
        labels = torch.full((len(samples),), request.label, device=bundle.device)
        pictures = baselines.load(bundle, dataset, samples)
        attacked = runner.run(bundle, pictures, labels, request.attack, seeds, samples=samples, fellows=fellows)
        outcomes += attacked.outcomes
    return AttackResults(request, tuple(outcomes))
