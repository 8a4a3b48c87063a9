"""A damaged result is named, and comes back from the shards byte for byte, or not at all."""

from __future__ import annotations

import json

import pytest

from dashboard.panels.audits import view as audits_view
from dashboard.panels.confusion import view as confusion_view
from dashboard.panels.inside import view as inside_view
from dashboard.panels.rebuild import view as rebuild_view
from engine import __main__ as command_line
from engine.audit import rebuild, results
from engine.audit.runs import AuditLog, Run
from engine.audit.verify import verify
from engine.errors import BadInput, StoreError
from tests import audits, stores
from tests.watched import Watched

CUBE = "cube-candidate-squares.npy"
FILES = (CUBE, "cube-candidate-n.npy", results.TABLE, results.SUMMARY)


@pytest.fixture(scope="module")
def finished(small_demo_store, tmp_path_factory):
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("rebuild") / "store")
    return store, audits.drive(store, audits.planned(store))[0]


@pytest.fixture
def store(finished, tmp_path):
    return stores.copied(finished[0], tmp_path / "store")


@pytest.fixture
def run(finished, store):
    return Run.open(store, finished[1].id)


def damage(run, name: str) -> bytes:
    path = run.place.result / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + b"x" * 40)
    return whole


def quiet(*_told) -> None:
    pass


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_damaged_file_comes_back_byte_for_byte(store, run, name, is_missing):
    whole = damage(run, name)
    if is_missing:
        (run.place.result / name).unlink()
    assert rebuild.damaged(run.place) == (name,)
    before = rebuild.mark(run.place)
    assert rebuild.rebuild(store.root, run.id, quiet) == (name,)
    assert (run.place.result / name).read_bytes() == whole
    assert rebuild.damaged(run.place) == ()
    assert rebuild.mark(run.place) != before
    assert AuditLog(store.root).events()[-1].detail == name
    assert not list(run.place.folder.glob(".*")), "nothing half-made is left"
    assert rebuild.rebuild(store.root, run.id, quiet) == ()


def test_a_rebuilt_run_verifies(store, run):
    damage(run, CUBE)
    assert not verify(store, run.id, images=1, seed=0).is_sound
    rebuild.rebuild(store.root, run.id, quiet)
    assert verify(store, run.id, images=1, seed=0).is_sound


def test_a_damaged_shard_or_seal_is_named_and_nothing_is_changed(store, run):
    damage(run, CUBE)
    condition = run.manifest.conditions[1].folder
    rows = run.place.shard(condition, 0) / "rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-10])
    left = (run.place.result / CUBE).read_bytes()
    with pytest.raises(StoreError, match=f"Block 0 of {condition} is damaged too"):
        rebuild.rebuild(store.root, run.id, quiet)
    assert (run.place.result / CUBE).read_bytes() == left
    (run.place.result / results.SEAL).write_bytes(b"{}")
    with pytest.raises(StoreError, match="seal"):
        rebuild.rebuild(store.root, run.id, quiet)


def test_what_does_not_add_up_to_the_seal_is_not_put_back(store, run, monkeypatch):
    damage(run, CUBE)
    left = (run.place.result / CUBE).read_bytes()
    monkeypatch.setattr(results, "make", lambda folder, *_: (folder / CUBE).write_bytes(b"other"))
    with pytest.raises(StoreError, match="not what was sealed; nothing was changed"):
        rebuild.rebuild(store.root, run.id, quiet)
    assert (run.place.result / CUBE).read_bytes() == left


def test_a_run_that_goes_on_has_nothing_to_rebuild(small_demo_store, tmp_path):
    store = stores.copied(small_demo_store, tmp_path / "store")
    left, _, _ = audits.drive(store, audits.planned(store), lambda _task: False)
    assert rebuild.damaged(left.place) == ()
    with pytest.raises(BadInput, match="not finished"):
        rebuild.rebuild(store.root, left.id, quiet)


def text(facts) -> str:
    return json.dumps(facts, ensure_ascii=False)


def test_the_page_names_the_damage_and_a_button_mends_it(store, run):
    auditor = Watched(store)
    assert rebuild_view.answer(auditor, {"run": run.id})["state"] == "whole"
    damage(run, CUBE)
    facts = rebuild_view.answer(auditor, {"run": run.id, "act": "look"})
    assert (facts["state"], f"Damaged: {CUBE} is missing or not what was sealed" in text(facts)) == ("idle", True)
    assert (
        f"{CUBE} of the run's result is damaged; rebuild it" in inside_view.answer(auditor, {"run": run.id})[0]["lead"]
    )
    assert rebuild_view.answer(auditor, {"run": run.id, "act": "begin"})["state"] == "whole"
    assert inside_view.answer(auditor, {"run": run.id})[0]["state"] == "ready"
    assert rebuild_view.answer(auditor, {"run": "0" * 32})["state"] == "nothing"


def test_damaged_rows_are_named_by_every_part_that_needs_them(store, run):
    damage(run, results.TABLE)
    auditor = Watched(store)
    assert results.TABLE in confusion_view.answer(auditor, {"run": run.id})[0]["lead"]
    assert results.TABLE in text(audits_view.answer(auditor, {"run": run.id})[0]["audit"])


def test_the_command_says_what_it_rebuilt(store, run, capsys):
    damage(run, CUBE)
    assert command_line.main(["rebuild", run.id[:12], "--store", str(store.root)]) == 0
    assert f"Rebuilt {CUBE} as sealed" in capsys.readouterr().out
    assert command_line.main(["rebuild", run.id[:12], "--store", str(store.root)]) == 0
    assert "Nothing of the result is damaged" in capsys.readouterr().out
