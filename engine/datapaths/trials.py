"""What really happens when maps are copied or zeroed: batched forward passes, nothing estimated."""

from __future__ import annotations

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
    found = []
    for part in torch.arange(len(into)).split(tracing.batch_limit(bundle)):
        picked = tuple(site[part] for site in chosen)
        logits = tracing.transplanted(bundle, recipients[into[part]], picked, donor.rows(out_of[part]).maps)
        found.append(logits.argmax(1))
    return torch.cat(found)


def gate_labels(bundle: ModelBundle, images: Tensor, rows: Tensor, gates: PerMap) -> Tensor:
    """Return the labels (trials,) of images under gates with a zero baseline; gates per site (trials, channels)."""
    found = []
    for part in torch.arange(len(rows)).split(tracing.batch_limit(bundle)):
        found.append(tracing.gated(bundle, images[rows[part]], tuple(site[part] for site in gates)).argmax(1))
    return torch.cat(found)


def carried(bundle: ModelBundle, case: Case, donor: Trace, references: References, chosen: PerMap) -> Tensor:
    """Return (images, references) bool: whether copying an image's chosen maps gives the reference that image's target.

    chosen: per site (images, channels) bool.
    """
    out_of, into = case.pairs(references)
    repeated = tuple(site[out_of] for site in chosen)
    labels = transplant_labels(bundle, references.images, donor, (into, out_of), repeated)
    return (labels == case.targets[out_of]).view(len(case.images), -1)


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
