"""One datapath from one case: score the maps, try real transplants of growing size, keep the smallest that carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import connections, methods, tracing
from engine.datapaths import choosing, masks, scores, trials
from engine.datapaths.cases import Case, References
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


def score(bundle: ModelBundle, case: Case, references: References, *, method: str, seed: int) -> tuple[PerMap, int]:
    """Return the scores of a method, per site (images, channels), and the image-passes used."""
    if method == "two-run":
        found = _between_runs(bundle, case, references, with_edges=False)
        return found.scores, found.passes
    if method == "mask":
        return masks.train(bundle, case, seed=seed), len(case.images) * (masks.STEPS + 1)
    if method == "gradient":
        alone = torch.full_like(case.targets, -1)
        found_once = scores.at_once(bundle, scores.Question(case.images, case.targets, alone))
        return found_once.scores, found_once.passes
    if method == "activation":
        return tuple(site.abs().mean(dim=(2, 3)) for site in tracing.record(bundle, case.images).maps), len(case.images)
    methods.method(method)
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(len(case.images), site.channels, generator=generator) for site in bundle.sites), 0


def with_edges(bundle: ModelBundle, case: Case, references: References, *, method: str, seed: int) -> Extracted:
    """Return the scores of a method and the connections of the two-run passes, which every method shares."""
    found = _between_runs(bundle, case, references, with_edges=True)
    if method == "two-run":
        return found
    own, passes = score(bundle, case, references, method=method, seed=seed)
    return Extracted(own, found.matrices, found.completeness, found.passes + passes)


def datapath(bundle: ModelBundle, case: Case, references: References, per_map: PerMap, *, method: str) -> Datapath:
    """Return the record of a datapath, with the sizes really tried."""
    baseline = methods.method(method).baseline
    if baseline == "references":
        sizes, shares = _transplant_sizes(bundle, case, references, per_map)
    else:
        sizes, shares = _kept_sizes(bundle, case, per_map)
    return Datapath(
        method=method,
        target=int(case.targets.mode().values),
        baseline=references.kind if baseline == "references" else "zero",
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


def _between_runs(bundle: ModelBundle, case: Case, references: References, *, with_edges: bool) -> Extracted:
    rows, refs = case.pairs(references)
    wanted = connections.taps(bundle) if with_edges else frozenset()
    gathered: list[PerMap] = []
    matrices: dict[tuple[int, int], Tensor] = {}
    errors: dict[int, float] = {}
    passes = 0
    for part in torch.arange(len(rows)).split(tracing.batch_limit(bundle)):
        own, other = rows[part], refs[part]
        question = scores.Question(case.images[own], case.targets[own], references.labels[other])
        found = scores.between_runs(bundle, question, references.trace.rows(other), taps=wanted)
        gathered.append(found.scores)
        passes += found.passes
        if with_edges:
            edges = connections.between(bundle, question.images, references.images[other], found.gradients)
            for link, matrix in edges.matrices.items():
                matrices[link] = matrices.get(link, 0) + matrix / len(rows)
            for target, error in connections.completeness(edges).items():
                errors[target] = max(error, errors.get(target, 0.0))
    joined = (torch.cat(site) for site in zip(*gathered, strict=True))
    averaged = tuple(site.view(len(case.images), -1, site.shape[1]).mean(dim=1) for site in joined)
    return Extracted(averaged, matrices, errors, passes)


def _transplant_sizes(
    bundle: ModelBundle, case: Case, references: References, per_map: PerMap
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    donor = tracing.record(bundle, case.images)
    sizes = claim_sizes(bundle)
    shares = []
    for size in sizes:
        chosen = choosing.largest(bundle, per_map, size)
        shares.append(float(trials.carried(bundle, case, donor, references, chosen).float().mean()))
    return sizes, tuple(shares)


def _kept_sizes(bundle: ModelBundle, case: Case, per_map: PerMap) -> tuple[tuple[int, ...], tuple[float, ...]]:
    sizes, shares = [], []
    for share in KEPT_SHARES:
        chosen = choosing.share_of_each_site(per_map, share)
        sizes.append(int(sum(site[0].sum() for site in chosen)))
        shares.append(float(trials.survives(bundle, case, chosen).float().mean()))
    return tuple(sizes), tuple(shares)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
