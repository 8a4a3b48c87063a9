"""The embedded demo: the split, the shipped weights and the recipe that made them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine import demo
from engine.attacks import runner
from engine.demo import train
from engine.models import architectures, zoo
from engine.models import network as bundle
from engine.specs import catalogue


def shipped(model: str) -> bundle.ModelBundle:
    weights = load_file(demo.weights(model))
    network = architectures.build(demo.ARCHITECTURE, weights, len(demo.CLASSES))
    preprocessing = bundle.Preprocessing(1, (demo.SIDE, demo.SIDE), zoo.DIGITS_MEAN, zoo.DIGITS_STD)
    return bundle.bundle(network, preprocessing, bundle.Identity(demo.CLASSES))


def header(model: str) -> dict[str, str]:
    with safe_open(demo.weights(model), framework="numpy") as file:
        return file.metadata()


def test_held_out_images_are_fifty_of_each_class():
    held_out = demo.held_out()
    assert held_out.x.shape == (500, 32, 32, 1) and held_out.x.dtype == np.uint8
    assert np.bincount(held_out.y).tolist() == [50] * 10
    assert not held_out.x.flags.writeable


def test_training_and_held_out_images_share_none():
    held_out, training = demo.held_out(), demo.training()
    assert len(training.x) == 1297
    assert not set(held_out.names) & set(training.names)
    assert len(set(held_out.names) | set(training.names)) == 1797


def test_the_split_is_the_same_each_time_and_everywhere():
    assert demo.held_out().names == demo.held_out().names
    assert demo.held_out().names[:5] == ("digit-0002", "digit-0007", "digit-0012", "digit-0014", "digit-0015")


def test_an_enlarged_digit_keeps_the_brightness_of_the_small_one():
    from sklearn.datasets import load_digits

    held_out = demo.held_out()
    small = load_digits().images[int(held_out.names[0].removeprefix("digit-"))] / 16
    assert held_out.x[0].mean() / 255 == pytest.approx(small.mean(), abs=0.01)


@pytest.mark.parametrize("model", demo.MODELS)
def test_weights_say_what_they_are(model):
    metadata = header(model)
    assert metadata["architecture"] == "digits_resnet"
    assert metadata["mean"] == "0.5" and metadata["std"] == "0.5"
    assert "CC BY 4.0" in metadata["data_licence"]
    assert metadata["robust_accuracy_attack"] == catalogue.PgdLinf(demo.EPSILON).text
    assert demo.weights(model).stat().st_size < 500_000


@pytest.mark.slow
def test_shipped_networks_are_as_good_and_as_robust_as_their_headers_say():
    """On 50 images, five of a class, within what 50 of 500 can differ by chance."""
    x, y = train.tensors(demo.held_out())
    rows = torch.cat([torch.nonzero(y == label)[:5, 0] for label in range(10)])
    keys = tuple(str(int(row)) for row in rows)
    shares = {}
    for model in demo.MODELS:
        attacked = runner.run(shipped(model), x[rows], y[rows], catalogue.PgdLinf(demo.EPSILON), rows, samples=keys)
        statuses = [outcome.status for outcome in attacked.outcomes]
        clean, robust = 1 - statuses.count("clean_wrong") / 50, statuses.count("resisted") / 50
        assert clean == pytest.approx(float(header(model)["held_out_accuracy"]), abs=0.04)
        assert robust == pytest.approx(float(header(model)["held_out_robust_accuracy"]), abs=0.11)
        shares[model] = robust
    assert shares["digits-standard"] <= 0.02
    assert shares["digits-robust"] >= 0.8


def test_noise_of_the_same_size_fools_neither_network():
    x, y = train.tensors(demo.held_out())
    keys = tuple(map(str, range(40)))
    for model in demo.MODELS:
        noisy = runner.run(
            shipped(model), x[:40], y[:40], catalogue.NoiseSign(demo.EPSILON), torch.arange(40), samples=keys
        )
        assert sum(outcome.status == "fooled" for outcome in noisy.outcomes) <= 4


@pytest.mark.parametrize("model", demo.MODELS)
def test_headers_hold_the_acceptance_figures(model):
    metadata = header(model)
    assert metadata["held_out_images"] == "500"
    assert float(metadata["held_out_accuracy"]) >= (0.97 if model == "digits-standard" else 0.90)


def test_the_network_has_the_stages_the_design_names():
    network = zoo.DigitsResNet()
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.ReLU)]
    assert names[:3] == ["relu", "layer1.0.relu1", "layer1.0.relu2"] and len(names) == 13
    assert not any(module.inplace for module in network.modules() if isinstance(module, torch.nn.ReLU))
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert [stage[0].conv1.out_channels for stage in (network.layer1, network.layer2, network.layer3)] == [12, 24, 48]


@pytest.mark.slow
def test_a_short_training_already_reaches_97_percent():
    state = torch.random.get_rng_state()
    network = train.train("standard", epochs=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    x, y = train.tensors(demo.held_out())
    with torch.no_grad():
        answers = network((x - zoo.DIGITS_MEAN[0]) / zoo.DIGITS_STD[0]).argmax(dim=1)
    assert (answers == y).float().mean() >= 0.97


def test_the_recipe_writes_both_networks_and_says_how_they_do(tmp_path, monkeypatch, capsys):
    few = demo.held_out()
    few = type(few)(few.x[:16], few.y[:16], few.classes, few.names[:16])
    monkeypatch.setattr(demo, "training", lambda: few)
    monkeypatch.setattr(demo, "held_out", lambda: few)
    monkeypatch.setattr(train, "EPOCHS", {"standard": 1, "robust": 1})
    train.main(["--out", str(tmp_path / "new")])
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        f"{name}.safetensors" for name in sorted(demo.MODELS)
    ]
    assert "digits-robust:" in capsys.readouterr().out


@pytest.mark.cluster
def test_scikit_learn_is_not_loaded_before_the_digits_are_asked_for():
    import subprocess

    code = "import sys, engine.demo; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
