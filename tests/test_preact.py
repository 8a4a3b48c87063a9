"""Pre-activation residual networks: the formula, the names that circulate, and a small one trained, handed in and checked."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from engine import demo, images
from engine.checks import equality
from engine.data import register
from engine.data.sources import Images
from engine.demo import CLASSES
from engine.errors import BadInput
from engine.models import architectures, zoo
from engine.models import network as bundles
from engine.models import register as load
from engine.models import register as same_function
from engine.models.architectures import Architecture
from engine.models.zoo import PreActResNet
from engine.service import tasks, worker
from engine.store import Store
from engine.types.checks import ValidationReport
from engine.types.requests import Place
from tests import toys

SIDE, WIDTH, EPOCHS = 16, 8, 6
NAMES = ("preact_resnet18", "preact_resnet18_raw")


def norm(tensors, name, x):
    parts = (tensors[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias"))
    mean, variance, weight, bias = parts
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def answer(tensors, x, strides, *, is_raw):
    """The network written down once more, from its weights alone: He et al. 2016b, figure 4 (e)."""
    x = F.conv2d(x, tensors["conv1.weight"], padding=1)
    for block, stride in strides:
        activated = norm(tensors, f"{block}.bn1", x).clamp(min=0)
        inner = norm(tensors, f"{block}.bn2", F.conv2d(activated, tensors[f"{block}.conv1.weight"], None, stride, 1))
        if f"{block}.shortcut.0.weight" in tensors:
            x = F.conv2d(x if is_raw else activated, tensors[f"{block}.shortcut.0.weight"], None, stride)
        x = x + F.conv2d(inner.clamp(min=0), tensors[f"{block}.conv2.weight"], None, 1, 1)
    if "bn.weight" in tensors:
        x = norm(tensors, "bn", x).clamp(min=0)
    return x.mean((2, 3)) @ tensors["linear.weight"].T + tensors["linear.bias"]


STRIDES = [
    (f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1) for stage in range(1, 5) for block in range(2)
]


@pytest.mark.parametrize("has_last_norm", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_the_network_is_its_formula(has_last_norm, is_raw):
    made = PreActResNet(3, width=4, has_last_norm=has_last_norm, is_shortcut_activated=not is_raw)
    network = toys.seeded(made).double()
    x = toys.pictures(2, side=32).double()
    with torch.no_grad():
        assert torch.allclose(network(x), answer(network.state_dict(), x, STRIDES, is_raw=is_raw), rtol=1e-9, atol=1e-9)


def circulating(*, has_last_norm):
    """The names of pytorch-cifar's PreActResNet18, and RobustBench's with a last norm."""
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    found = {"conv1.weight", "linear.weight", "linear.bias"}
    for block, _ in STRIDES:
        found |= {f"{block}.{norm}.{part}" for norm in ("bn1", "bn2") for part in parts}
        found |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
    found |= {f"layer{stage}.0.shortcut.0.weight" for stage in (2, 3, 4)}
    return found | ({f"bn.{part}" for part in parts} if has_last_norm else set())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_last_norm", [False, True])
@pytest.mark.parametrize("prefix", ["", "net."])
def test_the_names_of_the_weights_say_which_one_it_is(name, has_last_norm, prefix):
    weights = PreActResNet(10, has_last_norm=has_last_norm).state_dict()
    assert set(weights) == circulating(has_last_norm=has_last_norm)
    built = architectures.build(name, {f"{prefix}{key}": one for key, one in weights.items()}, 10)
    assert isinstance(built, PreActResNet) and (built.bn is not None) is has_last_norm
    assert built.layer2[0].is_shortcut_activated is (name == NAMES[0])
    assert weights["layer4.1.conv2.weight"].shape == (512, 512, 3, 3) and weights["conv1.weight"].shape == (64, 3, 3, 3)
    assert sum(parameter.numel() for parameter in built.parameters()) == 11_171_146 + (1024 if has_last_norm else 0)


def test_weights_of_another_network_are_refused():
    weights = PreActResNet(10).state_dict()
    del weights["layer4.0.shortcut.0.weight"]
    with pytest.raises(BadInput, match=r"1 missing \(layer4\.0\.shortcut\.0\.weight \(512, 256, 1, 1\)\)"):
        architectures.build("preact_resnet18", weights, 10)


def pixels(part):
    return images.fit(part.x, 1, (SIDE, SIDE))


def inputs(part):
    """(images, 1, 16, 16) in [-1, 1] and (images,) int64 labels."""
    return torch.from_numpy(images.to_float(pixels(part)[..., 0])).unsqueeze(1) * 2 - 1, torch.tensor(part.y)


def narrow(*, has_last_norm, is_raw):
    return PreActResNet(
        10, width=WIDTH, stages=2, channels=1, has_last_norm=has_last_norm, is_shortcut_activated=not is_raw
    )


@pytest.fixture(scope="module", params=[(False, False), (True, False), (True, True)], ids=["plain", "last norm", "raw"])
def trained(request):
    """A network of 8 and 16 maps trained on digits of 16 pixels for a second, and what kind it is."""
    has_last_norm, is_raw = request.param
    x, y = inputs(demo.training())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            network = narrow(has_last_norm=has_last_norm, is_raw=is_raw)
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=2e-2, total_steps=EPOCHS * -(-len(x) // 64)
            )
            for rows in (rows for _ in range(EPOCHS) for rows in torch.randperm(len(x)).split(64)):
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return network.eval(), request.param


@pytest.mark.slow
def test_a_small_one_learns_and_is_taken_whole(trained, tmp_path, monkeypatch):
    network, (_, is_raw) = trained
    x, y = inputs(demo.held_out())
    with torch.no_grad():
        answers = network(x)
    assert (answers.argmax(1) == y).float().mean() >= 0.9

    usual = Architecture(
        lambda tensors, _: narrow(has_last_norm=zoo.has_last_norm(tensors), is_raw=is_raw),
        (SIDE, SIDE),
        (0.5,),
        (0.5,),
    )
    monkeypatch.setitem(architectures.ARCHITECTURES, "narrow", usual)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    store = Store(tmp_path / "store")
    card = load.add(store, load.Submission("small", "narrow", tmp_path / "w.safetensors", CLASSES)).card
    assert len(card.sites) >= 9 and card.channels == 1
    bundle = load.bundle(store, "small")
    with torch.no_grad():
        assert torch.allclose(bundle.logits((x + 1) / 2).cpu(), answers, atol=1e-4)

    part = demo.held_out()
    register.add(store, "digits", Images(pixels(part), part.y, CLASSES, part.names), source="npz")
    place = Place("small", "digits")
    key = tasks.VALIDATION.key(store, place)
    worker.perform(tasks.order(tasks.VALIDATION, key, place), str(store.root))
    report = store.records.read("intake", key, ValidationReport)
    assert report.with_outcome("fail") == () and "accuracy" in report.with_outcome("pass")


def test_only_answers_tell_which_shortcut_weights_were_trained_with(trained):
    network, (has_last_norm, is_raw) = trained
    other = narrow(has_last_norm=has_last_norm, is_raw=not is_raw)
    other.load_state_dict(network.state_dict())
    x, y = inputs(demo.held_out())
    with torch.no_grad():
        right, wrong = ((item(x).argmax(1) == y).float().mean() for item in (network, other.eval()))
    assert wrong < right - 0.1


def test_every_connection_of_a_trained_one_is_exact(trained):
    network, _ = trained
    side = inputs(demo.held_out())[0].shape[2:]
    preprocessing = bundles.Preprocessing(1, tuple(side), (0.0,), (1.0,))
    bundle = bundles.bundle(network, preprocessing, bundles.Identity(tuple("0123456789"), "small"))
    # The stem's maps run along the shortcut past the first activation: they are feature maps of their own.
    assert [site.name for site in bundle.sites[:2]] == ["conv1", "layer1.0.relu"]
    pictures = same_function.pictures_to_compare(bundle, same_function.LEAST)
    edges, inexact = equality.of_edges(bundle, pictures)
    assert (edges.outcome, inexact) == ("pass", ())
    assert equality.of_function(network, bundle, pictures).outcome == "pass"
    assert equality.of_fields(bundle).outcome == "pass"
