"""Interventions on a run, as contexts: inside them the network answers with some maps holding other values.

Each leaves the network as it was, however it ends (`ModelBundle.visiting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import cases
from engine.models.bundle import ModelBundle
from engine.records.restoration import MeanKind
from engine.store.dataset import Dataset
from engine.tracing import Maps, PerMap

MEAN_IMAGES = 512
"""Clean images behind the mean values, evenly spread over the data set."""


@dataclass(frozen=True, eq=False, slots=True)
class Means:
    """Mean values of all maps over clean images."""

    maps: Maps
    """Per site (1, channels, height, width)."""
    images: int


@contextmanager
def replacing(bundle: ModelBundle, chosen: PerMap, values: Maps) -> Iterator[None]:
    """Within it, the chosen maps hold other values: those of another run of the same batch, or `means`.

    chosen: per site (batch or 1, channels) bool; values: per site (batch or 1, channels, height, width).
    """
    with bundle.visiting(tracing.Transplant.of(chosen, values)):
        yield


@torch.no_grad()
def means(bundle: ModelBundle, dataset: Dataset, kind: MeanKind) -> Means:
    """Return each map's mean over clean images of the data set: at every position, or one number for the whole map."""
    rows = np.linspace(0, dataset.card.count - 1, min(MEAN_IMAGES, dataset.card.count)).astype(int)
    total: list[Tensor] = []
    for part in torch.from_numpy(rows).split(tracing.batch_limit(bundle)):
        pictures = cases.load(bundle, dataset, tuple(dataset.keys[k] for k in part.tolist()))
        sums = [site.sum(dim=0, keepdim=True) for site in tracing.record(bundle, pictures).maps]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    maps = tuple(site / len(rows) for site in total)
    if kind == "channel":
        maps = tuple(site.mean(dim=(2, 3), keepdim=True).expand_as(site) for site in maps)
    return Means(maps, len(rows))
