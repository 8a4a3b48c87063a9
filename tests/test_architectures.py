"""Architectures from elsewhere: the administrator's plug-ins, timm, and weights from the hub, each only where it is allowed."""

from __future__ import annotations

import os
import py_compile
import sys
import types
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from engine import __main__ as command_line
from engine import demo
from engine.errors import BadInput, UnknownName, Unsupported
from engine.models import architectures, plugins, register
from engine.store.store import Store
from tests import toys

SOURCE = """
from torch import nn
from tests import toys
SIZE, MEAN, STD = (8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
def build(weights, classes):
    return toys.Chain(classes=classes)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of plug-ins with one in it, `plugin/own`, as the administrator sets it up."""
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    (made / "own.py").write_text(SOURCE)
    (made / "own.py").chmod(0o644)
    monkeypatch.setenv(plugins.VARIABLE, str(made))
    return made


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(toys.seeded(toys.Chain()).state_dict(), path)
    return path


def submission(weights, name="m"):
    return register.Submission(name, "plugin/own", weights, toys.CLASSES)


def test_a_plugin_builds_networks_and_its_hash_is_part_of_what_a_model_is(tmp_path, folder, weights):
    store = Store(tmp_path / "store")
    card = register.add(store, submission(weights)).card
    assert card.plugin == plugins.source_hash("plugin/own") and card.size == (8, 8) and card.mean == (0.5,) * 3
    assert register.stored_hash(store, "m") == card.content_hash
    images = toys.pictures(3)
    assert torch.equal(
        register.bundle(store, "m").logits(images), toys.bundle(toys.seeded(toys.Chain())).logits(images)
    )
    (folder / "own.py").write_text(SOURCE + "# another one\n")
    other = register.add(Store(tmp_path / "other"), submission(weights)).card
    assert other.plugin != card.plugin and other.content_hash != card.content_hash


def test_a_plugin_that_changed_since_is_not_run(tmp_path, folder, weights):
    store = Store(tmp_path / "store")
    register.add(store, submission(weights))
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(BadInput, match="The source of 'plugin/own' changed since 'm' was added"):
        register.bundle(store, "m")


def test_a_compiled_copy_is_never_run_in_place_of_the_source(folder):
    (folder / "own.py").write_text("raise SystemExit('the compiled copy was run')\n")
    py_compile.compile(str(folder / "own.py"), doraise=True)
    status = (folder / "own.py").stat()
    (folder / "own.py").write_text(SOURCE)
    os.utime(folder / "own.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert isinstance(architectures.build("plugin/own", toys.seeded(toys.Chain()).state_dict(), 3), toys.Chain)


@pytest.mark.parametrize("what", ["own.py", "."])
def test_a_plugin_that_others_may_write_is_refused(folder, what):
    (folder / what).chmod(0o777)
    with pytest.raises(BadInput, match="may be written by others"):
        architectures.architecture("plugin/own")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1", "declares no function build"),
        ("import nothing_of_that_name", "fails: ModuleNotFoundError"),
        ("1 / 0", "fails: ZeroDivisionError"),
        ("def build(): pass\nSIZE = (1, 2, 3)", "must declare SIZE"),
    ],
)
def test_a_plugin_without_a_factory_is_refused_in_one_line(folder, source, reason):
    (folder / "own.py").write_text(source)
    with pytest.raises(BadInput, match=reason) as refused:
        architectures.architecture("plugin/own")
    assert "\n" not in str(refused.value)


