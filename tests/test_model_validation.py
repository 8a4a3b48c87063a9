"""The validation report: what must hold of a model is checked, and an obvious mistake is named with its remedy."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from engine import __main__ as command_line
from engine import demo
from engine.attribution import baselines
from engine.checks import model
from engine.cli import study
from engine.data import register, sources
from engine.errors import BadInput, Unsupported
from engine.models import register as load
from engine.store.store import Store
from engine.types.checks import VALIDATION_CHECKS
from tests import stores, toys


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    return stores.copied(demo_store, tmp_path_factory.mktemp("intake") / "store")


def silent(done, total, message):
    pass


def outcomes(report):
    return {result.check: result.outcome for result in report.results}


def test_a_sound_model_passes_every_check_on_labelled_images(store):
    bundle = load.bundle(store, "digits-standard")
    report = model.check(model.stored(store, bundle), store.dataset("digits"), silent)
    assert [result.check for result in report.results] == [check.name for check in VALIDATION_CHECKS]
    assert report.verdict == "pass" and report.suspicions == () and report.images == 500
    accuracy = next(result for result in report.results if result.check == "accuracy")
    assert {figure.name: figure.value for figure in accuracy.figures}["accuracy"] == pytest.approx(0.996)


def test_without_labelled_images_the_rest_is_checked_and_the_report_is_incomplete(store):
    report = model.check(model.stored(store, load.bundle(store, "digits-robust")), None, silent)
    assert report.verdict == "incomplete" and report.with_outcome("fail") == ()
    assert report.with_outcome("not run") == ("accuracy", "preprocessing")


def test_an_accuracy_below_what_was_declared_fails(store):
    weights = demo.weights("digits-standard")
    declared = load.Declared(accuracy=1.0, mean=(0.0,), std=(0.1,))
    load.add(store, load.Submission("boasting", demo.ARCHITECTURE, weights, demo.CLASSES, declared))
    report = model.check(model.stored(store, load.bundle(store, "boasting")), store.dataset("digits"), silent)
    assert "declared were 100.0%" in next(result.sentence for result in report.results if result.check == "accuracy")
    assert {"accuracy", "preprocessing"} <= set(report.with_outcome("fail"))


class Broken(nn.Module):
    """A toy with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.chain = toys.Chain()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        logits = self.chain(x)
        if self.fault == "evaluation":
            logits = self.norm(logits)
        if self.fault == "deterministic":
            logits = logits + F.dropout(torch.ones_like(logits), 0.5, training=True)
        if self.fault == "finite":
            logits = logits / torch.zeros_like(logits)
        if self.fault == "gradients":
            logits = (16 * logits).round()
        if self.fault == "logits":
            logits = logits.softmax(1)
        if self.fault == "logarithms":
            logits = logits.log_softmax(1)
        return logits


@pytest.mark.parametrize(
    "fault", ["evaluation", "deterministic", "finite", "gradients", "logits", "logarithms", "none"]
)
def test_each_fault_of_a_network_fails_its_check(fault):
    bundle = toys.bundle(toys.seeded(Broken(fault)))
    found = {answer.check: answer.outcome for answer in model._of_answers(bundle, None)}
    failed = {name for name, outcome in found.items() if outcome == "fail"}
    wanted = {"logarithms": {"logits"}, "none": set()}.get(fault, {fault})
    # Answers that are drawn or not finite fail what compares answers, too.
    assert failed == wanted or (fault in ("deterministic", "finite") and wanted < failed)


