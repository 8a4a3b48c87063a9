"""A hint for a defence: do the maps that restore one half of a group help the other half, and what would fixing them cost?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine import controls, statistics, tracing
from engine.attacks.attacked import AttackedImages
from engine.datapaths import cases
from engine.errors import BadInput
from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.proving import exchanges, flows, interventions, smallest
from engine.proving import fooled as fooled_images
from engine.proving.interventions import Means
from engine.records.restoration import Accuracy, Defence, FooledRequest, MeanKind
from engine.statistics import Estimate
from engine.store.dataset import Dataset

DRAWS = 20
"""Random sets."""
CLEAN_IMAGES = 256
"""Clean images on which the cost is counted, evenly spread over those that the maps were not found on."""
MEANS: MeanKind = "position"


def hint(
    bundle: ModelBundle,
    dataset: Dataset,
    request: FooledRequest,
    report: Report,
    means: MeanKind = MEANS,
) -> Defence:
    """Return whether the set found on every other image of a request helps the images between, and what fixing it costs.

    Raises BadInput where one of the halves holds no fooled image.
    """
    half, rest = (replace(request, samples=request.samples[k::2]) for k in range(2))
    if not rest.samples:
        raise BadInput("A defence is tried on other images than it was found on: at least two are needed.")
    report(0, 3, "Searching on one half")
    searched = fooled_images.gather(bundle, dataset, half)
    pairs = exchanges.exchanges(searched, "restore")
    found = smallest.for_all(pairs, flows.attack_flow(searched), smallest.WANTED)
    report(1, 3, "Attacking the other half")
    attacked = fooled_images.attack(bundle, dataset, rest)
    held_out = fooled_images.of_attacked(bundle, dataset, rest, attacked)
    pairs = exchanges.exchanges(held_out, "restore")
    chosen = exchanges.mask(bundle, found.chosen)
    drawn = controls.random_ranks(bundle, DRAWS, 1, request.seed) < int(chosen.sum())
    images = held_out.images.count
    report(2, 3, "Fixing maps to their means")
    fixed = interventions.means(bundle, dataset, means)
    trial = _Trial(bundle, fixed, torch.cat([chosen[None], drawn[:, 0]]))
    return Defence(
        searched=fooled_images.group(searched, len(half.samples)),
        shared=found,
        held_out=fooled_images.group(held_out, len(rest.samples)),
        own_values=pairs.tried(chosen.expand(1, images, -1)).effect(held_out.true),
        own_values_random=pairs.tried(drawn.expand(-1, images, -1)).effect(held_out.true),
        means=means,
        mean_images=fixed.images,
        adversarial=trial.on_attacked(attacked),
        clean=trial.on_clean(dataset, frozenset(half.samples)),
        draws=DRAWS,
    )


class _Trial:
    """Answers of the network with maps fixed to their means: the chosen ones first, then as many random ones."""

    def __init__(self, bundle: ModelBundle, means: Means, choices: Tensor) -> None:
        self.bundle, self.means, self.choices = bundle, means, choices

    def on_attacked(self, attacked: AttackedImages) -> Accuracy:
        """On attacked images that were right before the attack."""
        return self._accuracy(attacked.adversarial, attacked.before)

    def on_clean(self, dataset: Dataset, without: frozenset[str]) -> Accuracy:
        """On clean images of all classes."""
        left = [k for k, key in enumerate(dataset.keys) if key not in without]
        rows = np.array(left)[np.linspace(0, len(left) - 1, min(CLEAN_IMAGES, len(left))).astype(int)]
        truth = torch.as_tensor(cases.labels(self.bundle, dataset)[rows], device=self.bundle.device)
        return self._accuracy(cases.load(self.bundle, dataset, tuple(dataset.keys[k] for k in rows)), truth)

    @torch.no_grad()
    def _accuracy(self, pictures: Tensor, truth: Tensor) -> Accuracy:
        def hits(rows: Tensor) -> Tensor:
            part = pictures[rows]
            labels = [self.bundle.logits(part).argmax(1), *(self._labels(part, choice) for choice in self.choices)]
            return torch.stack(labels) == truth[rows]

        before, after, *random = tracing.batched(self.bundle, len(pictures), hits, dim=1).cpu()
        return _accuracy(before.numpy(), after.numpy(), torch.stack(random))

    def _labels(self, pictures: Tensor, chosen: Tensor) -> Tensor:
        with interventions.replacing(self.bundle, tracing.split(chosen[None], self.bundle), self.means.maps):
            return self.bundle.logits(pictures).argmax(1)


def _accuracy(before: np.ndarray, after: np.ndarray, random: Tensor) -> Accuracy:
    """From (images,) bool before and after, and (draws, images) bool with as many random maps fixed."""
    return Accuracy(
        before=statistics.proportion(before),
        after=statistics.proportion(after),
        change=_paired(after, before),
        random=exchanges.share(random),
        beyond_random=statistics.mean_of_several(after - random.double().mean(dim=0).numpy()),
    )


def _paired(first: np.ndarray, second: np.ndarray) -> Estimate:
    counts = [int(np.sum((first == a) & (second == b))) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
    return statistics.paired_difference(*counts)
