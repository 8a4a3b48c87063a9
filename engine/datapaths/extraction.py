"""One datapath from one case: score the maps, try real transplants of growing size, keep the smallest that carries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import connections, tracing
from engine.datapaths import choosing, scores, trials
from engine.datapaths.cases import Case, References
from engine.datapaths.scores import Contributions
from engine.methods import TWO_RUN, Method
from engine.models.bundle import ModelBundle
from engine.records import Datapath
from engine.selection import SIZES
from engine.tracing import PerMap

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

    found = scores.batched(bundle, len(case.images), scored)
    return found.scores, found.passes


def with_edges(bundle: ModelBundle, case: Case, references: References, *, method: Method, seed: int) -> Extracted:
    """Return the scores of a method and the connections of the two-run passes, which every method shares."""
    found = _between_runs(bundle, case, references, with_edges=True)
    if method == TWO_RUN:
        return found
    own, passes = score(bundle, case, references, method=method, seed=seed)
    return Extracted(own, found.matrices, found.completeness, found.passes + passes)


def datapath(bundle: ModelBundle, case: Case, references: References, per_map: PerMap, *, method: Method) -> Datapath:
    """Return the record of a datapath, with the sizes really tried: none where every reference answers the target anyway."""
    if method.baseline == "references":
        tried = _transplant_sizes(bundle, case, references, per_map)
    else:
        tried = _kept_sizes(bundle, case, per_map)
    return _record(case, references, per_map, method, tried)


def floor(case: Case, references: References, per_map: PerMap, *, method: Method) -> Datapath:
    """Return the record of a control's datapath, which others are measured against: no sizes are tried of it."""
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


def claim_sizes(bundle: ModelBundle) -> tuple[int, ...]:
    """Return the sizes to try: `SIZES` up to `LARGEST_SIZE` and to half of the claimable maps."""
    most = min(LARGEST_SIZE, int(choosing.claimable(bundle).sum()) // 2)
    return tuple(size for size in SIZES if size <= most) or (max(1, most),)


def two_run(bundle: ModelBundle, case: Case, references: References, _seed: int) -> Contributions:
    """Return the joint mask integrated gradients against the references, mean over these."""
    found = _between_runs(bundle, case, references, with_edges=False)
    return Contributions(found.scores, {}, found.passes)


Scorer = Callable[[ModelBundle, Case, References, int], Contributions]
"""From bundle, case, references and seed to scores per site (images, channels)."""


def scorer(method: Method) -> Scorer:
    """Return what computes a method."""
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
        question = scores.Question(block.images[own], targets, rivals.masked_fill(rivals == targets, -1))
        donor = tracing.record(bundle, block.images).rows(own)
        found = scores.into_runs(bundle, question, references.images[other], donor, taps=wanted)
        gathered.append(found.scores)
        passes += found.passes
        if with_edges:
            edges = connections.between(bundle, question.images, references.images[other], found.gradients)
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
    sizes, shown = claim_sizes(bundle), trials.can_show(case, references)
    if not bool(shown.any()):
        return (), ()
    choices = [choosing.largest(bundle, per_map, size) for size in sizes]
    carried = trials.carried(bundle, case, references, choices)[:, shown]
    return sizes, tuple(carried.float().mean(dim=1).tolist())


def _kept_sizes(bundle: ModelBundle, case: Case, per_map: PerMap) -> tuple[tuple[int, ...], tuple[float, ...]]:
    # Ranked without the sign, as everywhere: signed rankings also pass when aimed at a wrong class (measured).
    strengths = tuple(site.abs() for site in per_map)
    sizes, shares = [], []
    for share in KEPT_SHARES:
        chosen = choosing.share_of_each_site(strengths, share)
        sizes.append(int(sum(site[0].sum() for site in chosen)))
        shares.append(float(trials.survives(bundle, case, chosen).float().mean()))
    return tuple(sizes), tuple(shares)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
