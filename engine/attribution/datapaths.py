"""From scores to datapaths: selection, transfer trials, groups of images and their held-out halves."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import statistics
from engine.attribution import baselines, scorers
from engine.attribution import edges as connections
from engine.attribution.baselines import Case, References
from engine.attribution.scorers import Contributions
from engine.errors import BadInput
from engine.models import hooks
from engine.models.hooks import PerMap, Trace
from engine.models.network import ModelBundle
from engine.specs.methods import TWO_RUN, Method
from engine.statistics import SIZES
from engine.store.store import Dataset
from engine.types.core import Datapath
from engine.types.faithfulness import GroupDatapath, HeldOut


def transplant_labels(
    bundle: ModelBundle, recipients: Tensor, donor: Trace, rows: tuple[Tensor, Tensor], chosen: PerMap
) -> Tensor:
    """Return the labels (trials,) of recipient images with chosen maps of donor runs in them.

    rows: (trials,) indices into `recipients` and into `donor`; chosen: per site (trials, channels) bool.
    """
    into, out_of = rows

    def labels(part: Tensor) -> Tensor:
        picked = tuple(site[part] for site in chosen)
        return hooks.transplanted(bundle, recipients[into[part]], picked, donor.maps, out_of[part]).argmax(1)

    return hooks.batched(bundle, len(into), labels)


def gate_labels(bundle: ModelBundle, images: Tensor, rows: Tensor, gates: PerMap) -> Tensor:
    """Return the labels (trials,) of images under gates with a zero baseline; gates per site (trials, channels)."""

    def labels(part: Tensor) -> Tensor:
        return hooks.gated(bundle, images[rows[part]], tuple(site[part] for site in gates)).argmax(1)

    return hooks.batched(bundle, len(rows), labels)


def share_carried(bundle: ModelBundle, case: Case, references: References, choices: Sequence[PerMap]) -> Tensor:
    """Return (choices, images, references) bool: whether copying the chosen maps gives the reference the image's target.

    choices: each per site (images, channels) bool. All of them go in one row of trials: four references fill no batch.
    """
    result, count = [], len(choices)
    for block, rows in case.blocks(bundle, references):
        out_of, into = block.pairs(references)
        chosen = tuple(torch.cat([site[rows[out_of]] for site in sites]) for sites in zip(*choices, strict=True))
        donor = hooks.record(bundle, block.images)
        trials = into.repeat(count), out_of.repeat(count)
        labels = transplant_labels(bundle, references.images, donor, trials, chosen)
        result.append((labels.view(count, -1) == block.targets[out_of]).view(count, len(rows), -1))
    return torch.cat(result, dim=1)


def can_show(case: Case, references: References) -> Tensor:
    """Return (images, references) bool: the reference does not answer the image's target anyway.

    A blurred copy may, in place of images of a third class: whatever is copied into it, the label seems carried.
    """
    return references.labels[None, :] != case.targets[:, None]


def survives(bundle: ModelBundle, case: Case, chosen: PerMap) -> Tensor:
    """Return (images,) bool: whether the target is still the answer when only the chosen maps are kept."""
    gates = tuple(site.float() for site in chosen)
    return gate_labels(bundle, case.images, torch.arange(len(case.images)), gates) == case.targets


def one_site_gates(bundle: ModelBundle, scores: PerMap, share: float) -> PerMap:
    """Return gates (images * sites, channels), image-major: trial (i, s) keeps site s's top share by |score|, all else whole."""
    images, sites = len(scores[0]), len(bundle.sites)
    kept = scorers.share_of_each_site(tuple(site.abs() for site in scores), share)
    gates = []
    for k in range(sites):
        gate = torch.ones(images, sites, scores[k].shape[1], device=bundle.device)
        gate[:, k] = kept[k].float()
        gates.append(gate.flatten(0, 1))
    return tuple(gates)


CONDUCTANCE_STEPS = 10


