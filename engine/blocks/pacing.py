"""How fast this machine attacks with a stored model and explains it: what the estimate of an audit's cost rests on."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from engine import tracing
from engine.attacks import pace
from engine.audit.paces import Pace
from engine.blocks.walk import threads
from engine.datapaths import cases, extraction, scores
from engine.datapaths.cases import Case
from engine.methods import NO_METHOD, Method
from engine.models.bundle import ModelBundle
from engine.store import Dataset

BATCH = 64
"""Images of a measured pass: most of an audit's passes run on blocks of about this size."""
GROUP = 4
"""Images that are explained together: as many as share true, first and last answer in a block of 96, on average."""


def measure(bundle: ModelBundle, dataset: Dataset, method: Method, count: int) -> Pace:
    """Return the pace on images of a data set with so many threads, scoring by a method or, for `none`, not at all.

    Takes a few passes over a batch, and explains one small group against its own mirror images.
    """
    labels = cases.labels(bundle, dataset)
    rows = np.linspace(0, len(labels) - 1, min(BATCH, len(labels), tracing.batch_limit(bundle))).astype(int)
    with threads(count):
        pictures = cases.load(bundle, dataset, tuple(dataset.keys[row] for row in rows))
        found = pace.measure(bundle, pictures, torch.tensor(labels[rows], device=bundle.device))
        if method == NO_METHOD:
            return found
        case = Case(pictures[:GROUP], torch.tensor(labels[rows][:GROUP], device=bundle.device))
        return dataclasses.replace(found, explain_seconds=_explained(bundle, dataset, case, method))


def _explained(bundle: ModelBundle, dataset: Dataset, case: Case, method: Method) -> float:
    """Return the seconds per image of scoring a case and its flow, after a first one that does not count."""
    avoid = frozenset(case.targets.tolist())
    references = cases.references(bundle, dataset, case, avoid=avoid, seed=0)
    rivals = (case.targets + 1) % len(bundle.classes)
    question = scores.Question(case.images.flip(-1), case.targets, rivals)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        extraction.score(bundle, case, references, method=method, seed=0)
        scores.conductance(bundle, question, case.images)
        seconds.append(time.perf_counter() - started)
    return seconds[-1] / len(case.images)
