"""The datapath of a group of images: mean strength, what is special to its classes, and whether other images confirm it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import selection, statistics, tracing
from engine.datapaths import cases, choosing, draws, extraction, trials
from engine.datapaths.cases import Case, References
from engine.errors import BadInput
from engine.methods import Method
from engine.models.bundle import ModelBundle
from engine.records import GroupDatapath, HeldOut
from engine.store.dataset import Dataset

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
    found = []
    for label in labels:
        case = of_classes(bundle, dataset, [label] * CLASS_IMAGES, avoid=())
        if not len(case.images):
            continue
        references = cases.references(bundle, dataset, case, avoid=frozenset({label}), seed=recipe.seed)
        found.append(_strength(bundle, case, references, recipe))
    if not found:
        raise BadInput("No image of these classes is classified correctly, so there is no mean over classes.")
    return _read_only(np.mean(site, axis=0) for site in zip(*found, strict=True))


def some_classes(bundle: ModelBundle, dataset: Dataset, played: Iterable[int], *, seed: int) -> tuple[int, ...]:
    """Return up to `CLASSES` classes of the data set for `class_mean`: those that play a part, the others drawn by seed."""
    wanted = set(played)
    others = [int(label) for label in np.unique(cases.labels(bundle, dataset)) if label not in wanted]
    drawn = np.random.default_rng(seed).permutation(others)[: max(0, CLASSES - len(wanted))]
    return tuple(sorted({*wanted, *drawn.tolist()}))


def of_classes(bundle: ModelBundle, dataset: Dataset, wanted: Sequence[int], *, avoid: Sequence[str]) -> Case:
    """Return clean, correctly classified images, one of each wanted class, in the data set's order, none twice.

    wanted: class indices, repeated as often as images are wanted; there are fewer images where a class has too few.
    avoid: samples to leave out.
    """
    every, barred = cases.labels(bundle, dataset), set(avoid)
    found: dict[int, list[Tensor]] = {}
    for label in sorted(set(wanted)):
        rows = [int(k) for k in np.flatnonzero(every == label) if dataset.keys[k] not in barred]
        limit = tracing.batch_limit(bundle)
        found[label] = list(cases.correct(bundle, dataset, rows, wanted.count(label), at_once=limit).images)
    chosen = [(label, found[label].pop(0)) for label in wanted if found[label]]
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
    for rows in torch.arange(len(case.images)).split(tracing.batch_limit(bundle)):
        parts.append(_hits(bundle, case.rows(rows), strength, references, seed))
    own, *random = np.concatenate(parts, axis=2)
    shares = [statistics.proportion(hits) for hits in own]
    return HeldOut(
        images=len(case.images),
        references=len(references.images),
        sizes=extraction.claim_sizes(bundle),
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
    per_map, _ = extraction.score(bundle, case, references, method=recipe.method, seed=recipe.seed)
    return _read_only(selection.strength([site.float().cpu().numpy() for site in per_map]))


def _hits(bundle: ModelBundle, case: Case, strength: Strength, references: References, seed: int) -> np.ndarray:
    """(1 + draws, sizes, images) bool: whether the label arrives, by the group's ranking and by random ones."""
    total, sizes = sum(site.channels for site in bundle.sites), extraction.claim_sizes(bundle)
    rankings = [tuple(torch.tensor(site, device=bundle.device).expand(len(case.images), -1) for site in strength)]
    for draw in range(DRAWS):
        rankings.append(tracing.split(draws.uniform(case.images, total, seed=seed + draw), bundle))
    choices = [choosing.largest(bundle, ranking, size) for ranking in rankings for size in sizes]
    shares = trials.carried(bundle, case, references, choices).float().mean(dim=2)
    return (shares >= extraction.ENOUGH).view(len(rankings), len(sizes), -1).cpu().numpy()


def _read_only(arrays: Iterable[np.ndarray]) -> Strength:
    frozen = tuple(np.ascontiguousarray(array) for array in arrays)
    for array in frozen:
        array.setflags(write=False)
    return frozen
