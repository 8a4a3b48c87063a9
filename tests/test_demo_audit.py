"""The demo's own audit: made once, by one process, in a store of the demo alone, and not against anybody's will."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace

import pytest

from dashboard import __main__ as command_line
from dashboard import settings
from engine.audit.runs import AuditLog, Run, histories
from engine.errors import EngineError
from engine.service import demo_audit
from engine.service.answers import Answers
from engine.service.demo_audit import DemoAudit
from engine.service.driver import Runs
from engine.store import Store
from tests import audits, fakes, stores

SMALL = audits.PLAN.replace('model = "digits-standard"', 'model = "digits-standard"\nbaseline = "digits-robust"')


@pytest.fixture
def store(demo_store, tmp_path, monkeypatch):
    (tmp_path / "plan.toml").write_text(SMALL)
    monkeypatch.setattr(demo_audit, "PLAN", tmp_path / "plan.toml")
    monkeypatch.setattr(demo_audit, "LOOK", 0.02)
    return stores.copied(demo_store, tmp_path / "store")


def made(store, before=None, quiet=0.0) -> tuple[DemoAudit, Runs]:
    runs = Runs(Answers(store, audits.Inline(store.root, before)))
    result = DemoAudit(store, runs, quiet=quiet)
    result.begin()
    return result, runs


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this never became true"
        time.sleep(0.02)


def states(runs) -> list[str]:
    return [card.state.state for card in runs.cards()]


def test_it_is_made_once_and_says_who_asked(store):
    first, runs = made(store)
    until(lambda: states(runs) == ["finished"])
    assert histories(AuditLog(store.root).events())[runs.cards()[0].run].author == "demo"
    first.close()
    assert not demo_audit.is_wanted(store)
    again, later = made(store)
    assert again._thread is None
    assert len(later.cards()) == 1


def test_it_waits_for_the_models_and_for_the_first_screen(demo_store, store, tmp_path):
    empty = Store(tmp_path / "empty")
    waiting, runs = made(empty, quiet=0.3)
    time.sleep(0.2)
    assert states(runs) == []
    for folder in ("models", "data"):
        shutil.copytree(demo_store.root / folder, empty.root / folder, dirs_exist_ok=True)
    time.sleep(0.1)
    assert states(runs) == [], "the first screen has the worker for itself"
    until(lambda: states(runs) == ["finished"])
    waiting.close()


def test_one_process_of_two_makes_it(store):
    go_on = threading.Event()
    first, _ = made(store, lambda _task: go_on.wait(30))
    second, _ = made(store)
    assert second._thread is None
    go_on.set()
    first._thread.join()
    first.close()


def test_closing_ends_the_wait(store):
    waiting, runs = made(store, quiet=60)
    started = time.monotonic()
    waiting.close()
    assert time.monotonic() - started < 5
    assert not waiting._thread.is_alive()
    assert states(runs) == []


def test_an_interrupted_one_is_gone_on_with_and_a_stopped_one_is_not(store):
    def break_down(_task):
        raise EngineError("The worker is gone.")

    first, runs = made(store, break_down)
    until(lambda: states(runs) == ["interrupted"])
    first.close()
    assert demo_audit.is_wanted(store)
    run = Run.open(store, runs.cards()[0].run)

    def stop(_task):
        run.cancel()
        return False

    second, runs = made(store, stop)
    until(lambda: states(runs) == ["cancelled"])
    second.close()
    assert not demo_audit.is_wanted(store)


def test_a_store_with_anything_else_in_it_is_left_alone(store, small_demo_store):
    assert demo_audit.is_wanted(store)
    assert not demo_audit.is_wanted(small_demo_store), "its models were added by somebody"
    other = audits.planned(store, SMALL.replace("count = 6", "count = 4"))
    Run(store, other).begin()
    assert not demo_audit.is_wanted(store), "somebody audits here already"


def test_a_model_of_ones_own_is_enough_to_leave_a_store_alone(store):
    store.add_model(replace(fakes.MODELS[0], name="own"), b"weights")
    assert not demo_audit.is_wanted(store)


def test_it_can_be_switched_off():
    assert settings.from_environment({}).has_demo_audit
    assert not settings.from_environment({"FAULTLINE_DEMO_AUDIT": "0"}).has_demo_audit
    given = command_line._given(command_line.parser().parse_args(["--no-demo-audit"]))
    assert given == {"FAULTLINE_DEMO_AUDIT": "0"}


def test_the_real_plan_is_of_the_demo(demo_store):
    manifest = demo_audit.planned(demo_store)
    assert demo_audit.is_ready(demo_store)
    assert {model.name for model in manifest.models} == {"digits-standard", "digits-robust"}
    assert manifest.block <= 10, "whoever clicks waits for a piece of work at most"
