"""Real networks and images of ../shared/data: where they lie, which tests need them, and a store filled with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import __main__ as command_line
from engine.store.store import Store

SHARED = Path(__file__).parents[2] / "shared" / "data"
CIFAR = SHARED / "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ATTACK = "pgd-linf:eps=8/255,steps=10"
SKIPPED_WITHOUT = pytest.mark.skipif(
    not SHARED.is_dir() and os.environ.get("SHARED_DATA_REQUIRED") != "1",
    reason="the folder ../shared/data is not beside this checkout",
)
"""A test of the shared data skips where the folder is missing, but never where it is meant to be."""
NEEDS_SHARED = [pytest.mark.shared_data, SKIPPED_WITHOUT]


def filled(root: Path, *models: str) -> Store:
    """Return a store filled by the documented commands: models such as `resnet20`, and the data set `cifar10`."""
    (root / "classes.txt").write_text("\n".join(CLASSES))
    folder = ["--store", str(root / "store"), "--classes", str(root / "classes.txt")]
    for name in models:
        weights = str(CIFAR / "weights" / f"{name}.safetensors")
        model = ["model", "add", "--name", name, "--architecture", f"cifar_{name}", "--weights", weights]
        assert command_line.main([*model, *folder]) == 0
    npz = str(CIFAR / "cifar10_test_first1000.npz")
    assert command_line.main(["data", "add", "--name", "cifar10", "--npz", npz, *folder]) == 0
    return Store(root / "store")
