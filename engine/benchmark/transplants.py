"""What real transplants cost: the random controls of a proof over a group, and one transplant beside a plain pass."""

from __future__ import annotations

import time

import torch

from engine import controls
from engine.attacks.catalogue import PgdLinf
from engine.benchmark import measures
from engine.benchmark.measures import Row, Scale
from engine.datapaths import choosing
from engine.errors import BadInput
from engine.models.bundle import ModelBundle
from engine.proving import exchanges, fooled
from engine.records.restoration import FooledRequest
from engine.store.dataset import Dataset

ATTACK = PgdLinf()
SIZES = (8, 16, 32, 64, 128)
DRAWS = 20
TARGET = 20.0
"""Seconds for `DRAWS` sets of each size on 64 images of CIFAR-10, ResNet-20, two cores."""
CANDIDATES = 2
"""Images attacked for each that is wanted fooled."""


def measure(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return the rows; one with the reason where the attack fools no image."""
    wanted = scale.exchange_images
    request = FooledRequest(bundle.name, dataset.card.name, ATTACK, dataset.keys[: CANDIDATES * wanted])
    try:
        group = fooled.gather(bundle, dataset, request)
    except BadInput as error:
        return [Row("random controls of a group", float("nan"), "", note=str(error))]
    group = group.rows(torch.arange(min(wanted, group.images.count), device=bundle.device))
    pairs, images = exchanges.exchanges(group, "restore"), group.images.count
    most = int(choosing.claimable(bundle).sum())
    sizes = [size for size in SIZES if size <= most]

    def random_sets() -> None:
        ranks = controls.random_ranks(bundle, DRAWS, images, 0)
        for size in sizes:
            pairs.tried(ranks < size).effect(group.true)

    started = time.perf_counter()
    random_sets()
    seconds = time.perf_counter() - started
    one = controls.random_ranks(bundle, 1, images, 0) < sizes[-1]
    return [
        measures.row(f"{DRAWS} random sets of {len(sizes)} sizes put back in {images} images", seconds, "s", TARGET),
        measures.paired(
            "one transplant, against a plain forward pass",
            lambda: pairs.tried(one),
            lambda: bundle.logits(group.images.adversarial),
            repeats=scale.repeats,
            count=images,
        ),
    ]
