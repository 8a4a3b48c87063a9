"""The commands `audit` and `verify`: what they print, and the exit codes that programs rely on."""

from __future__ import annotations

import json
import shutil

import pytest

from engine import __main__ as command_line
from engine.audit import manifest
from engine.cli import audit, command
from engine.errors import WorkFailed
from engine.store import Store
from tests import audits, stores


@pytest.fixture(scope="module")
def filled(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("commands") / "store").root


@pytest.fixture
def folder(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "store")
    (tmp_path / "plan.toml").write_text(audits.PLAN)
    return tmp_path


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    """Do the work in this process; the real workers have tests of their own."""
    monkeypatch.setattr(audit, "Jobs", lambda root, _perform, **_: audits.Inline(root, STOP.get("before")))
    STOP.clear()


STOP: dict = {}


def run(folder, *options: str) -> int:
    return command_line.main(["audit", str(folder / "plan.toml"), "--store", str(folder / "store"), *options])


def test_the_json_has_the_shape_that_was_agreed(folder, capsys):
    assert run(folder, "--json") == command.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "finished"
    assert found["run"] == manifest.listed(folder / "store")[0]
    assert set(found["clean"]) >= {"n", "accuracy", "low", "high"}
    (attack,) = found["conditions"]
    assert attack.startswith("fgsm-linf:eps=24/255")
    assert set(found["conditions"][attack]) >= {"n", "fooled", "robust_accuracy", "low", "high"}
    assert set(found["worst_case"]) >= {"n", "robust_accuracy", "low", "high"}
    assert [(item["name"], item["outcome"]) for item in found["thresholds"]] == [("clean", "pass")]
    assert found["seconds"] >= 0
    assert found["clean"]["n"] == found["conditions"][attack]["n"] == 6


def test_the_cost_is_told_before_a_run_and_not_again_when_it_is_taken_up(folder, capsys):
    STOP["before"] = lambda _task: False
    assert run(folder) == command.INTERRUPTED
    assert capsys.readouterr().err.startswith("custom: 6 images, ")
    STOP.clear()
    assert run(folder) == command.DONE
    assert "passes per image" not in capsys.readouterr().err


def test_a_pace_that_cannot_be_measured_does_not_stop_the_run(folder, capsys, monkeypatch):
    def refuse(*_: object) -> None:
        raise WorkFailed("The worker died.")

    monkeypatch.setattr(audit, "_forecast", refuse)
    assert run(folder) == command.DONE
    assert "What the run will cost cannot be told: The worker died." in capsys.readouterr().err


def test_only_where_every_threshold_is_passed_is_the_exit_code_0(folder, capsys):
    text = '[[thresholds]]\nname = "{0}"\ncondition = "worst-case"\nat_least = {1}\n'
    plan = folder / "plan.toml"
    plan.write_text(audits.PLAN.replace("24/255", "64/255") + text.format("failed", 0.99))
    assert run(folder) == command.FAILED
    printed = capsys.readouterr().out
    assert "Threshold 'failed': FAIL: accuracy under worst-case at least 99 %" in printed
    assert "Threshold 'clean': PASS" in printed
    assert "Clopper-Pearson" in printed
    assert "Verdict: FAIL" in printed
    plan.write_text(audits.PLAN.replace("at_least = 0.5", "at_least = 0.9"))
    assert run(folder) == command.FAILED
    printed = capsys.readouterr().out
    assert "Threshold 'clean': INCONCLUSIVE" in printed
    assert "more images are needed.\nVerdict: INCONCLUSIVE" in printed
    assert "PASS" not in printed
    plan.write_text(audits.PLAN)
    assert run(folder) == command.DONE
    assert "Verdict: PASS" in capsys.readouterr().out
    plan.write_text(audits.PLAN[: audits.PLAN.index("[[thresholds]]")])
    assert run(folder) == command.DONE
    printed = capsys.readouterr().out
    assert "Verdict: none: no thresholds were agreed" in printed
    assert "PASS" not in printed


def test_an_interrupted_run_is_exit_code_3_and_its_figures_are_marked(folder, capsys):
    done = []
    STOP["before"] = lambda task: bool(done.append(task)) or len(done) <= 3
    assert run(folder) == command.INTERRUPTED
    printed = capsys.readouterr()
    assert "PASS" not in printed.out
    assert "INTERIM: 3 of 6 shards. Blocks hold few classes each, so these figures will change." in printed.out
    assert "3/6 shards" in printed.err
    STOP.clear()
    assert run(folder) == command.DONE
    assert "INTERIM" not in capsys.readouterr().out


def test_a_run_is_verified_by_its_folder_or_the_beginning_of_its_id(folder, capsys):
    run(folder)
    store = Store(folder / "store")
    (name,) = manifest.listed(store.root)
    assert command_line.main(["verify", str(store.root / "runs" / name), "--images", "2"]) == command.DONE
    assert "The run is sound." in capsys.readouterr().out
    options = ["--store", str(store.root), "--images", "1", "--json"]
    assert command_line.main(["verify", name[:6], *options]) == command.DONE
    assert json.loads(capsys.readouterr().out)["run"] == name
    assert command_line.main(["verify", name, "--store", str(store.root), "--images", "0"]) == command.FAILED
    assert "no image was computed again, so the run was NOT verified" in capsys.readouterr().out
    shutil.rmtree(manifest.place(store.root, name).shard("00-candidate-clean", 0))
    assert command_line.main(["verify", name, *options]) == command.FAILED
    assert json.loads(capsys.readouterr().out)["damaged"] == ["block 0 of 00-candidate-clean: _receipt.json is missing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "RUN must be the folder of a run"),
        (["verify", "abc", "--store", "{store}"], "No run is called 'abc'"),
        (["verify", "0" * 32, "--store", "{store}"], "No run is called"),
        (["audit", "{plan}", "--store", "{store}", "--cancel"], "no run that could be cancelled"),
        (["audit", "missing.toml", "--store", "{store}"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(folder, capsys, arguments, message):
    known = {"store": str(folder / "store"), "plan": str(folder / "plan.toml")}
    assert command_line.main([argument.format(**known) for argument in arguments]) == command.BAD_INPUT
    noise = capsys.readouterr().err
    assert noise.count("\n") == 1
    assert message in noise