FAILING = {
    "import sys; sys.exit(0)": "fails: SystemExit",
    "def build(weights, classes): raise KeyError('x')": "fails: KeyError",
    "def build(weights, classes): raise SystemExit(0)": "fails: SystemExit",
    "def build(weights): return None": "fails: TypeError",
    "def build(weights, classes): return None": "builds a NoneType, not a torch.nn.Module",
    f"{SOURCE}SIZE = 32": "must declare SIZE",
    f"{SOURCE}SIZE = 'ab'": "must declare SIZE",
    f"{SOURCE}SIZE = (8.0, 8.0)": "must declare SIZE",
    f"{SOURCE}SIZE = (100_000, 100_000)": "must be 8 to 1024 pixels",
    f"{SOURCE}RESIZE = 'x'": "RESIZE as a number",
    f"{SOURCE}RESIZE = 60_000": "--resize must be",
    f"{SOURCE}MEAN = None": "must declare MEAN and STD",
    f"{SOURCE}MEAN = ('a', 'b', 'c')": "must declare MEAN and STD",
    f"{SOURCE}MEAN = (float('nan'), 0, 0)": "must declare MEAN and STD",
    f"{SOURCE}MEAN = STD = ()": "must declare MEAN and STD",
    f"{SOURCE.replace('toys.Chain', 'Own')}class Own(toys.Chain):\n    def forward(self, x): 1 / 0": (
        r"cannot answer an image of 8x8 pixels in a batch of others \(own.py, line 8\): division by zero\."
    ),
}


@pytest.mark.parametrize("source", FAILING)
def test_whatever_a_plugin_does_wrong_is_told_in_one_line_and_nothing_is_stored(tmp_path, folder, weights, source):
    (folder / "own.py").write_text(source)
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput, match=FAILING[source]) as refused:
        register.add(store, submission(weights))
    assert "\n" not in str(refused.value) and store.models() == ()


def test_what_a_plugin_raises_cannot_forge_a_line(folder):
    (folder / "own.py").write_text("raise ValueError('a\\nforged\\x1b[31m')")
    with pytest.raises(BadInput, match=r"ValueError: a\\nforged\\x1b\[31m \(own\.py, line 1\)\.$"):
        architectures.architecture("plugin/own")


def test_a_plugin_whose_file_has_an_odd_name_is_not_offered(folder):
    (folder / "a\nb.py").write_text(SOURCE)
    (folder / "-x.py").write_text(SOURCE)
    assert plugins.names() == ("plugin/own",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["own.py", "."])
def test_a_plugin_of_another_user_is_refused(folder, what):
    os.chown(folder / what, 65534, 65534)
    with pytest.raises(BadInput, match="belongs to another user"):
        architectures.architecture("plugin/own")


@pytest.mark.parametrize(
    ("first", "linear"),
    [
        ((), ()),
        ((16,), (100, 2048)),
        ((1, 90_000, 4, 4), (100, 2048)),
        ((16, 90_000, 1, 1), (100, 2048)),
        ((16, 3, 4, 4), (5,)),
        ((16, 3, 4, 4), (1, 20_000_000)),
        ((16, 3, 4, 4), None),
    ],
)
def test_a_small_network_is_not_built_for_shapes_that_it_cannot_have(first, linear):
    tensors = {"0.weight": torch.empty(first), "5.weight": None if linear is None else torch.empty(linear)}
    with pytest.raises(BadInput, match=r"The weights do not fit small_cnn: it needs 0\.weight") as refused:
        architectures.build("small_cnn", {key: one for key, one in tensors.items() if one is not None}, 10)
    assert "\n" not in str(refused.value)


def digits_weights():
    return dict(safetensors.torch.load_file(demo.weights(demo.MODELS[0])))


@pytest.mark.parametrize(("dtype", "name"), [(torch.int8, "int8"), (torch.bool, "bool")])
def test_whole_numbers_are_not_taken_for_weights(dtype, name):
    whole = {key: tensor.to(dtype) if tensor.ndim == 4 else tensor for key, tensor in digits_weights().items()}
    with pytest.raises(BadInput, match=rf"conv1.weight holds {name}, needs float32.*dequantise them first"):
        architectures.build("digits_resnet", whole, 10)


def test_a_counter_that_is_no_whole_number_is_taken():
    tensors = {key: tensor.float() for key, tensor in digits_weights().items()}
    assert isinstance(architectures.build("digits_resnet", tensors, 10), nn.Module)


def test_a_list_of_classes_that_does_not_fit_is_named():
    with pytest.raises(BadInput, match="The class list names 9 classes, the weights answer for 10"):
        architectures.build("digits_resnet", digits_weights(), 9)
    cut = {key: tensor[:5] if key == "bn1.weight" else tensor for key, tensor in digits_weights().items()}
    with pytest.raises(BadInput, match=r"1 of another shape \(bn1.weight is \(5\), needs \(12\)\)\.$"):
        architectures.build("digits_resnet", cut, 10)


