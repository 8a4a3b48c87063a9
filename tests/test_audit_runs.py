"""Runs that are disturbed end as undisturbed ones do, or say clearly what is missing."""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
from engine import serialization
from engine.attacks import runner
from engine.attacks.attacked import Batch
from engine.attribution import explain
from engine.audit import manifest as manifests
from engine.audit import manifest as places
from engine.audit import results, runs, shards, verify
from engine.audit.runs import AuditLog, Run
from engine.data import register
from engine.data.sources import Images
from engine.errors import BadInput, StoreError, UnknownName
from engine.hashing import VERSION
from engine.jobs.queue import Progress
from engine.service import driver
from engine.store import Store, files
from engine.store.store import image_hash
from engine.types.core import ExplanationRequest
from tests import audits, stores


@pytest.fixture(scope="module")
def filled(small_demo_store, tmp_path_factory):
    """A store with models and data, to be copied."""
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("audit") / "store").root


@pytest.fixture
def store(filled, tmp_path):
    return Store(shutil.copytree(filled, tmp_path / "store"))


@pytest.fixture(scope="module")
def undisturbed(filled, tmp_path_factory):
    """A finished run: its store, the run and what nothing may change."""
    store = Store(shutil.copytree(filled, tmp_path_factory.mktemp("undisturbed") / "store"))
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "finished", state.message
    return store, run, audits.tables(run.place)


def test_a_run_is_named_by_the_hash_of_its_manifest_and_holds_everything(undisturbed):
    _, run, _ = undisturbed
    assert run.id == manifests.run_id(run.place.manifest.read_bytes())
    assert manifests.read(run.place) == run.manifest
    found = results.gathered(run.place, run.manifest)
    assert {name: len(one.samples) for name, one in found.items()} == {
        "00-candidate-clean": 6,
        "01-candidate-fgsm-linf": 6,
    }
    held = shards.read(run.place.shard("01-candidate-fgsm-linf", 0) / shards.ROWS)
    pictures = shards.images(run.place, "01-candidate-fgsm-linf", 0)
    assert pictures.shape == (2, 32, 32, 1)
    assert [image_hash(np.ascontiguousarray(picture)) for picture in pictures] == list(held.image_hashes)
    assert list(held.labels) == sorted(held.labels)
    for k in np.flatnonzero(held.is_scored):
        share = sum(np.abs(site[k].astype(np.float64)).sum() for site in held.scores)
        assert share == pytest.approx(run.manifest.models[0].maps, rel=1e-3)


def test_a_row_opens_as_the_explanation_of_its_image(undisturbed):
    store, run, _ = undisturbed
    condition, block = run.manifest.conditions[1], 0
    held = shards.read(run.place.shard(condition.folder, block) / shards.ROWS)
    place = list(held.status).index("fooled")
    plan = run.manifest.plan
    request = ExplanationRequest(
        plan.model, plan.data, engine.attack(condition.name), (held.samples[place],), plan.method, plan.seed
    )
    bundle = audits.bundle(store.root, plan.model)
    found, _ = explain.explain(bundle, store.dataset(plan.data), request, lambda *_: None)
    picture = shards.images(run.place, condition.folder, block)[place]
    assert np.array_equal(found.images["adversarial"][0], picture)
    assert (found.outcomes[0].status, found.outcomes[0].after.label) == ("fooled", held.after[place])
    for stored, shown in ((held.scores, found.adversarial.scores), (held.flow, found.flow)):
        expected, _ = shards.scaled([site[:1] for site in shown])
        for own, other in zip(stored, expected, strict=True):
            assert np.allclose(own[place].astype(float), other[0].astype(float), atol=2e-2, rtol=1e-2)


def test_a_finished_run_is_not_computed_again(undisturbed):
    store, run, tables = undisturbed
    started = time.process_time()
    again, state, workers = audits.drive(store, audits.planned(store))
    assert (again.id, state.state, workers.submitted) == (run.id, "finished", [])
    assert time.process_time() - started < 2
    assert audits.tables(run.place) == tables


def test_what_vanishes_without_a_trace_is_handed_in_again_and_nothing_is_duplicated(store, undisturbed):
    """A scheduler that dies ends its futures without an exception: the end of all work is not the end of the run."""
    seen = []

    def only_every_second(task):
        seen.append(task["key"])
        return len(seen) % 2 == 0

    run, state, _ = audits.drive(store, audits.planned(store), only_every_second)
    assert state.state == "finished"
    assert audits.tables(run.place) == undisturbed[2]


def test_work_that_always_vanishes_leaves_the_run_interrupted_and_never_finished(store):
    run, state, _ = audits.drive(store, audits.planned(store), lambda _task: False)
    assert state.state == run.state().state == "interrupted"
    assert "vanished 5 times" in state.message
    assert not results.is_finished(run.place)
    assert audits.drive(store, audits.planned(store))[1].state == "finished"


