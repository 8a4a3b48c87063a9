"""What really happens when maps are copied or zeroed: batched forward passes, nothing estimated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import choosing
from engine.datapaths.cases import Case, References
from engine.models.bundle import ModelBundle
from engine.tracing import PerMap, Trace


def transplant_labels(
    bundle: ModelBundle, recipients: Tensor, donor: Trace, rows: tuple[Tensor, Tensor], chosen: PerMap
) -> Tensor:
    """Return the labels (trials,) of recipient images with chosen maps of donor runs in them.

    rows: (trials,) indices into `recipients` and into `donor`; chosen: per site (trials, channels) bool.
    """
    into, out_of = rows

    def labels(part: Tensor) -> Tensor:
        picked = tuple(site[part] for site in chosen)
        return tracing.transplanted(bundle, recipients[into[part]], picked, donor.maps, out_of[part]).argmax(1)

    return tracing.batched(bundle, len(into), labels)


def gate_labels(bundle: ModelBundle, images: Tensor, rows: Tensor, gates: PerMap) -> Tensor:
    """Return the labels (trials,) of images under gates with a zero baseline; gates per site (trials, channels)."""

    def labels(part: Tensor) -> Tensor:
        return tracing.gated(bundle, images[rows[part]], tuple(site[part] for site in gates)).argmax(1)

    return tracing.batched(bundle, len(rows), labels)


def carried(bundle: ModelBundle, case: Case, references: References, choices: Sequence[PerMap]) -> Tensor:
    """Return (choices, images, references) bool: whether copying the chosen maps gives the reference the image's target.

    choices: each per site (images, channels) bool. All of them go in one row of trials: four references fill no batch.
    """
    found, count = [], len(choices)
    for block, rows in case.blocks(bundle, references):
        out_of, into = block.pairs(references)
        chosen = tuple(torch.cat([site[rows[out_of]] for site in sites]) for sites in zip(*choices, strict=True))
        donor = tracing.record(bundle, block.images)
        trials = into.repeat(count), out_of.repeat(count)
        labels = transplant_labels(bundle, references.images, donor, trials, chosen)
        found.append((labels.view(count, -1) == block.targets[out_of]).view(count, len(rows), -1))
    return torch.cat(found, dim=1)


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
    kept = choosing.share_of_each_site(tuple(site.abs() for site in scores), share)
    gates = []
    for k in range(sites):
        gate = torch.ones(images, sites, scores[k].shape[1], device=bundle.device)
        gate[:, k] = kept[k].float()
        gates.append(gate.flatten(0, 1))
    return tuple(gates)
