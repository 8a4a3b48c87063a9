"""Weights from anywhere: tensors come out under the architecture's names, and nothing in a file is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.data import sources as validation
from engine.errors import BadInput
from engine.models import architectures, checkpoints, unpickling


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


class Nested(Trap):
    """Hides the trap in the state that is put into a harmless dictionary."""

    def __reduce__(self):
        return collections.OrderedDict, (), None, None, iter([("weight", Trap(self.marker))])


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "sprung"


@pytest.fixture(scope="module")
def network():
    return architectures.architecture("small_cnn").build(
        {"0.weight": torch.zeros(16, 3, 4, 4), "5.weight": torch.zeros(100, 2048)}, 10
    )


def refusal(path):
    """The one line with which a file is refused."""
    with pytest.raises(BadInput) as refused, checkpoints.opened(path):
        pass
    text = str(refused.value)
    assert "\n" not in text and text.endswith(".") and text.startswith(path.name)
    return text


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_the_trap_springs_where_a_pickle_is_opened(marker):
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.is_dir()


def renamed_pickle(path, marker):
    path.write_bytes(pickle.dumps(Trap(marker), protocol=4))


def inside_a_state_dict(path, marker):
    torch.save({"weight": torch.zeros(2), "extra": Trap(marker)}, path)


def old_format(path, marker):
    torch.save({"weight": Trap(marker)}, path, _use_new_zipfile_serialization=False)


def nested_reduce(path, marker):
    torch.save({"state_dict": {"weight": Nested(marker)}}, path)


def object_array(path, marker):
    with path.open("wb") as file:
        np.savez(file, x=np.array([Trap(marker)], dtype=object), y=np.zeros(1, dtype=int))


def tar_archive(path, marker):
    with tarfile.open(path, "w") as archive:
        content = pickle.dumps(Trap(marker))
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def script(path, marker):
    zipped(path, [("m/data.pkl", pickle.dumps(Trap(marker))), ("m/code/__torch__.py", b"")])


def second_table(path, marker):
    harmless = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, harmless)
    path.write_bytes(harmless.getvalue())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(
            next(name for name in archive.namelist() if name.endswith("data.pkl")), pickle.dumps(Trap(marker))
        )


def exported(path, marker):
    zipped(path, [("m/archive_format", b"pt2"), ("m/data/sample_inputs/model.pt", pickle.dumps(Trap(marker)))])


DISGUISES = {
    renamed_pickle: "is not a safetensors file but a pickle, which runs code",
    inside_a_state_dict: f"pickles the Python object {os.name}.mkdir",
    old_format: "torch's format from before 1.6",
    nested_reduce: f"pickles the Python object {os.name}.mkdir",
    object_array: "an npz archive of numpy arrays",
    tar_archive: "a tar archive",
    script: "a TorchScript program",
    second_table: "some of them twice",
    exported: "a program of torch.export (.pt2)",
}


@pytest.mark.cluster
@pytest.mark.parametrize("disguise", DISGUISES, ids=lambda one: one.__name__)
def test_a_disguised_pickle_leaves_no_side_effect(tmp_path, marker, disguise):
    path = tmp_path / "weights.safetensors"
    disguise(path, marker)
    assert DISGUISES[disguise] in refusal(path)
    assert not marker.exists()


def test_a_pickle_in_a_data_set_leaves_no_side_effect(tmp_path, marker):
    object_array(tmp_path / "set.npz", marker)
    with pytest.raises(BadInput, match="holds Python objects"):
        validation.read_npz(tmp_path / "set.npz")
    assert not marker.exists()


@pytest.mark.cluster
@pytest.mark.parametrize(
    "act",
    [
        "open('left', 'w')", "os.mkdir('left')", "os.system('mkdir left')", "subprocess.run(['mkdir', 'left'])",
        "socket.socket().connect(('127.0.0.1', 9))", "os.remove('kept')", "os.rename('kept', 'left')", "os.fork()",
    ],
)  # fmt: skip
def test_were_the_unpickler_to_fail_its_process_would_end_before_it_acts(tmp_path, act):
    (tmp_path / "kept").write_text("")
    folder = str(Path(checkpoints.__file__).parent)
    program = f"""
import os, socket, subprocess, sys
sys.path.insert(0, {folder!r})
import unpickling
sys.addaudithook(unpickling._refuse)
try:
    {act}
except BaseException:
    pass
