"""How every image of a class fares under one attack."""

from __future__ import annotations

import numpy as np
import torch

from engine import class_names, examination, tracing
from engine.attacks import run as attack_run
from engine.datapaths import cases
from engine.models.bundle import ModelBundle
from engine.records import Outcome, Roster, RosterRequest
from engine.store.dataset import Dataset

MOST = 100
"""Images of a class that are attacked; a larger class is sampled evenly."""


def attack_class(bundle: ModelBundle, dataset: Dataset, request: RosterRequest, report: examination.Report) -> Roster:
    """Return the outcome of every image of the class (at most `MOST`, evenly spread), in data-set order."""
    every = np.flatnonzero(cases.labels(bundle, dataset) == request.label)
    if len(every) > MOST:
        every = every[np.linspace(0, len(every) - 1, MOST).astype(int)]
    outcomes: list[Outcome] = []
    for start in range(0, len(every), tracing.batch_limit(bundle)):
        report(
            start,
            len(every),
            f"Attacking {len(every)} images of '{class_names.handles(bundle.classes)[request.label]}'",
        )
        samples = tuple(dataset.keys[k] for k in every[start : start + tracing.batch_limit(bundle)])
        seeds = [examination.image_seed(request.attack, dataset.card.content_hash, s, request.seed) for s in samples]
        labels = torch.full((len(samples),), request.label, device=bundle.device)
        pictures = cases.load(bundle, dataset, samples)
        outcomes += attack_run.run(
            bundle, pictures, labels, request.attack, torch.tensor(seeds), samples=samples
        ).outcomes
    return Roster(request, tuple(outcomes))
