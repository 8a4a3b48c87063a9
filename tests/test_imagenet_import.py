"""ImageNet classifiers and pictures of ../shared/data, added by the documented commands: their accuracies are those on record."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import __main__ as command_line
from engine.attribution import baselines
from engine.checks import model as mistakes
from engine.models import register
from engine.store.store import Store
from tests.shared_data import NEEDS_SHARED, SHARED

IMAGENET = SHARED / "imagenet"
RECORDED = {
    "squeezenet1_1": {"sample300": 60.7, "classes": 59.1, "nips2017": 59.0},
    "mobilenet_v2": {"sample300": 81.7, "classes": 73.9, "nips2017": 92.0},
}
"""Percent right, as ../shared/data/README.md has them."""

pytestmark = [*NEEDS_SHARED, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Both networks, and the three sets of pictures, each prepared as its figures were made."""
    root = tmp_path_factory.mktemp("imagenet")
    names = [name for _, name in json.loads((IMAGENET / "imagenet_class_index.json").read_text()).values()]
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    place = ["--store", str(root / "store"), "--classes", str(root / "classes.txt")]
    for name in ("sample300", "classes"):
        table = ["--csv", str(IMAGENET / name / "labels.csv"), "--images", str(IMAGENET / name), "--size", "256"]
        assert command_line.main(["data", "add", *place, "--name", name, *table]) == 0
    nips = ["--csv", str(SHARED / "nips2017" / "images.csv"), "--images", str(SHARED / "nips2017" / "images")]
    assert (
        command_line.main(["data", "add", *place, "--name", "nips2017", *nips, "--first-label", "1", "--size", "224"])
        == 0
    )
    for name in RECORDED:
        weights = ["--architecture", name, "--weights", str(IMAGENET / "weights" / f"{name}.safetensors")]
        assert command_line.main(["model", "add", *place, "--name", name, *weights]) == 0
    return Store(root / "store")


@pytest.mark.parametrize("data", ["sample300", "classes", "nips2017"])
@pytest.mark.parametrize("model", RECORDED)
def test_accuracies_lie_within_a_point_of_the_record(store, model, data):
    bundle, dataset = register.bundle(store, model), store.dataset(data)
    right = [
        mistakes.predict(bundle, baselines.load(bundle, dataset, dataset.keys[start : start + 24])).cpu().numpy()
        == baselines.labels(bundle, dataset)[start : start + 24]
        for start in range(0, dataset.card.count, 24)
    ]
    assert abs(100 * np.concatenate(right).mean() - RECORDED[model][data]) <= 1.0


def test_swapped_channels_of_a_real_network_are_noticed(store):
    bundle, dataset = register.bundle(store, "squeezenet1_1"), store.dataset("nips2017")
    labels = torch.as_tensor(baselines.labels(bundle, dataset), device=bundle.device)
    found = mistakes.find_suspicions(
        replace(bundle, order="bgr"), baselines.load(bundle, dataset, dataset.keys), labels
    )
    assert found[0].remedy == "--channels rgb" and found[0].gain.low > 0