class NormOfTheBatch(toys.Chain):
    """Normalises the picture by the statistics of those beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        return super().forward(self.norm(x))


def test_feature_maps_that_depend_on_the_other_pictures_are_refused_when_the_network_is_read():
    with pytest.raises(
        Unsupported, match=r"'norm' \(batch_norm\) .*makes a picture's answer depend on the others of its batch"
    ):
        toys.bundle(toys.seeded(NormOfTheBatch()))


class Detached(toys.Chain):
    """Stops its own gradient, which changes no answer."""

    def forward(self, x):
        return super().forward(x.clone()).detach()


def test_a_gradient_that_a_network_stops_is_there_when_it_is_read():
    bundle = toys.bundle(toys.seeded(Detached()))
    assert {answer.outcome for answer in model._of_answers(bundle, None)} == {"pass"}


def test_weights_that_changed_in_the_store_are_noticed(store, monkeypatch):
    monkeypatch.setattr(load, "stored_hash", lambda store, name: "0" * 32)
    report = model.check(model.stored(store, load.bundle(store, "digits-robust")), None, silent)
    assert outcomes(report)["hash"] == "fail"


class Threshold(nn.Module):
    """Right on toy pictures only when red and blue arrive as they are, from 0 to 1: the class is the brighter of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 3)
        with torch.no_grad():
            for module in (self.a, self.b, self.linear):
                module.weight.zero_(), module.bias.zero_()
            for channel in range(3):
                self.a.weight[channel, channel] = self.b.weight[channel, channel] = 1.0
                self.linear.weight[channel, channel] = 1.0
            # Too dark or too bright a scale makes everything the third class.
            self.linear.bias[2] = 0.3

    def forward(self, x):
        return self.linear(F.relu(self.b(F.relu(self.a(x.clamp(0, 1))))).mean((2, 3)))


def painted():
    """Pictures of which half are red and half are blue-ish green, and which they are: 0, 1 or 2."""
    labels = torch.arange(120) % 2
    pictures = torch.full((120, 3, 8, 8), 0.1)
    pictures[labels == 0, 0] = 0.8
    pictures[labels == 1, 1] = 0.8
    noise = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))
    return pictures + 0.1 * noise, labels


@pytest.fixture(scope="module")
def right():
    """A bundle whose declared preprocessing is right."""
    bundle = toys.bundle(Threshold().eval())
    return replace(bundle, mean=torch.zeros(1, 3, 1, 1), std=torch.ones(1, 3, 1, 1))


def test_where_nothing_is_wrong_nothing_is_suspected(right):
    assert (model.predict(right, painted()[0]) == painted()[1]).all()
    assert model.find_suspicions(right, *painted()) == ()


def like(bundle, mean, std):
    return replace(bundle, mean=torch.full((1, 3, 1, 1), mean), std=torch.full((1, 3, 1, 1), std))


