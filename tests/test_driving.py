"""Runs that the server drives: begun once, taken up again, watched by anybody, and read without reading them anew."""

from __future__ import annotations

import shutil
import threading
import time

import pytest

from dashboard.panels.audits import view as audits_view
from engine import Answer, BadInput, UnknownName
from engine.audit import manifest, plan, report
from engine.service import driver, worker
from engine.service.answers import Answers
from engine.store import Store
from tests import audits, stores
from tests.asking import until

VALUES = {
    "model": "digits-standard", "data": "digits", "method": "none", "attacks": ["fgsm-linf:eps=24/255"],
    "controls": False, "threads": 1, "images": {"count": 6, "block": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(small_demo_store, tmp_path_factory):
    """A store, and its network loaded: tracing one while another thread computes with it fails, and workers have one thread."""
    root = stores.copied(small_demo_store, tmp_path_factory.mktemp("driving") / "store").root
    audits.bundle(root, VALUES["model"])
    return root


@pytest.fixture
def store(filled, tmp_path):
    return Store(shutil.copytree(filled, tmp_path / "store"))


def runs(store, before=None) -> driver.Runs:
    return driver.Runs(Answers(store, audits.Inline(store.root, before)))


def state(own: driver.Runs, run: str) -> str:
    return own.view(run).card.state.state


def test_a_run_that_is_started_twice_is_one_run_and_driven_once(store):
    own = runs(store)
    assert own.start(VALUES) == (run := own.start(VALUES))
    own.close()
    assert state(own, run) == "finished"
    assert len(own.cards()) == 1
    assert len(own._jobs.submitted) == 6


def test_a_run_that_was_interrupted_goes_on_where_it_was(store):
    done = []
    own = runs(store, lambda task: bool(done.append(task)) or len(done) <= 3)
    run = own.start(VALUES)
    own.close()
    assert state(own, run) == "interrupted"
    again = runs(store)
    again.resume(run)
    again.close()
    assert state(again, run) == "finished"
    assert len(again._jobs.submitted) == 3


def test_a_cancelled_run_stops_and_can_be_taken_up(store):
    own = runs(store)
    own._jobs.before = lambda _task: own.cancel(run) or True
    run = driver.Run(store, driver.planned(store, VALUES)).id
    own.start(VALUES)
    own.close()
    assert state(own, run) == "cancelled"
    own._jobs.before = None
    own.resume(run)
    own.close()
    assert state(own, run) == "finished"


def test_a_run_goes_on_from_the_moment_it_is_taken_up(store, monkeypatch):
    own = runs(store, lambda _task: False)
    run = own.start(VALUES)
    own.close()
    assert state(own, run) == "interrupted"
    may_go_on = threading.Event()
    monkeypatch.setattr(driver.Run, "drive", lambda *_: may_go_on.wait(20))
    own.resume(run)
    assert (state(own, run), [card.state.state for card in own.cards()]) == ("running", ["running"])
    may_go_on.set()
    own.close()
    assert state(own, run) == "interrupted"


def test_two_servers_of_one_store_make_every_shard_once(store):
    first, second = runs(store, lambda _task: time.sleep(0.05) or True), runs(store)
    run = first.start(VALUES)
    until(lambda: first._jobs.submitted)
    assert second.start(VALUES) == run
    assert state(second, run) == "running"
    first.close()
    second.close()
    assert state(second, run) == "finished"
    assert (len(first._jobs.submitted), second._jobs.submitted) == (6, [])


@pytest.mark.parametrize("run", ["", "x", "0" * 32, "../../etc"])
def test_an_unknown_run_is_refused(store, run):
    for act in (runs(store).resume, runs(store).cancel, runs(store).view):
        with pytest.raises(UnknownName):
            act(run)


def test_a_wrong_plan_names_the_place_of_what_is_wrong(store):
    with pytest.raises(plan.WrongPlan) as caught:
        runs(store).forecast({**VALUES, "images": {"count": 0}})
    assert caught.value.place == ("images", "count")
    with pytest.raises(BadInput, match="only 40 are there"):
        runs(store).start({**VALUES, "images": {"count": 99}})
    assert not (store.root / "runs").exists()


def test_a_pace_is_measured_once_and_its_failure_is_told(store, monkeypatch):
    own = runs(store)
    assert own.forecast(VALUES).state == "ready"
    monkeypatch.setattr(worker, "perform", lambda *_: pytest.fail("it is known"))
    assert own.forecast(VALUES).state == "ready"

    class Dead(audits.Inline):
        def submit(self, task, *, priority, doing):
            self.failures[task["key"]] = "The worker died."
            return True

    other = driver.Runs(Answers(store, Dead(store.root)))
    assert other.forecast({**VALUES, "method": "gradient"}) == Answer("failed", message="The worker died.")


class Counted:
    """The page's questions, with how often a manifest is read and written out."""

    def __init__(self, store, monkeypatch) -> None:
        self.store, self.audits, self.counts = store, runs(store), {"parse": 0, "text": 0}
        for name in self.counts:
            monkeypatch.setattr(manifest, name, self.counting(name, getattr(manifest, name)))

    def counting(self, name, function):
        def counted(*arguments):
            self.counts[name] += 1
            return function(*arguments)

        return counted

    def attacks(self):
        return ()

    def attack_sanity(self, run):
        report.checked(self.store, run)
        return Answer("working")


def test_a_manifest_is_read_and_hashed_once_however_often_the_page_looks(store, monkeypatch):
    run, _, _ = audits.drive(store, driver.planned(store, VALUES))
    manifest._read.cache_clear()
    auditor = Counted(store, monkeypatch)
    for _ in range(3):
        audits_view.answer(auditor, {"run": run.id})
    assert auditor.counts == {"parse": 1, "text": 0}


def test_the_list_of_hundreds_of_runs_is_read_once(store, monkeypatch):
    for seed in range(12):
        driver.Run(store, driver.planned(store, {**VALUES, "seed": seed})).begin()
    auditor = Counted(store, monkeypatch)
    for _ in range(3):
        assert len(auditor.audits.cards()) == 12
    assert auditor.counts["parse"] == 12