def mask(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return the trained mask that keeps the output."""
    return Contributions(scorers.train(bundle, case, seed=seed), {}, scorers.PASSES * len(case.images))


def sigmoid(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return the mask that is trained with a penalty on its size."""
    return scorers.sigmoid(bundle, case, seed=seed)


def gates(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the gates of distillation-guided routing."""
    return scorers.gates(bundle, case)


def quadratic(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the shares of the quadratic choice."""
    return scorers.quadratic(bundle, case)


def conductance(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the conductance from the mean colour."""
    # Zero at the network's own input, where captum starts too; from black it finds worse datapaths (measured).
    starts = torch.zeros_like(case.images) + bundle.mean
    return scorers.conductance(bundle, _alone(case), starts, steps=CONDUCTANCE_STEPS)


def gradient(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the sum of |gradient x activation|."""
    return scorers.at_once(bundle, _alone(case))


def activation(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the mean of |activation|."""
    maps = hooks.record(bundle, case.images).maps
    return Contributions(tuple(site.abs().mean(dim=(2, 3)) for site in maps), {}, len(case.images))


def random(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return a random order, each image's own."""
    drawn = scorers.uniform(case.images, sum(site.channels for site in bundle.sites), seed=seed)
    return Contributions(hooks.split(drawn, bundle), {}, 0)


def _alone(case: Case) -> scorers.Question:
    """The plain logit of each image's target."""
    return scorers.Question(case.images, case.targets, torch.full_like(case.targets, -1))


ENOUGH = 0.9
"""Share of references (images) that must be carried before a size is said to carry."""
KEPT_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
LARGEST_SIZE = 128


@dataclass(frozen=True, eq=False, slots=True)
class Extracted:
    """Scores of a case with what came along in the same passes."""

    scores: PerMap
    """Per site (images, channels)."""
    matrices: dict[tuple[int, int], Tensor]
    """Edges per link, mean over images and references."""
    completeness: dict[int, float]
    passes: int


def score(bundle: ModelBundle, case: Case, references: References, *, method: Method, seed: int) -> tuple[PerMap, int]:
    """Return the scores of a method, per site (images, channels), and the image-passes used.

    Images do not influence each other, whatever goes through the network together. Where the network does not answer a
    case's target, the method is aimed at it, if it can be (`Method.takes_aim`).
    """
    compute = scorer(method)

    def scored(rows: Tensor) -> Contributions:
        return compute(bundle, case.rows(rows), references, seed)

    contributions = scorers.batched(bundle, len(case.images), scored)
    return contributions.scores, contributions.passes


def with_edges(bundle: ModelBundle, case: Case, references: References, *, method: Method, seed: int) -> Extracted:
    """Return the scores of a method and the connections of the two-run passes, which every method shares."""
    extracted = connected(bundle, case, references)
    if method == TWO_RUN:
        return extracted
    own, passes = score(bundle, case, references, method=method, seed=seed)
    return Extracted(own, extracted.matrices, extracted.completeness, extracted.passes + passes)


def connected(bundle: ModelBundle, case: Case, references: References) -> Extracted:
    """Return the two-run scores of a case with its connections."""
    return _between_runs(bundle, case, references, with_edges=True)


def datapath(bundle: ModelBundle, case: Case, references: References, per_map: PerMap, *, method: Method) -> Datapath:
    """Return the record of a datapath, with the sizes really tried: none where every reference answers the target anyway."""
    if method.baseline == "references":
        tried = _transplant_sizes(bundle, case, references, per_map)
    else:
        tried = _kept_sizes(bundle, case, per_map)
    return _record(case, references, per_map, method, tried)


def unsized(case: Case, references: References, per_map: PerMap, *, method: Method) -> Datapath:
    """Return the record of a datapath of which no sizes are tried: of a control, or before they are."""
    return _record(case, references, per_map, method, ((), ()))


def _record(
    case: Case,
    references: References,
    per_map: PerMap,
    method: Method,
    tried: tuple[tuple[int, ...], tuple[float, ...]],
) -> Datapath:
    sizes, shares = tried
    return Datapath(
        method=method,
        target=int(case.targets.mode().values),
        baseline=references.kind if method.baseline == "references" else "zero",
        scores=tuple(_frozen(site.float().cpu().numpy()) for site in per_map),
        sizes=sizes,
        carried=shares,
        carries_at=smallest_lasting(sizes, shares),
        converged=all(bool(torch.isfinite(site).all()) for site in per_map),
    )


def smallest_lasting(sizes: tuple[int, ...], shares: tuple[float, ...]) -> int | None:
    """Return the smallest size from which on every share is at least `ENOUGH`, or None."""
    for k, size in enumerate(sizes):
        if all(share >= ENOUGH for share in shares[k:]):
            return size
    return None


def claim_sizes(bundle: ModelBundle, largest: int = LARGEST_SIZE) -> tuple[int, ...]:
    """Return the sizes to try: `SIZES` up to the largest one and to half of the claimable maps."""
    most = min(largest, int(scorers.eligible(bundle).sum()) // 2)
    return tuple(size for size in SIZES if size <= most) or (max(1, most),)


def two_run(bundle: ModelBundle, case: Case, references: References, _seed: int) -> Contributions:
    """Return the joint mask integrated gradients against the references, mean over these."""
    extracted = _between_runs(bundle, case, references, with_edges=False)
    return Contributions(extracted.scores, {}, extracted.passes)


def geometric_mean(
    parts: tuple[Method, ...], bundle: ModelBundle, case: Case, references: References, seed: int
) -> Contributions:
    """Return the geometric mean of the |scores| of some methods: a map is strong where all of them say so.

    A factor that a method's scores share changes no order, so nothing is scaled before.
    """
    results = [scorer(part)(bundle, case, references, seed) for part in parts]
    logs = [sum(site.abs().log() for site in sites) for sites in zip(*(item.scores for item in results), strict=True)]
    scores = tuple((site / len(parts)).exp() for site in logs)
    return Contributions(scores, {}, sum(item.passes for item in results))


Scorer = Callable[[ModelBundle, Case, References, int], Contributions]
"""From bundle, case, references and seed to scores per site (images, channels)."""


def scorer(method: Method) -> Scorer:
    """Return what computes a method."""
    if method.parts:
        return functools.partial(geometric_mean, method.parts)
    module, _, name = method.scorer.partition(":")
    return getattr(importlib.import_module(module), name)


def _between_runs(bundle: ModelBundle, case: Case, references: References, *, with_edges: bool) -> Extracted:
    wanted = connections.taps(bundle) if with_edges else frozenset()
    gathered: list[PerMap] = []
    matrices: dict[tuple[int, int], Tensor] = {}
    errors: dict[int, float] = {}
    passes = 0
    total = len(case.images) * len(references.images)
    for block, _ in case.blocks(bundle, references):
        own, other = block.pairs(references)
        targets, rivals = block.targets[own], references.labels[other]
        # A blurred copy may answer the target itself: a class is no rival of its own.
        question = scorers.Question(block.images[own], targets, rivals.masked_fill(rivals == targets, -1))
        donor = hooks.record(bundle, block.images).rows(own)
        into_runs = scorers.into_runs(bundle, question, references.images[other], donor, taps=wanted)
        gathered.append(into_runs.scores)
        passes += into_runs.passes
        if with_edges:
            edges = connections.between(bundle, question.images, references.images[other], into_runs.gradients)
            for link, matrix in edges.matrices.items():
                matrices[link] = matrices.get(link, 0) + matrix / total
            for target, error in connections.completeness(edges).items():
                errors[target] = max(error, errors.get(target, 0.0))
    joined = (torch.cat(site) for site in zip(*gathered, strict=True))
    averaged = tuple(site.view(len(case.images), -1, site.shape[1]).mean(dim=1) for site in joined)
    return Extracted(averaged, matrices, errors, passes)


def _transplant_sizes(
    bundle: ModelBundle, case: Case, references: References, per_map: PerMap
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    sizes, shown = claim_sizes(bundle), can_show(case, references)
    if not bool(shown.any()):
        return (), ()
    choices = [scorers.largest(bundle, per_map, size) for size in sizes]
    carried = share_carried(bundle, case, references, choices)[:, shown]
    return sizes, tuple(carried.float().mean(dim=1).tolist())


def _kept_sizes(bundle: ModelBundle, case: Case, per_map: PerMap) -> tuple[tuple[int, ...], tuple[float, ...]]:
    # Ranked without the sign, as everywhere: signed rankings also pass when aimed at a wrong class (measured).
    strengths = tuple(site.abs() for site in per_map)
    sizes, shares = [], []
    for share in KEPT_SHARES:
        chosen = scorers.share_of_each_site(strengths, share)
        sizes.append(int(sum(site[0].sum() for site in chosen)))
        shares.append(float(survives(bundle, case, chosen).float().mean()))
    return tuple(sizes), tuple(shares)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


DRAWS = 2
"""Random sets of maps tried for each held-out image."""
CLASSES = 10
"""Classes behind a mean over classes, as far as the data set has them."""
CLASS_IMAGES = 4
"""Clean images behind the datapath of a class."""
Strength = tuple[np.ndarray, ...]
"""Per site (channels,): mean over images of |score|, each image scaled to sum to one over all sites."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How scores are made."""

    method: Method
    seed: int


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """The images a datapath is made of, and others of the same kind it is tried on."""

    name: str
    members: Case
    held_out: Case


def datapaths(
    bundle: ModelBundle, groups: Sequence[Group], references: References, baseline: Strength, recipe: Recipe
) -> tuple[GroupDatapath, ...]:
    """Return the datapaths of groups against the same references; baseline: the mean over classes (`class_mean`)."""
    return tuple(_datapath(bundle, group, references, baseline, recipe) for group in groups)


def class_mean(bundle: ModelBundle, dataset: Dataset, labels: Sequence[int], recipe: Recipe) -> Strength:
    """Return the mean over classes of each class's strength, from clean images against references of other classes.

    Classes without a correctly classified image are left out. Raises BadInput where none is left.
    """
    results = []
    for label in labels:
        case = of_classes(bundle, dataset, [label] * CLASS_IMAGES, avoid=())
        if not len(case.images):
            continue
        references = baselines.references(bundle, dataset, case, avoid=frozenset({label}), seed=recipe.seed)
        results.append(_strength(bundle, case, references, recipe))
    if not results:
        raise BadInput("No image of these classes is classified correctly, so there is no mean over classes.")
    return _read_only(np.mean(site, axis=0) for site in zip(*results, strict=True))


def some_classes(bundle: ModelBundle, dataset: Dataset, played: Iterable[int], *, seed: int) -> tuple[int, ...]:
    """Return up to `CLASSES` classes of the data set for `class_mean`: those that play a part, the others drawn by seed."""
    wanted = set(played)
    others = [int(label) for label in np.unique(baselines.labels(bundle, dataset)) if label not in wanted]
    drawn = np.random.default_rng(seed).permutation(others)[: max(0, CLASSES - len(wanted))]
    return tuple(sorted({*wanted, *drawn.tolist()}))


def of_classes(bundle: ModelBundle, dataset: Dataset, wanted: Sequence[int], *, avoid: Sequence[str]) -> Case:
    """Return clean, correctly classified images, one of each wanted class, in the data set's order, none twice.

    wanted: class indices, repeated as often as images are wanted; there are fewer images where a class has too few.
    avoid: samples to leave out.
    """
    every, barred = baselines.labels(bundle, dataset), set(avoid)
    results: dict[int, list[Tensor]] = {}
    for label in sorted(set(wanted)):
        rows = [int(k) for k in np.flatnonzero(every == label) if dataset.keys[k] not in barred]
        limit = hooks.batch_limit(bundle)
        results[label] = list(baselines.correct(bundle, dataset, rows, wanted.count(label), at_once=limit).images)
    chosen = [(label, results[label].pop(0)) for label in wanted if results[label]]
    labels = torch.tensor([label for label, _ in chosen], dtype=torch.int64, device=bundle.device)
    height, width = bundle.size
    empty = torch.empty(0, bundle.channels, height, width, device=bundle.device)
    return Case(torch.stack([image for _, image in chosen]) if chosen else empty, labels)


def halves(name: str, case: Case, *, draws: int = 1) -> Group:
    """Return the group of every other image, the rest held out. `draws` rows in a row belong to one image.

    Raises BadInput for fewer than two images.
    """
    images = len(case.images) // draws
    if images < 2:
        raise BadInput(f"Group '{name}' has {images} image(s); at least 2 are needed to hold one out.")
    of_image = torch.arange(len(case.images)) // draws
    own = (of_image % 2 == 0).nonzero()[:, 0]
    # One copy of each held-out image: more would count as images they are not.
    rest = (of_image % 2 == 1).nonzero()[::draws, 0]
    return Group(name, case.rows(own), case.rows(rest))


def of_pairs(clean: Case, adversarial: Case, noise: Case, fooled_into: Case) -> tuple[Group, ...]:
    """Return the groups of an attack: the clean images, the adversarial ones, clean ones of the fooled-into classes, noise.

    noise: same-norm copies, (images * draws) rows, image-major. The same source images are held out of the clean, the
    adversarial and the noise group. A group of fewer than two images is left out: the class may hold no more.
    """
    draws = len(noise.images) // max(1, len(clean.images))
    named = (
        ("clean", clean, 1),
        ("adversarial", adversarial, 1),
        ("fooled-into", fooled_into, 1),
        ("noise", noise, draws),
    )
    return tuple(halves(name, case, draws=each) for name, case, each in named if len(case.images) >= 2 * each)


def held_out(bundle: ModelBundle, case: Case, strength: Strength, references: References, *, seed: int) -> HeldOut:
    """Return what the strongest maps of a group do when they are filled from images that had no part in it."""
    parts = []
    for rows in torch.arange(len(case.images)).split(hooks.batch_limit(bundle)):
        parts.append(_hits(bundle, case.rows(rows), strength, references, seed))
    own, *random = np.concatenate(parts, axis=2)
    shares = [statistics.proportion(hits) for hits in own]
    return HeldOut(
        images=len(case.images),
        references=len(references.images),
        sizes=claim_sizes(bundle),
        carried=tuple(share.value for share in shares),
        low=tuple(share.low for share in shares),
        high=tuple(share.high for share in shares),
        random=tuple(float(share) for share in np.mean(random, axis=(0, 2))),
    )


def _datapath(
    bundle: ModelBundle, group: Group, references: References, baseline: Strength, recipe: Recipe
) -> GroupDatapath:
    strength = _strength(bundle, group.members, references, recipe)
    return GroupDatapath(
        name=group.name,
        method=recipe.method,
        images=len(group.members.images),
        strength=strength,
        specific=_read_only(own - mean for own, mean in zip(strength, baseline, strict=True)),
        held_out=held_out(bundle, group.held_out, strength, references, seed=recipe.seed),
    )


def _strength(bundle: ModelBundle, case: Case, references: References, recipe: Recipe) -> Strength:
    per_map, _ = score(bundle, case, references, method=recipe.method, seed=recipe.seed)
    return _read_only(statistics.strength([site.float().cpu().numpy() for site in per_map]))


def _hits(bundle: ModelBundle, case: Case, strength: Strength, references: References, seed: int) -> np.ndarray:
    """(1 + draws, sizes, images) bool: whether the label arrives, by the group's ranking and by random ones."""
    total, sizes = sum(site.channels for site in bundle.sites), claim_sizes(bundle)
    rankings = [tuple(torch.tensor(site, device=bundle.device).expand(len(case.images), -1) for site in strength)]
    for draw in range(DRAWS):
        rankings.append(hooks.split(scorers.uniform(case.images, total, seed=seed + draw), bundle))
    choices = [scorers.largest(bundle, ranking, size) for ranking in rankings for size in sizes]
    shares = share_carried(bundle, case, references, choices).float().mean(dim=2)
    return (shares >= ENOUGH).view(len(rankings), len(sizes), -1).cpu().numpy()


def _read_only(arrays: Iterable[np.ndarray]) -> Strength:
    frozen = tuple(np.ascontiguousarray(array) for array in arrays)
    for array in frozen:
        array.setflags(write=False)
    return frozen