MISTAKES = {
    "normalised twice": (lambda bundle: like(bundle, 0.9, 0.2), 0, "--mean 0,0,0 --std 1,1,1"),
    "pixels to 255": (lambda bundle: like(bundle, 0.0, 255.0), 0, "--mean 0,0,0 --std 1,1,1"),
    "swapped": (lambda bundle: replace(bundle, order="bgr"), 0, "--channels rgb"),
    "labels too high": (lambda bundle: bundle, 1, "--first-label 1"),
    "labels too low": (lambda bundle: bundle, -1, "a class list that begins with one more class"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_an_obvious_mistake_is_named_with_its_remedy(right, name):
    make, shift, remedy = MISTAKES[name]
    images, labels = painted()
    found = model.find_suspicions(make(right), images, labels + shift)
    assert remedy in found[0].remedy
    assert found[0].after.value > 0.95 and found[0].after.n == 120
    assert 0 < found[0].gain.low <= found[0].gain.value <= found[0].gain.high
    assert "points" in found[0].mistake and "\n" not in found[0].mistake


def test_two_mistakes_made_together_are_found_together(right):
    images, labels = painted()
    found = model.find_suspicions(replace(like(right, 0.9, 0.2), order="bgr"), images, labels)
    assert found[0].remedy == "--mean 0,0,0 --std 1,1,1 together with --channels rgb"
    assert found[0].after.value > found[1].after.value


def test_a_network_that_takes_bgr_gets_what_it_takes(right):
    images, _ = painted()
    assert torch.equal(replace(right, order="bgr").logits(images), right.logits(images.flip(1)))


def test_what_is_declared_reaches_the_network(tmp_path):
    """A white image gives the same input whichever scale mean and deviation are given on."""
    weights = demo.weights("digits-standard")
    store = Store(tmp_path / "store")
    for name, declared in {
        "one": load.Declared(mean=(0.2,), std=(0.4,)),
        "bright": load.Declared(mean=(51.0,), std=(102.0,), brightest=255),
    }.items():
        load.add(store, load.Submission(name, demo.ARCHITECTURE, weights, demo.CLASSES, declared))
    one, bright = load.bundle(store, "one"), load.bundle(store, "bright")
    assert torch.allclose(one.mean, bright.mean) and torch.allclose(one.std, bright.std)
    assert one.content_hash == load.stored_hash(store, "one")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--mean", "0.5,0.5", "--mean and --std need 1 values each"),
        ("--mean", "127", "on a scale from 0 to 255"),
        ("--std", "0", "--std must be positive"),
        ("--resize", "16", "--resize must be at least the 32 pixels"),
        ("--channels", "bgr", "needs a network of 3 channels"),
        ("--size", "4", "8 to 1024"),
        ("--accuracy", "91", "between 0 and 1"),
        ("--mean", "nan", "--mean must be numbers"),
        ("--std", "inf", "--std must be numbers"),
        ("--mean", ",", "--mean must be numbers"),
        ("--mean", "", "--mean must be numbers"),
        ("--resize", "0", "at least the 32 pixels"),
        ("--resize", "60000", "at most 2048, got 60000"),
        ("--size", "²²", "--size must be pixels"),
        ("--size", "٣٢", "--size must be pixels"),
        ("--size", "9" * 5000, "--size must be pixels"),
        ("--architecture", "digits\x1b[2J\nforged", r"No architecture is called 'digits\x1b[2J\nforged'"),
        ("--data", "digits", "is no Faultline store"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused_in_one_line(tmp_path, capsys, option, value, reason):
    assert command_line.main([*handed_in(tmp_path), option, value]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1 and "\x1b" not in told and len(told) < 1000
    assert not (tmp_path / "store").exists()


def handed_in(folder, weights=None):
    """The words that hand in a network of the demo, or other weights for it, as `m`."""
    (folder / "classes.txt").write_text("\n".join(demo.CLASSES))
    place = ["--store", str(folder / "store"), "--name", "m", "--classes", str(folder / "classes.txt")]
    return [
        "model",
        "add",
        *place,
        "--architecture",
        "digits_resnet",
        "--weights",
        str(weights or demo.weights("digits-standard")),
    ]


def some_data(store, name, *, classes=demo.CLASSES, channels=1):
    """A data set of noise."""
    x = np.random.default_rng(0).integers(0, 256, size=(20, 32, 32, channels), dtype=np.uint8)
    found = sources.labelled(name, x, np.arange(20) % len(classes), classes, tuple(map(str, range(20))))
    register.add(store, name, found, source="npz")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("gone", "No data set is called 'gone'"),
        ("animals", "Class 'cat' of data set 'animals' stands not at all"),
        ("coloured", "The images of 'coloured' have 3 channels that differ, and the network takes 1"),
    ],
)
def test_data_that_a_model_cannot_be_checked_on_is_refused_before_the_model_is_stored(tmp_path, capsys, data, reason):
    store = Store(tmp_path / "store")
    some_data(store, "animals", classes=("cat", "dog"))
    some_data(store, "coloured", channels=3)
    assert command_line.main([*handed_in(tmp_path), "--data", data]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1
    assert store.models() == ()


def test_a_model_whose_answers_are_not_finite_gets_its_report(tmp_path, capsys):
    tensors = safetensors.torch.load_file(demo.weights("digits-standard"))
    huge = {key: 1e30 * tensor if tensor.ndim == 4 else tensor for key, tensor in tensors.items()}
    safetensors.torch.save_file(huge, tmp_path / "w.safetensors")
    words = handed_in(tmp_path, tmp_path / "w.safetensors")
    some_data(Store(tmp_path / "store"), "noise")
    assert command_line.main([*words, "--data", "noise"]) == 1
    told = capsys.readouterr().out
    assert "fail     Finite answers" in told and "not run  Evaluation mode: Answers that are not finite cannot" in told
    assert command_line.main(["model", "check", *words[2:6], "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "fail"


def test_adding_again_with_another_claim_is_refused(tmp_path, capsys):
    words = handed_in(tmp_path)
    assert [command_line.main([*words, "--accuracy", "0.9"]) for _ in range(2)] == [0, 0]
    capsys.readouterr()
    assert command_line.main([*words, "--accuracy", "0.5"]) == 2
    assert "already holds 'm', with the accuracy 0.9 declared, now with the accuracy 0.5" in capsys.readouterr().err
    assert command_line.main(words) == 2


def test_a_data_set_added_again_with_another_strength_is_refused(tmp_path):
    store = Store(tmp_path / "store")
    some_data(store, "noise")
    some_data(store, "noise")
    with pytest.raises(BadInput, match="with no epsilon declared, now with epsilon 8/255"):
        card = replace(store.data_card("noise"), epsilon="8/255")
        noise = store.dataset("noise")
        store.add_data(card, noise.images(noise.keys), np.array(noise.labels), noise.names)


@pytest.mark.cluster
def test_names_that_no_encoding_holds_do_not_end_a_command_whose_work_is_done(tmp_path, monkeypatch):
    tensors = safetensors.torch.load_file(demo.weights("digits-standard"))
    torch.save({"state_dict": dict(tensors), "\ud800\nforged": 1}, tmp_path / "w.pt")
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", strict)
    assert command_line.main(handed_in(tmp_path, tmp_path / "w.pt")) == 0
    strict.flush()
    assert rb"left out: \ud800\nforged." in strict.buffer.getvalue()


def test_no_more_images_are_held_at_once_than_mistakes_are_tried_on(store, monkeypatch):
    drawn, load_images = [], baselines.load
    monkeypatch.setattr(baselines, "load", lambda *place: drawn.append(len(place[2])) or load_images(*place))
    found = model._drawn(load.bundle(store, "digits-standard"), store.dataset("digits"))
    assert drawn == [model.TRIED_ON] * 5 and len(found.images) == model.TRIED_ON
    assert len(found.labels) == len(found.predictions) == 500


@pytest.mark.parametrize("text", ["²", "1,x", "9" * 5000, ""])
def test_numbers_of_maps_that_are_none_are_refused_in_one_line(text):
    with pytest.raises(BadInput, match="--maps must be whole numbers") as refused:
        study._counts(text)
    assert len(str(refused.value)) < 200


def test_add_and_check_print_the_report_and_keep_it(demo_store, tmp_path, capsys):
    store = stores.copied(demo_store, tmp_path / "store")
    place = ["model", "check", "--store", str(store.root), "--name", "digits-standard"]
    assert command_line.main([*place, "--data", "digits"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("digits-standard: pass") and "99.6% [" in told and "of 500 images are right" in told
    assert sum(1 for _ in (store.root / "records" / "intake").glob("*/*")) == 1
    assert command_line.main([*place, "--data", "digits"]) == 0
    assert capsys.readouterr().out == told


def test_torchvisions_own_pipeline_is_matched():
    from PIL import Image
    from torchvision.transforms import v2

    from engine import images

    pipeline = v2.Compose([v2.Resize(24), v2.CenterCrop(16)])
    generator = np.random.default_rng(0)
    for height, width in [(30, 41), (61, 33), (24, 24), (25, 50), (17, 200)]:
        picture = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        wanted = np.asarray(pipeline(Image.fromarray(picture)))
        assert np.array_equal(images.fit(picture[None], 3, (16, 16), 24)[0], wanted), (height, width)


def test_each_architecture_of_torchvision_declares_how_it_is_evaluated():
    from engine.models import architectures

    found = {
        name: architectures.architecture(name)
        for name in ("resnet50", "inception_v3", "efficientnet_b7", "squeezenet1_1")
    }
    assert {name: (one.size[0], one.resize) for name, one in found.items()} == {
        "resnet50": (224, 256), "inception_v3": (299, 342), "efficientnet_b7": (600, 600), "squeezenet1_1": (224, 256),
    }  # fmt: skip
    assert found["inception_v3"].mean == (0.5,) * 3 and demo.SIDE == 32
