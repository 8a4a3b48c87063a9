"""Names in weights files: what tools put before and beside them is taken off and said, and no network is picked in silence."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from engine.errors import BadInput
from engine.models import architectures, checkpoints, register
from engine.models.architectures import Architecture
from engine.store import Store
from tests import toys

USUAL = (8, 8), (0.5,) * 3, (0.25,) * 3


class Wrapped(nn.Module):
    """A network that really has one part and nothing else."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.add_module(part, toys.Chain())

    def forward(self, x):
        return self.get_submodule(self.part)(x)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, made in {
        "chain": toys.Chain,
        "net": lambda: Wrapped("net"),
        "backbone": lambda: Wrapped("backbone"),
    }.items():
        usual = Architecture(lambda _tensors, _classes, made=made: made(), *USUAL)
        monkeypatch.setitem(architectures.ARCHITECTURES, name, usual)


NETWORK = toys.seeded(toys.Chain())
TENSORS = NETWORK.state_dict()
OTHER = toys.seeded(toys.Chain(), seed=1).state_dict()
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])


def under(prefix, tensors=TENSORS):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def inside(part):
    """As where only some parts of a network were wrapped."""
    return {key.replace("b.", f"b.{part}.") if key.startswith("b.") else key: value for key, value in TENSORS.items()}


def added(tmp_path, content, architecture="chain"):
    """What a file comes to: its stored network's answers and the notes."""
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        # Opened without a process of its own, which takes a second.
        safetensors.torch.save_file({key: value.clone() for key, value in content.items()}, tmp_path / "w.pt")
    else:
        torch.save(content, tmp_path / "w.pt")
    store = Store(tmp_path / "store")
    found = register.add(store, register.Submission("m", architecture, tmp_path / "w.pt", toys.CLASSES))
    assert register.stored_hash(store, "m") == found.card.content_hash
    return register.bundle(store, "m"), found.notes


def refused(tmp_path, content, architecture="chain"):
    with pytest.raises(BadInput) as caught:
        added(tmp_path, content, architecture)
    assert "\n" not in str(caught.value) and not Store(tmp_path / "store").models()
    return str(caught.value)


averaged = torch.optim.swa_utils.AveragedModel(NETWORK)
TAKEN = {
    "AveragedModel": (averaged.state_dict(), "counter 'n_averaged' was left out"),
    "AveragedModel, compiled": (
        {"n_averaged": torch.tensor(3)} | under("module._orig_mod."), "began with 'module._orig_mod.', which was taken off"
    ),
    "compiled, then data-parallel": (under("_orig_mod.module."), "began with '_orig_mod.module.'"),
    "data-parallel, then compiled": (under("module._orig_mod."), "began with 'module._orig_mod.'"),
    "Fabric": (under("_forward_module."), "began with '_forward_module.'"),
    "Fabric and DDP": (under("_forward_module.module."), "began with '_forward_module.module.'"),
    "Opacus": (under("_module."), "began with '_module.'"),
    "a part compiled": (inside("_orig_mod"), "Names held _orig_mod, which tools put there and which was taken off"),
    "sharded": (inside("_fsdp_wrapped_module"), "Names held _fsdp_wrapped_module"),
    "checkpointed": (inside("_checkpoint_wrapped_module"), "Names held _checkpoint_wrapped_module"),
    "Lightning": ({"state_dict": under("model.")}, "began with 'model.'"),
    "Lightning attribute net": ({"state_dict": under("net.")}, "begins with 'net.', which is taken off where"),
    "backbone": (under("backbone."), "begins with 'backbone.'"),
    "student": (under("student."), "begins with 'student.'"),
    "ema": (under("ema.module."), "begins with 'ema.module.'"),
    "model_ema": ({"model_ema": under("module."), "epoch": 3}, "The weights lay under 'model_ema'"),
    "number": (under("1."), "begins with '1.'"),
    "thop": (
        dict(TENSORS) | {"total_ops": torch.zeros(1), "a.total_params": torch.zeros(1)}, "2 counters of thop were left out"
    ),
    "thop and DDP": (under("module.") | {"module.b.total_ops": torch.zeros(1)}, "1 counters of thop"),
    "best beside the state": ({"best": {"accuracy": torch.zeros(1)}, "net": dict(TENSORS)}, "lay under 'net'; left out: best"),
    "two of equal values": ({"student": dict(TENSORS), "teacher": under("module.")}, "lay under 'student'"),
    "EMA beside the model": (
        {"model": dict(TENSORS), "model_ema": under("module.", OTHER)},
        "Other weights of the same names lie under 'model_ema'; to take those, save them alone",
    ),
}  # fmt: skip


@pytest.mark.cluster
@pytest.mark.parametrize("form", TAKEN)
def test_what_tools_put_around_names_is_taken_off_with_a_note(tmp_path, form):
    content, note = TAKEN[form]
    bundle, notes = added(tmp_path, content)
    images = toys.pictures(3)
    assert torch.equal(bundle.logits(images), toys.bundle(NETWORK).logits(images))
    assert any(note in item for item in notes), notes