def test_a_run_goes_on_from_what_its_files_say_and_sweeps_up(store, undisturbed):
    done = []

    def stop_after_three(task):
        done.append(task)
        return len(done) <= 3

    run, state, _ = audits.drive(store, audits.planned(store), stop_after_three)
    assert (state.state, state.done) == ("interrupted", 3)
    (run.place.shards / "condition=00-candidate-clean" / f"{files.PREFIX}{files.HOST}-999999999-aa").mkdir()
    _, state, workers = audits.drive(store, audits.planned(store))
    assert (state.state, len(workers.submitted)) == ("finished", 3)
    assert audits.tables(run.place) == undisturbed[2]


@pytest.mark.parametrize("file", [shards.ROWS, shards.PART, shards.IMAGES, shards.RECEIPT])
def test_a_damaged_shard_is_found_by_its_hash_and_made_again(store, undisturbed, file):
    done = []
    run, _, _ = audits.drive(store, audits.planned(store), lambda task: bool(done.append(task)) or len(done) <= 5)
    (place,) = [item.parent for item in run.place.shards.glob(f"*fgsm*/block=00000/{file}")] or [None]
    content = bytearray((place / file).read_bytes())
    content[len(content) // 2] ^= 1
    (place / file).write_bytes(content)
    _, state, workers = audits.drive(store, audits.planned(store))
    assert (state.state, len(workers.submitted)) == ("finished", 2)
    assert audits.tables(run.place) == undisturbed[2]


def test_two_shards_exchanged_are_both_refused(store, undisturbed):
    done = []
    run, _, _ = audits.drive(store, audits.planned(store), lambda task: bool(done.append(task)) or len(done) <= 5)
    there = sorted(item.parent for item in run.place.shards.glob("*/*/_receipt.json"))[:2]
    there[0].rename(run.place.folder / "aside")
    there[1].rename(there[0])
    (run.place.folder / "aside").rename(there[1])
    _, state, workers = audits.drive(store, audits.planned(store))
    assert (state.state, len(workers.submitted)) == ("finished", 3)
    assert audits.tables(run.place) == undisturbed[2]


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "no space is left on the device"), (errno.EROFS, "the file system is read-only")],
)
def test_a_disk_that_refuses_is_named_and_nothing_is_lost(store, undisturbed, monkeypatch, number, reason):
    monkeypatch.setattr(files, "_rename_new", lambda *_: (_ for _ in ()).throw(OSError(number, "refused")))
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "interrupted"
    assert reason in state.message
    assert "Nothing that was stored before is lost" in state.message
    monkeypatch.undo()
    assert audits.drive(store, audits.planned(store))[1].state == "finished"
    assert audits.tables(run.place) == undisturbed[2]


