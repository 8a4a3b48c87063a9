"""The real CIFAR-10 ResNet-20 and images: the figures an auditor would check first."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import engine
from engine import __main__ as command_line
from engine.attribution import baselines, datapaths, explain, scorers
from engine.models import hooks, register
from tests.shared_data import ATTACK, CIFAR, CLASSES, NEEDS_SHARED, filled

FOOLED = 100

pytestmark = NEEDS_SHARED


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("cifar"), "resnet20")


@pytest.fixture(scope="module")
def bundle(store):
    return register.bundle(store, "resnet20")


@pytest.fixture(scope="module")
def pairs(store, bundle):
    """PGD-10 at 8/255 on correctly classified images from index 128 on, until 100 were attacked."""
    dataset = store.dataset("cifar10")
    keys = dataset.keys[128 : 128 + 125]
    right = hooks.record(bundle, baselines.load(bundle, dataset, keys)).logits.argmax(1).cpu().numpy()
    correct = [
        key for key, ok in zip(keys, right == baselines.labels(bundle, dataset)[128 : 128 + 125], strict=True) if ok
    ]
    return explain.attacked(bundle, dataset, engine.attack(ATTACK), tuple(correct[:FOOLED]), 0)


def test_clean_accuracy_is_91_5_percent_on_the_1000_images(store, bundle):
    dataset = store.dataset("cifar10")
    labels = torch.as_tensor(baselines.labels(bundle, dataset))
    with torch.no_grad():
        found = torch.cat(
            [
                bundle.logits(baselines.load(bundle, dataset, dataset.keys[k : k + 100])).cpu().argmax(1)
                for k in range(0, 1000, 100)
            ]
        )
    assert int((found == labels).sum()) == 915


def test_pgd_10_at_8_255_leaves_nothing(pairs):
    assert [outcome.status for outcome in pairs.outcomes] == ["fooled"] * FOOLED
    assert max(outcome.linf for outcome in pairs.outcomes) == pytest.approx(8 / 255)


def test_32_clean_maps_restore_the_label_and_32_random_ones_do_not(bundle, pairs):
    before, noise = pairs.before, explain.noise_copies(pairs, 1)
    flow, _ = explain.flows(bundle, pairs, noise)
    donor, rows = hooks.record(bundle, pairs.clean), torch.arange(FOOLED)

    def restored(chosen):
        labels = datapaths.transplant_labels(bundle, pairs.adversarial, donor, (rows, rows), chosen)
        return float((labels == before).float().mean())

    generator = torch.Generator().manual_seed(0)
    draws = [restored(scorers.at_random(bundle, FOOLED, 32, generator)) for _ in range(5)]
    assert restored(scorers.largest(bundle, flow.scores, 32)) >= 0.90
    assert np.mean(draws) <= 0.10


def test_scores_agree_with_captums_definition_of_gradient_times_activation(bundle, pairs):
    """An independent slow version: one backward pass per site by plain hooks on a network without taps in use."""
    images, targets = pairs.clean[:4], pairs.before[:4]
    fast = scorers.at_once(bundle, scorers.Question(images, targets, torch.full_like(targets, -1))).scores
    for number in (0, 5, 18):
        recorder = hooks.Recorder(frozenset({number}))
        with bundle.visiting(recorder):
            logit = bundle.logits(images.clone().requires_grad_()).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, recorder.seen[number])
        slow = (recorder.seen[number] * gradient).abs().sum((2, 3))
        assert torch.allclose(fast[number], slow, rtol=1e-4, atol=1e-5)


def test_explain_writes_the_documented_files(store, tmp_path, capsys):
    out = tmp_path / "pair"
    arguments = ["examine", "--store", str(store.root), "--model", "resnet20", "--data", "cifar10", "--sample", "00200"]
    assert command_line.main([*arguments, "--attack", "pgd-linf", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = json.loads((out / "examination.json").read_text())
    assert printed["sample"] == found["sample"] == "00200"
    assert (found["label"], found["status"], found["attack"]) == ("dog", "fooled", ATTACK)
    assert found["clean"]["total"] == 688
    assert found["connections_complete_to"] <= 1e-5
    assert all(value is not None for value in found["clean"]["certificate"].values())
    with np.load(out / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 1, 32, 32, 3)
        assert arrays["scores_clean/layer3.0"].shape == (1, 64)
    assert command_line.main([*arguments, "--attack", "pgd-linf", "--out", str(out)]) == 2


def test_an_image_folder_is_added_with_its_classes(tmp_path, capsys):
    arguments = [
        "data",
        "add",
        "--store",
        str(tmp_path / "store"),
        "--name",
        "folder",
        "--folder",
        str(CIFAR / "test_png"),
    ]
    assert command_line.main([*arguments, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["count"], card["size"], card["classes"]) == (200, [32, 32], list(CLASSES))


def test_a_broken_picture_in_a_folder_is_named_and_nothing_is_stored(tmp_path, capsys):
    shutil.copytree(CIFAR / "test_png" / "cat", tmp_path / "pictures" / "cat")
    (tmp_path / "pictures" / "cat" / "test_00000.png").write_bytes(b"not a picture")
    arguments = [
        "data",
        "add",
        "--store",
        str(tmp_path / "store"),
        "--name",
        "x",
        "--folder",
        str(tmp_path / "pictures"),
    ]
    assert command_line.main(arguments) == 2
    error = capsys.readouterr().err
    assert "test_00000.png" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store" / "data" / "x").exists()