"""
    ended = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=False).returncode
    assert ended == unpickling.ENDED_BY_THE_HOOK
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


@pytest.mark.cluster
def test_a_checkpoint_is_unpacked_unwrapped_and_said_to_be(tmp_path, network):
    wrapped = {f"module._orig_mod.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"state_dict": wrapped, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "last.pth")
    with checkpoints.opened(tmp_path / "last.pth") as found:
        assert found.format == "state_dict"
        assert "lay under 'state_dict'; left out: epoch, optimizer" in found.notes[1]
        assert "began with 'module._orig_mod.'" in found.notes[2]
        stored = safetensors.torch.load_file(found.file)
    for tensors in (stored, found.tensors):
        assert tensors.keys() == network.state_dict().keys()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in network.state_dict().items())


def test_a_safetensors_file_is_taken_as_it_is_and_half_precision_is_widened(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}, path)
    with checkpoints.opened(path) as found:
        assert found.file == path and found.notes == ()
        assert found.tensors["a"].dtype == torch.float32 and found.tensors["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("names", "before"),
    [
        (("module.a", "module.b"), "module."),
        (("model.module.a", "model.module.b"), "model.module."),
        (("module.a", "b"), ""),
        (("layer.a", "layer.b"), ""),
        (("module.a", "module.model.b"), "module."),
        ((), ""),
    ],
)
def test_only_wrappers_that_stand_before_every_name_are_taken_off(names, before):
    assert checkpoints.wrapper(dict.fromkeys(names)) == before


def test_a_network_that_really_has_a_part_called_model_gets_its_names_back(monkeypatch, network):
    inner = torch.nn.Module()
    inner.model = torch.nn.Linear(2, 3)
    usual = architectures.Architecture(lambda tensors, classes: inner, (8, 8), (0.0,), (1.0,))
    monkeypatch.setitem(architectures.ARCHITECTURES, "inner", usual)
    built = architectures.build("inner", {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, 3)
    assert torch.equal(built.model.weight, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x08\x07\x12\x07pytorch", "an ONNX graph"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x93NUMPY\x01\x00", "one numpy array"),
        (b"nothing in particular", "of no known format"),
        (b"", "of no known format"),
        (b"PK\x03\x04 cut off", "a damaged zip archive"),
    ],
)
def test_other_formats_are_told_by_their_content(tmp_path, start, reason):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(start)
    assert reason in refusal(path)


def test_archives_that_torch_did_not_write_are_not_opened(tmp_path):
    path = tmp_path / "weights.pt"
    zipped(path, [("m/data.pkl", b"0" * 10_000)], zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in refusal(path)
    zipped(path, [("readme.txt", b"")])
    assert "none that torch.save wrote" in refusal(path)


@pytest.mark.cluster
def test_what_is_no_state_dict_is_said_to_be_none(tmp_path):
    torch.save({"epoch": 3, "names": {"a": "b"}}, tmp_path / "w.pt")
    assert "holds no state_dict" in refusal(tmp_path / "w.pt")


@pytest.mark.cluster
def test_a_value_that_stands_for_gigabytes_is_not_spread_out(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6)}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 2000
    assert "repeats the values of 'a' without holding them all" in refusal(tmp_path / "w.pt")


@pytest.mark.cluster
def test_tensors_that_share_their_values_are_taken(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": tied, "b": tied.t()}, tmp_path / "w.pt")
    with checkpoints.opened(tmp_path / "w.pt") as found:
        assert torch.equal(found.tensors["a"], tied) and torch.equal(found.tensors["b"], tied.t())


@pytest.mark.cluster
def test_the_ending_of_a_name_decides_nothing(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    with checkpoints.opened(tmp_path / "w.safetensors") as found:
        assert found.format == "state_dict" and torch.equal(found.tensors["a"], torch.ones(2))


def test_more_values_than_memory_is_there_for_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2, 3), "b": torch.ones(2)}, path)
    monkeypatch.setattr(checkpoints, "MOST_VALUES", 8)
    assert checkpoints.read(path).keys() == {"a", "b"}
    monkeypatch.setattr(checkpoints, "MOST_VALUES", 7)
    monkeypatch.setattr(safetensors.torch, "load_file", None)
    assert "holds 8 values; networks of at most 7 are taken" in refusal(path)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2, dtype=torch.complex64), "holds complex numbers in 'a'"),
        (torch.tensor([1e300], dtype=torch.float64), "NaN, infinity or numbers too large for float32 in 'a'"),
        (torch.zeros(0, 3), r"holds no values in 'a', which has the shape (0, 3)"),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(tmp_path, tensor, reason):
    safetensors.torch.save_file({"a": tensor}, tmp_path / "w.safetensors")
    assert reason in refusal(tmp_path / "w.safetensors")


@pytest.mark.cluster
def test_names_from_a_checkpoint_reach_nobodys_terminal(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "\nforged\x1b[31m": 1, "\ud800": 2}, tmp_path / "w.pt")
    with checkpoints.opened(tmp_path / "w.pt") as found:
        assert found.notes[1] == r"The weights lay under 'state_dict'; left out: \nforged\x1b[31m, \ud800."


@pytest.mark.cluster
def test_a_process_over_its_limits_is_refused(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    assert "could not be opened within" in refusal(tmp_path / "w.pt")
    monkeypatch.setattr(checkpoints, "SECONDS", 60)
    monkeypatch.setattr(checkpoints, "BASE_MEMORY", 2**26)
    assert "within its limits" in refusal(tmp_path / "w.pt")


UNSAFE = re.compile(r"weights_only\s*=\s*False|\bpickle\.loads?\b|\bjoblib\b|\byaml\.load\b|(?<![.\w])(?:eval|exec)\(")


def test_nothing_in_the_source_opens_a_file_without_restriction():
    root = Path(checkpoints.__file__).parents[2]
    sources = [path for package in ("engine", "dashboard") for path in (root / package).rglob("*.py")]
    assert [path.name for path in sources if UNSAFE.search(path.read_text(encoding="utf-8"))] == []
    assert UNSAFE.search("torch.load(file, weights_only=False)") and not UNSAFE.search("network.eval()")
