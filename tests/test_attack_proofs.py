"""Attacks on real CIFAR-10 networks: the figures that others have published for the same weights and images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine import images, keys
from engine.attacks import catalogue, run
from engine.models import architectures
from engine.models import bundle as bundles
from engine.models.bundle import Identity, Preprocessing

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
COUNT = 500
BLOCK = 100
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(
        not SHARED.is_dir() and os.environ.get("SHARED_DATA_REQUIRED") != "1",
        reason="the folder ../shared/data is not beside this checkout",
    ),
]


def robust_network(name: str):
    network = architectures.build(name, load_file(SHARED / "weights_robust" / f"{name}.safetensors"), len(CLASSES))
    return bundles.bundle(network, Preprocessing(3, (32, 32), MEAN, STD), Identity(CLASSES, name))


def first(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of the test set, (count, 3, 32, 32) in [0, 1], and their labels."""
    with np.load(SHARED / "cifar10_test_first1000.npz", allow_pickle=False) as held:
        pictures = np.moveaxis(held["x"][:count], 3, 1)
        return torch.from_numpy(images.to_float(np.ascontiguousarray(pictures))), torch.from_numpy(held["y"][:count])


def resisted(bundle, identifier: str, count: int = COUNT) -> np.ndarray:
    """(count,) bool: the image was right and stays right under the attack."""
    pictures, labels = first(count)
    found = []
    for start in range(0, count, BLOCK):
        samples = tuple(f"{k:05d}" for k in range(start, start + BLOCK))
        seeds = torch.tensor([int(keys.content_key((identifier, one))[:15], 16) for one in samples])
        block = slice(start, start + BLOCK)
        spec = catalogue.attack(identifier)
        found += run.run(bundle, pictures[block], labels[block], spec, seeds, samples=samples).outcomes
    return np.array([outcome.status in ("resisted", "unperturbed") for outcome in found])


@pytest.mark.parametrize(("name", "stated"), [("resnet4b", (0.612, 0.420, 0.166)), ("resnet2b", (0.550, 0.412, 0.184))])
def test_pgd_20_leaves_the_robust_accuracy_that_is_stated_for_these_weights(name, stated):
    """Shares of the first 500 images, from the data's README: 20 steps of 2.5 epsilon / 20 from one random start."""
    bundle = robust_network(name)
    for epsilon, share in zip((2, 4, 8), stated, strict=True):
        found = resisted(bundle, f"pgd-linf:eps={epsilon}/255,steps=20").mean()
        print(f"{name} PGD-20 at {epsilon}/255: {found:.3f}, stated {share:.3f}, n = {COUNT}")
        assert found == pytest.approx(share, abs=0.02)
