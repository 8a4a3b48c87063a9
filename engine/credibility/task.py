"""The credibility checks of one stored model on images of a stored data set, as a worker makes them."""

from __future__ import annotations

from fractions import Fraction

import torch

from engine import settings
from engine.attacks.batch import Batch
from engine.credibility import checking
from engine.credibility.checking import Reference
from engine.datapaths import cases
from engine.jobs.notes import Report
from engine.models.bundle import ModelBundle
from engine.records.credibility import Credibility, Setup
from engine.store import Dataset


def check(
    bundle: ModelBundle,
    dataset: Dataset,
    samples: tuple[str, ...],
    epsilon: str,
    reference: Reference | None,
    report: Report,
) -> Credibility:
    """Return all sixteen checks on some samples at a budget such as `8/255`; raises BadSetting, BadInput."""
    report(0, 0, "Checking how far the attacks can be believed")
    budget: Fraction = settings.read_fraction("epsilon", epsilon)
    every = cases.labels(bundle, dataset)
    labels = torch.tensor([int(every[dataset.row(sample)]) for sample in samples], device=bundle.device)
    batch = Batch(cases.load(bundle, dataset, samples), labels, samples)
    return checking.check(bundle, batch, Setup(bundle.content_hash, budget), reference)