@pytest.mark.parametrize("name", ["plugin/other", "plugin/../own", "plugin/own.py", "plugin/"])
def test_only_what_lies_in_the_folder_is_run(folder, name):
    with pytest.raises(UnknownName):
        architectures.architecture(name)


def test_without_a_folder_there_are_no_plugins(monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    assert plugins.names() == ()
    with pytest.raises(UnknownName, match=plugins.VARIABLE):
        architectures.architecture("plugin/own")


def test_names_list_plugins_beside_the_others(folder):
    assert {"plugin/own", "cifar_resnet20", "resnet50"} <= set(architectures.names())


@pytest.fixture
def timm(monkeypatch):
    """A library that looks like timm."""
    config = {"input_size": (3, 96, 96), "crop_pct": 0.875, "mean": (0.1,) * 3, "std": (0.2,) * 3}
    library = types.ModuleType("timm")
    library.list_models = lambda: ["tiny"]
    library.create_model = lambda name, *, pretrained, num_classes, exportable: toys.Chain(classes=num_classes)
    library.get_pretrained_cfg = lambda name: types.SimpleNamespace(to_dict=lambda: config)
    monkeypatch.setitem(sys.modules, "timm", library)


def test_timm_gives_networks_by_name_with_the_preprocessing_it_declares(timm):
    found = architectures.architecture("timm/tiny")
    assert (found.size, found.resize, found.mean, found.std) == ((96, 96), 109, (0.1,) * 3, (0.2,) * 3)
    assert isinstance(architectures.build("timm/tiny", toys.Chain(classes=5).state_dict(), 5), nn.Module)
    with pytest.raises(UnknownName, match=r"No architecture of timm is called 'timm/tinny'\. Did you mean 'timm/tiny'"):
        architectures.architecture("timm/tinny")


def test_without_timm_its_names_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match="'timm/resnet50' needs timm, which is not installed here: pip install timm"):
        architectures.architecture("timm/resnet50")


def test_the_hub_says_what_it_fetches_and_checks_its_hash(monkeypatch):
    asked, told = [], []

    def download(address, file, *, hash_prefix, progress):
        asked.append((address, hash_prefix, list(told)))
        Path(file).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with architectures.fetched("resnet50", told.append) as file:
        assert file.name == "resnet50-0676ba61.pth" and file.exists()
    address = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    # It was told before anything was fetched.
    assert asked == [(address, "0676ba61", [f"Fetching {address}"])]
    assert not file.exists()


def test_where_the_network_does_not_allow_it_the_hub_says_what_to_do(tmp_path, monkeypatch, capsys):
    def refused(*arguments, **options):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(1000))))
    place = ["--store", str(tmp_path / "store"), "--name", "m", "--classes", str(tmp_path / "classes.txt")]
    assert command_line.main(["model", "add", *place, "--architecture", "resnet50", "--weights", "hub"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Fetching https://download.pytorch.org/")
    assert told[1].startswith(
        "error: resnet50-0676ba61.pth could not be fetched (Network is unreachable). Fetch https://"
    )
    assert told[1].endswith("and name the file: --weights resnet50-0676ba61.pth.") and len(told) == 2


def test_only_what_torchvision_published_is_on_the_hub():
    with (
        pytest.raises(BadInput, match="Only torchvision's classifiers have weights on the hub"),
        architectures.fetched("small_cnn", print),
    ):
        pass


def test_the_command_prints_the_table(capsys):
    assert command_line.main(["architectures", "--only", "alexnet", "vit_b_16"]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[0].startswith("| `alexnet` | 224 | 5 | ")
    assert rows[1].startswith(
        "| `vit_b_16` | 224 | refused | The operation 'encoder.layers.encoder_layer_0.self_attention' "
    )
    assert "lets every position weigh every other" in rows[1]


def test_an_image_that_a_network_cannot_answer_is_told_in_one_line():
    with pytest.raises(
        Unsupported, match=r"^The network cannot answer an image of 8x8 pixels in a batch of others: [^\n]+\.$"
    ):
        toys.bundle(architectures.architecture("alexnet").build({}, 3), side=8)