def test_a_disk_that_fills_while_progress_is_noted_interrupts(store, monkeypatch):
    monkeypatch.setattr(runs, "NOTED_EVERY", 0.0)
    full = SimpleNamespace(
        loads=json.loads, dumps=lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    monkeypatch.setattr(runs, "json", full)
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "interrupted"
    assert "no space is left on the device" in state.message
    monkeypatch.undo()
    assert run.state().state == "interrupted"


def test_a_disk_that_fills_while_the_result_is_written_leaves_no_half_result(store, undisturbed, monkeypatch):
    monkeypatch.setattr(results, "_write_table", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    run, state, _ = audits.drive(store, audits.planned(store))
    assert run.state() == state
    assert state.state == "interrupted"
    assert "no space is left on the device" in state.message
    assert not run.place.result.exists()
    monkeypatch.undo()
    _, state, workers = audits.drive(store, audits.planned(store))
    assert (state.state, workers.submitted) == ("finished", [])
    assert audits.tables(run.place) == undisturbed[2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_refused_before_any_work(store):
    store.root.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            audits.drive(Store(store.root), audits.planned(store))
    finally:
        store.root.chmod(0o700)


def test_a_clock_that_jumps_changes_nothing(store, undisturbed, monkeypatch):
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 1e5 * next(jumps))
    jumping = SimpleNamespace(now=lambda zone: datetime.datetime.fromtimestamp(1e9 - 1e5 * next(jumps), zone))
    monkeypatch.setattr(runs, "datetime", SimpleNamespace(UTC=datetime.UTC, datetime=jumping))
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "finished"
    assert audits.tables(run.place) == undisturbed[2]
    assert [item.event for item in AuditLog(store.root).events()] == ["taken up", "finished"]


def test_a_cancelled_run_stops_between_batches_and_goes_on_later(store, undisturbed):
    run = Run(store, audits.planned(store))
    done = []

    def cancel_after_two(task):
        done.append(task)
        if len(done) == 3:
            run.cancel()
        return True

    _, state, workers = audits.drive(store, audits.planned(store), cancel_after_two)
    assert (state.state, state.done, len(workers.submitted)) == ("cancelled", 2, 3)
    assert run.state() == state
    assert audits.drive(store, audits.planned(store))[1].state == "finished"
    assert audits.tables(run.place) == undisturbed[2]


class Busy(audits.Inline):
    """Workers that are busy with other work: what is handed in waits."""

    def submit(self, task, *, priority, doing):
        self.submitted.append(task)
        return True

    def progress(self, key):
        return Progress("working", message="Waiting for the worker.", is_waiting=True)

    def wait(self, key, seconds):
        """Stop the run while it waits."""
        places.place(self.root, self.submitted[0]["request"]["run"]).cancel.touch()


def test_a_stopped_run_does_not_wait_for_the_work_of_others(store):
    run = Run(store, audits.planned(store))
    state = run.drive(Busy(store.root), driver.shard_task, lambda _state: None)
    assert (state.state, state.done) == ("cancelled", 0)
    assert audits.drive(store, audits.planned(store))[1].state == "finished"


def test_a_run_that_was_asked_to_stop_says_so_until_it_has(store):
    run = Run(store, audits.planned(store))
    seen = []

    def look(_task):
        seen.append(run.state().is_stopping)
        run.cancel()
        seen.append(run.state().is_stopping)
        return True

    _, state, _ = audits.drive(store, run.manifest, look)
    assert seen[:2] == [False, True]
    assert not state.is_stopping
    assert not run.state().is_stopping


def test_a_run_that_is_taken_up_says_so_before_its_files_are_looked_through(store, monkeypatch):
    audits.drive(store, audits.planned(store), lambda task: task["request"]["block"] != 0)
    run, seen, read = Run(store, audits.planned(store)), [], shards.check
    before = run.state()
    monkeypatch.setattr(shards, "check", lambda *asked: seen.append(run.state()) or read(*asked))
    audits.drive(store, audits.planned(store))
    assert (before.state, seen[0].state, seen[0].done) == ("interrupted", "running", before.done)
    assert before.done > 0


def test_only_a_run_that_was_begun_can_be_cancelled(store):
    with pytest.raises(BadInput, match="no run that could be cancelled"):
        Run(store, audits.planned(store)).cancel()


def test_a_second_driver_watches_and_finds_the_run_finished(store):
    manifest = audits.planned(store)
    first, second = Run(store, manifest), Run(store, manifest)
    told = []

    def look_on(state):
        told.append(state)
        if len(told) == 2:
            first._lock.release()

    first.begin()
    assert first._lock.claim()
    state = second.drive(audits.Inline(store.root), driver.shard_task, look_on)
    assert state.state == "finished"
    assert len(told) >= 2


def test_a_driver_that_vanished_left_the_run_interrupted(store):
    run = Run(store, audits.planned(store))
    run.begin()
    run.place.state.write_text('{"run": "x", "state": "running", "done": 1, "total": 6}')
    assert (run.state().state, run.state().message) == ("interrupted", "The process that drove the run ended.")
    assert run._lock.claim()
    assert Run(store, audits.planned(store)).state().state == "running"
    run._lock.release()


def test_a_worker_of_another_version_is_refused(store, monkeypatch):
    manifest = audits.planned(store)
    monkeypatch.setattr("engine.audit.manifest.VERSION", "9.9.9")
    _, state, _ = audits.drive(store, manifest)
    assert state.state == "interrupted"
    assert f"faultline {VERSION} was planned and 9.9.9 is installed" in state.message


def test_interim_results_are_marked_and_their_intervals_shrink(store):
    widths = []

    def look(_task):
        found = results.interim(run.place, run.manifest)
        assert found.is_interim
        worst = found.models[0].worst_case
        if worst is not None and worst.accuracy.n:
            widths.append((worst.accuracy.n, worst.accuracy.high - worst.accuracy.low))
        return True

    run = Run(store, audits.planned(store))
    audits.drive(store, run.manifest, look)
    assert widths and sorted(n for n, _ in widths) == [n for n, _ in widths]
    assert not results.read_summary(run.place, run.manifest).is_interim


def test_verify_finds_a_sound_run_sound(undisturbed):
    store, run, tables = undisturbed
    found = verify.verify(store, run.id, images=3, seed=0)
    assert found.is_sound, verify.text(found)
    assert [(item.images, item.same_answer) for item in found.replicated] == [(3, 3), (3, 3)]
    assert audits.tables(run.place) == tables


@pytest.mark.parametrize("what", ["table", "cube", "summary", "shard", "missing shard", "log", "seal"])
def test_verify_names_what_was_changed(undisturbed, tmp_path, what):
    store = Store(shutil.copytree(undisturbed[0].root, tmp_path / "changed"))
    run = Run.open(store, undisturbed[1].id)
    shard = run.place.shard("00-candidate-clean", 1)
    if what == "log":
        written = store.root / runs.FILE
        written.write_text(written.read_text().replace("0 of 6 shards", "6 of 6 shards", 1))
    elif what == "missing shard":
        shutil.rmtree(shard)
    else:
        place = {
            "table": run.place.result / results.TABLE,
            "cube": run.place.result / "cube-candidate-sums.npy",
            "summary": run.place.result / results.SUMMARY,
            "shard": shard / shards.ROWS,
            "seal": run.place.result / results.SEAL,
        }[what]
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)
    found = verify.verify(store, run.id, images=1, seed=0)
    assert not found.is_sound
    assert len(found.damaged) == 1


def test_verify_sees_a_result_that_was_sealed_again_around_another_summary(undisturbed, tmp_path):
    store = Store(shutil.copytree(undisturbed[0].root, tmp_path / "forged"))
    run = Run.open(store, undisturbed[1].id)
    summary = run.place.result / results.SUMMARY
    summary.write_text(summary.read_text().replace('"fooled": ', '"fooled": 1'))
    _, hashes = results.read_seal(run.place)
    hashes[results.SUMMARY] = files.file_hash(summary)
    seal = files.Envelope(
        results.Seal.SCHEMA, serialization.flatten(results.read_seal(run.place)[0]).value, files=hashes
    )
    (run.place.result / results.SEAL).write_bytes(files.pack(seal))
    found = verify.verify(store, run.id, images=0, seed=0)
    assert found.damaged == ("summary.json is not what the shards add up to",)


def test_pre_made_images_are_paired_by_name_and_measured(store):
    own = audits.some_digits()
    changed = own.x.copy()
    changed[:, 4:8] ^= 255
    order = np.argsort(own.names)[::-1][:20]
    given = Images(changed[order], own.y[order], own.classes, tuple(own.names[k] for k in order))
    register.add(store, "red-team", given, source="test")
    text = audits.PLAN.replace('"fgsm-linf:eps=24/255"', "") + (
        '[[premade]]\nname = "red"\ndata = "red-team"\nepsilon = "8/255"\n'
    )
    manifest = audits.planned(store, text)
    assert set(manifest.images.names) <= set(given.names)
    run, state, _ = audits.drive(store, manifest)
    assert state.state == "finished", state.message
    result = results.gathered(run.place, manifest)["01-candidate-red"]
    assert result.linf.max() == 1.0
    assert not result.in_budget.any()
    told = results.read_summary(run.place, run.manifest).models[0]
    assert told.conditions[1].outside_budget == 6
    assert told.conditions[1].accuracy.n == 0


def test_answers_that_are_not_finite_are_never_right_where_nobody_attacks():
    class Breaking:
        classes = ("ant", "bee")

        def logits(self, given: torch.Tensor) -> torch.Tensor:
            answers = torch.tensor([[1.0, 0.0]]).expand(len(given), 2)
            return torch.where(given.flatten(1).amax(dim=1, keepdim=True) > 0.5, torch.nan, answers)

    dark, bright = torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    found = runner.judged(Breaking(), Batch(dark, labels, ("a", "b")), bright)
    assert [item.status for item in found] == ["unperturbed", "failed"]
    assert all(np.isfinite(item.after.confidence) for item in found)
    with pytest.raises(BadInput, match="not finite"):
        runner.judged(Breaking(), Batch(bright, labels, ("a", "b")), bright)


def test_the_cube_answers_as_the_shards_do(undisturbed):
    _, run, _ = undisturbed
    held = [shards.read(run.place.shard("01-candidate-fgsm-linf", block) / shards.ROWS) for block in range(3)]
    values = np.concatenate([np.concatenate(item.scores, axis=1) for item in held]).astype(np.float64)
    labels = np.concatenate([item.labels for item in held])
    fooled = np.array([status == "fooled" for one in held for status in one.status])
    opened = results.open_cube(run.place, "candidate")
    for chosen in (None, [int(labels[fooled][0])], [int(labels[fooled][0]), int(labels[fooled][-1])]):
        own = fooled if chosen is None else fooled & np.isin(labels, chosen)
        found = opened.statistics(1, "fooled", labels=chosen)
        assert found.n == own.sum()
        assert np.allclose(found.mean, np.abs(values[own]).mean(axis=0))
        if found.n > 1:
            assert np.allclose(found.variance, np.abs(values[own]).var(axis=0, ddof=1), atol=1e-9)


def test_a_run_that_is_not_there_is_refused(store):
    with pytest.raises(UnknownName):
        Run.open(store, "0" * 32)
    assert places.listed(store.root) == []