REFUSED = {
    "Lightning with a loss": (
        under("model.") | {"criterion.weight": torch.ones(3)}, "All names of chain stand behind the prefix 'model.', and beside "
        "them criterion.weight: save that part alone, without the prefix."
    ),
    "student and teacher": (
        under("student.") | under("teacher.", OTHER), "holds the names of chain 2 times, behind the prefix 'student.' and "
        "behind the prefix 'teacher.', with different values: save the one that is meant alone"
    ),
    "the model and its average": (
        dict(TENSORS) | under("ema.", OTHER), "2 times, without a prefix and behind the prefix 'ema.', with different values"
    ),
    "online and average": (
        under("online_model.") | under("ema_model.", OTHER) | {"initted": torch.tensor(True), "step": torch.tensor(1)},
        "behind the prefix 'ema_model.' and behind the prefix 'online_model.'"
    ),
    "robustness": (
        under("module.model.") | under("module.attacker.model.") | {"module.normalizer.new_mean": MEAN.view(3, 1, 1),
        "module.normalizer.new_std": STD.view(3, 1, 1), "module.attacker.normalize.new_mean": MEAN.view(3, 1, 1)},
        "behind the prefix 'attacker.model.' and behind the prefix 'model.', with the same values, so either will do"
    ),
    "RobustBench": (
        under("model.") | {"normalize.mean": MEAN, "normalize.std": STD},
        "declare its values with --mean and --std (normalize.mean = 0.4914,0.4822,0.4465; normalize.std = 0.2471,0.2435,0.2616)"
    ),
    "a sequence": (
        under("1.") | {"0.mean": MEAN.view(1, 3, 1, 1), "0.std": STD.view(1, 3, 1, 1)},
        "(0.mean = 0.4914,0.4822,0.4465; 0.std = 0.2471,0.2435,0.2616)"
    ),
    "a normaliser among the names": (dict(TENSORS) | {"mean": MEAN, "std": STD}, "(mean = 0.4914,0.4822,0.4465; std ="),
    "a head elsewhere": (
        {f"backbone.{key}" if "linear" not in key else f"head.{key}": value for key, value in TENSORS.items()},
        "6 of the 8 names of chain stand behind the prefix 'backbone.', and not linear.weight, linear.bias"
    ),
    "two dictionaries": (
        {"student": dict(TENSORS), "teacher": dict(OTHER)}, "holds two networks of the same names, under 'student' and 'teacher'"
    ),
    "two usual dictionaries": (
        {"state_dict": dict(TENSORS), "model": under("module.", OTHER)}, "under 'state_dict' and 'model'"
    ),
}  # fmt: skip


@pytest.mark.cluster
@pytest.mark.parametrize("form", REFUSED)
def test_where_a_file_holds_more_or_other_than_the_network_the_way_out_is_named(tmp_path, form):
    content, reason = REFUSED[form]
    assert reason in refused(tmp_path, content)


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    text = refused(tmp_path, {"x.weight": torch.ones(2), "y.weight": torch.ones(2)})
    assert text.endswith("2 unexpected (x.weight (2), y.weight (2)).")


@pytest.mark.parametrize("part", ["net", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_network_that_really_has_the_part_keeps_it(tmp_path, part, prefix):
    bundle, _ = added(tmp_path, under(f"{prefix}{part}."), part)
    assert torch.equal(bundle.logits(toys.pictures(2)), toys.bundle(NETWORK).logits(toys.pictures(2)))


def test_a_model_stored_before_a_wrapper_was_known_still_fits(tmp_path):
    wrapped = torch.nn.Sequential()
    wrapped.add_module("_module", toys.Chain())
    usual = Architecture(lambda _tensors, _classes: wrapped, *USUAL)
    architectures.ARCHITECTURES["chain"] = usual
    for tensors in (under("_module."), TENSORS):
        built = architectures.build("chain", tensors, 3)
        assert torch.equal(built.get_submodule("_module").a.weight, TENSORS["a.weight"])


def test_names_that_would_become_one_stay_as_they_are(tmp_path):
    content = {"a.weight": torch.ones(2), "a._orig_mod.weight": torch.zeros(2)}
    safetensors.torch.save_file(content, tmp_path / "w.safetensors")
    with checkpoints.opened(tmp_path / "w.safetensors") as found:
        assert found.tensors.keys() == content.keys()


def test_a_registered_network_is_sized_by_its_weights_whatever_stands_before_them():
    sizes = {"0.weight": torch.zeros(16, 1, 4, 4), "5.weight": torch.zeros(100, 800)}
    network = architectures.architecture("small_cnn").build(sizes, 10)
    built = architectures.build("small_cnn", under("net.", network.state_dict()), 10)
    assert torch.equal(built[0].weight, network[0].weight)
