"""`python -m engine prove` answers every study of a group, as JSON and as a table, and refuses in one line."""

from __future__ import annotations

import json

import pytest

from engine import __main__ as command_line
from engine.cli import command
from engine.patching import causal, minimal
from tests import stores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    return stores.copied(demo_store, tmp_path_factory.mktemp("prove") / "store")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    for module in (causal, causal, minimal, minimal):
        monkeypatch.setattr(module, "DRAWS", 2)
    monkeypatch.setattr(causal, "CLEAN_IMAGES", 20)
    monkeypatch.setattr(causal, "MEAN_IMAGES", 20)
    monkeypatch.setattr(minimal, "PASSES", 1)
    monkeypatch.setattr(causal, "COUNTS", (4, 16))


def intervene(store, out, *more: str) -> int:
    place = ["--store", str(store.root), "--model", "digits-standard", "--data", "digits", "--out", str(out)]
    return command_line.main(["prove", *place, "--attack", "pgd-linf:eps=24/255,steps=3", *more])


def test_all_studies_of_a_class_stand_in_the_file_and_in_the_table(store, tmp_path, capsys):
    assert intervene(store, tmp_path / "p.json", "--class", "3", "--images", "4", "--maps", "16") == 0
    table, found = capsys.readouterr().out, json.loads((tmp_path / "p.json").read_text())
    assert set(command.STUDIES) < set(found)
    assert found["attempted"] == list(store.dataset("digits").keys_of(3)[:4])
    assert sum(len(item) for item in found["proof"]["chosen"]["channels"]) == 16
    assert found["proof"]["effect"]["n"] == len(found["proof"]["samples"]) == len(found["smallest"]["images"])
    assert found["curve"]["counts"] == [4, 16]
    for head in (
        "Causal test: the 16 channels",
        "Smallest sets found",
        "Labels restored",
        "A few channels of one layer",
        "Defence:",
    ):
        assert head in table


def test_chosen_samples_and_one_study(store, tmp_path, capsys):
    samples = store.dataset("digits").keys_of(5)[:2]
    assert intervene(store, tmp_path / "p.json", "--sample", *samples, "--studies", "smallest", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["attempted"] == list(samples)
    assert set(command.STUDIES) & set(found) == {"smallest"}


def test_a_longer_search_is_asked_for_in_passes_and_told_with_its_bound(store, tmp_path, capsys):
    samples = store.dataset("digits").keys_of(5)[:2]
    assert intervene(store, tmp_path / "p.json", "--sample", *samples, "--studies", "smallest", "--passes", "150") == 0
    table, found = capsys.readouterr().out, json.loads((tmp_path / "p.json").read_text())
    assert found["smallest"]["passes"] == 150
    for head in (
        "no set of fewer channels than",
        "if more channels never undo",
        "of the same layers",
        "same search, ranked last",
    ):
        assert head in table


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--class", "horse"), "No class is called 'horse'"),
        (("--sample", "nobody"), "nobody"),
        (("--class", "3", "--images", "2", "--studies", "miracle"), "No study is called 'miracle'"),
        (("--class", "3", "--images", "2", "--maps", "9999"), "From 1 to"),
        (("--class", "3", "--images", "0"), "at least 1"),
        (("--class", "3", "--images", "2", "--passes", "0"), "--passes must lie in 1 to"),
    ],
)
def test_what_cannot_be_proved_is_refused_in_one_line(store, tmp_path, capsys, more, text):
    assert intervene(store, tmp_path / "p.json", *more) == 2
    error = capsys.readouterr().err
    assert text in error.splitlines()[-1]
    assert not (tmp_path / "p.json").exists()


def test_a_file_is_never_overwritten(store, tmp_path, capsys):
    (tmp_path / "p.json").write_text("mine")
    assert intervene(store, tmp_path / "p.json", "--class", "3") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "p.json").read_text() == "mine"
