"""Work on a real local cluster: nothing lost, nothing done twice, nothing left running, every failure said clearly."""

from __future__ import annotations

import itertools
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import BadInput, WorkFailed
from engine.jobs import Jobs, Notes, connection, queue
from engine.jobs import worker as notes
from engine.store import Store
from tests import errands
from tests.asking import ask, askers, finish, key_of, starts, until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return Store(tmp_path_factory.mktemp("jobs") / "store").root


@pytest.fixture(scope="module")
def jobs(root) -> Iterator[Jobs]:
    """One cluster for all tests that leave it as they found it."""
    made = Jobs(root, errands.perform)
    yield made
    made.close()


@pytest.fixture
def fresh_root(tmp_path) -> Path:
    return Store(tmp_path / "store").root


def test_work_is_done_in_another_process_and_nothing_of_it_is_kept(jobs, root):
    key = ask(jobs, "finish", "plain")
    assert jobs.progress(key).state == "working"
    assert finish(jobs, key) == queue.Progress("unknown")
    assert (root / f"finished-{key}").exists()
    assert starts(root, key) != [str(os.getpid())]
    assert not list((root / "work").iterdir())
    client = jobs._connection.client()
    until(lambda: not client.futures)
    until(lambda: not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))


def test_quick_work_can_be_waited_for(jobs, root):
    finish(jobs, ask(jobs, "finish", "warm"))
    key = ask(jobs, "finish", "quick")
    jobs.wait(key, 5)
    assert (root / f"finished-{key}").exists()
    assert jobs.progress(key).state == "unknown"


def test_progress_is_written_at_most_five_times_a_second(fresh_root, monkeypatch):
    written, clock = [], [100.0]
    monkeypatch.setattr(Notes, "write", lambda _self, _key, note: written.append((clock[0], note.done)))
    monkeypatch.setattr(notes, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    report = Notes(fresh_root).reporter(key_of("seldom"))
    for done in range(300):
        report(done, 300, "Counting")
        clock[0] += 0.01
    assert written[0] == (100.0, 0), "the first report is seen at once"
    assert 12 <= len(written) <= 16
    assert all(later[0] - earlier[0] > 0.19 for earlier, later in itertools.pairwise(written))


def test_progress_is_seen_by_every_process(jobs, root):
    key = ask(jobs, "report", "progress")
    until(lambda: jobs.progress(key).total == 1000)
    progress = jobs.progress(key)
    assert (progress.state, progress.message) == ("working", "Counting")
    assert Notes(root).read(key).message == "Counting"
    (root / "go").touch()
    assert finish(jobs, key).state == "unknown"
    (root / "go").unlink()


def test_an_engine_error_arrives_as_its_text_in_every_process(jobs, root):
    key = ask(jobs, "refuse", "refused")
    assert finish(jobs, key) == queue.Progress(
        "failed", message="No attack is called 'pgdd'. Did you mean 'pgd'? Known: pgd."
    )
    assert Jobs(root, errands.perform).progress(key) == jobs.progress(key)


def test_any_other_error_is_an_id_without_trace_or_path(jobs):
    message = finish(jobs, ask(jobs, "stumble", "stumbled")).message
    assert message.startswith("The work ended with an internal error (id ")
    assert "secret" not in message


def test_failed_work_stands_for_a_while_and_can_then_be_asked_again(jobs, root, monkeypatch):
    key = ask(jobs, "refuse", "again")
    finish(jobs, key)
    ask(jobs, "refuse", "again")
    assert len(starts(root, key)) == 1
    jobs.forgive(key)
    assert jobs.progress(key).state == "unknown"
    ask(jobs, "refuse", "again")
    assert finish(jobs, key).state == "failed"
    assert len(starts(root, key)) == 2
    monkeypatch.setattr(queue, "RETRY_AFTER", 0.0)
    ask(jobs, "refuse", "again")
    monkeypatch.undo()
    assert finish(jobs, key).state == "failed"
    assert len(starts(root, key)) == 3


def test_a_clock_set_back_does_not_keep_a_failure_for_ever(jobs, root, monkeypatch):
    key = ask(jobs, "refuse", "clock")
    finish(jobs, key)
    monkeypatch.setattr(queue, "time", SimpleNamespace(time=lambda: 1000.0, monotonic=time.monotonic))
    assert Jobs(root, errands.perform).progress(key).state == "unknown"


def test_the_same_work_asked_by_several_is_done_once(jobs, root):
    other = Jobs(root, errands.perform)
    try:
        key = ask(jobs, "wait", "shared")
        ask(jobs, "wait", "shared")
        ask(other, "wait", "shared")
        until(lambda: askers(jobs, key) == 2 and starts(root, key))
        (root / "go").touch()
        finish(jobs, key)
        finish(other, key)
        assert len(starts(root, key)) == 1
    finally:
        other.close()
        (root / "go").unlink(missing_ok=True)
    assert finish(jobs, ask(jobs, "finish", "still there")).state == "unknown"


def test_an_explanation_overtakes_all_that_waits(jobs, root):
    blocking = ask(jobs, "wait", "blocking")
    until(lambda: starts(root, blocking))
    order: tuple[queue.Priority, ...] = (
        "shard",
        "certificate",
        "gallery",
        "interactive",
        "certificate",
        "roster",
        "interactive",
    )
    waiting = [ask(jobs, "finish", f"waits {k}", priority) for k, priority in enumerate(order)]
    until(lambda: all(askers(jobs, key) for key in waiting))
    (root / "go").touch()
    for key in waiting:
        finish(jobs, key)
    (root / "go").unlink()
    begun = sorted(range(len(waiting)), key=lambda k: (root / f"started-{waiting[k]}").stat().st_mtime_ns)
    assert begun == [3, 6, 5, 1, 4, 2, 0], "by priority, and in the order of asking where that is equal"


def test_what_waits_says_so_and_that_an_audit_is_the_cause(jobs, root):
    blocking = ask(jobs, "wait", "blocking still")
    until(lambda: starts(root, blocking))
    waiting = ask(jobs, "finish", "waits behind", "interactive")
    until(lambda: askers(jobs, waiting))
    alone = jobs.progress(waiting)
    shard = ask(jobs, "finish", "a part of an audit", "shard")
    beside_an_audit = jobs.progress(waiting)
    (root / "go").touch()
    for key in (blocking, waiting, shard):
        finish(jobs, key)
    (root / "go").unlink()
    assert (alone.message, alone.is_waiting) == ("Waiting for the worker.", True)
    assert (beside_an_audit.message, beside_an_audit.is_waiting) == (queue.AUDITING, True)


def test_a_worker_that_dies_is_replaced_and_its_work_begun_again(jobs, root):
    key = ask(jobs, "die_once", "dies once")
    assert finish(jobs, key).state == "unknown"
    assert (root / f"finished-{key}").exists()
    assert len(set(starts(root, key))) == 2


def test_work_that_kills_its_worker_is_given_up_and_the_work_behind_it_is_not(fresh_root):
    """Dask blames all that waits in the queue of a worker that dies."""
    jobs = Jobs(fresh_root, errands.perform)
    blocking = ask(jobs, "wait", "before the killer")
    until(lambda: starts(fresh_root, blocking))
    killer = ask(jobs, "die", "killer")
    innocent = ask(jobs, "finish", "innocent", "gallery")
    until(lambda: askers(jobs, innocent) and askers(jobs, killer))
    (fresh_root / "go").touch()
    assert finish(jobs, killer).message == "The worker died 3 times while testing the worker."
    assert finish(jobs, innocent).state == "unknown"
    assert len(starts(fresh_root, killer)) == 3
    assert len(starts(fresh_root, innocent)) == 1
    jobs.close()


def test_the_cluster_listens_on_loopback_and_its_contact_is_private(jobs, root):
    finish(jobs, ask(jobs, "finish", "contact"))
    found = connection.read(root)
    assert found.address.startswith("tls://127.0.0.1:")
    assert (root / "cluster.json").stat().st_mode & 0o777 == 0o600
    addresses = jobs._connection.client().run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.workers))
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)


def test_nothing_that_listens_answers_without_the_faithfulness(jobs):
    finish(jobs, ask(jobs, "die_once", "a worker started again must not open up either"))
    scheduler = jobs._connection.client().run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.port)
    (worker,) = jobs._connection.client().run(lambda dask_worker: dask_worker.http_server.port).values()
    for port in (scheduler, worker):
        for path in ("", "health", "info/main/workers.html", "json/counts.json", "metrics"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5)


def test_a_foreign_faithfulness_is_refused(jobs, root):
    from distributed import Client
    from distributed.security import Security

    finish(jobs, ask(jobs, "finish", "certificate"))
    with pytest.raises(OSError):
        Client(connection.read(root).address, security=Security.temporary(), timeout="1s", set_as_default=False)


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "10.0.0.1:8786", "http://x", "inproc://x", "", "TLS//x"])
def test_a_scheduler_without_tls_is_refused(root, address):
    with pytest.raises(BadInput):
        Jobs(root, errands.perform, scheduler=address)


def test_plain_tcp_is_possible_only_when_allowed(root):
    Jobs(root, errands.perform, scheduler="tcp://127.0.0.1:1", allow_plain=True).close()


@pytest.fixture
def foreign_cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster somebody else runs, and what a client's Dask configuration needs to reach it."""
    from distributed import LocalCluster
    from distributed.security import Security

    security = Security.temporary()
    tls = {
        "distributed.comm.tls.ca-file": security.tls_client_cert,
        "distributed.comm.tls.client.cert": security.tls_client_cert,
        "distributed.comm.tls.client.key": security.tls_client_key,
    }
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tls", "host": "127.0.0.1"}
    with LocalCluster(**options, dashboard_address="127.0.0.1:0", security=security, silence_logs=50) as cluster:
        yield cluster.scheduler_address, tls


def test_an_existing_cluster_does_the_work_and_none_is_started(fresh_root, foreign_cluster):
    import dask

    address, tls = foreign_cluster
    with dask.config.set(tls):
        jobs = Jobs(fresh_root, errands.perform, scheduler=address)
        assert finish(jobs, ask(jobs, "finish", "far away")).state == "unknown"
        jobs.close()
    assert not (fresh_root / "cluster.json").exists()


@pytest.mark.parametrize("part", ["batched", "core", "client"])
def test_a_connection_that_breaks_off_writes_no_trace(jobs, caplog, part):
    jobs._connection.client()
    logging.getLogger(f"distributed.{part}").info("Closed", exc_info=OSError("in the middle of sending"))
    assert caplog.records == []


def test_a_scheduler_that_cannot_be_reached_is_said_without_waiting(fresh_root, foreign_cluster):
    address, _tls = foreign_cluster
    jobs = Jobs(fresh_root, errands.perform, scheduler=address)
    started = time.monotonic()
    key = ask(jobs, "finish", "unreachable")
    assert time.monotonic() - started < 0.5
    assert finish(jobs, key).message == (
        "The configured scheduler could not be reached; check its address and certificates."
    )
    jobs.close()


def test_after_closing_no_work_is_taken(fresh_root):
    jobs = Jobs(fresh_root, errands.perform)
    jobs.close()
    jobs.close()
    with pytest.raises(WorkFailed):
        ask(jobs, "finish", "too late")


def test_work_that_is_stopped_ends_at_its_next_report_and_can_be_asked_again(jobs, root):
    key = ask(jobs, "count", "stopped")
    until(lambda: jobs.progress(key).done)
    begun = time.monotonic()
    jobs.stop(key)
    assert finish(jobs, key) == queue.Progress("failed", message=notes.STOPPED)
    assert time.monotonic() - begun < 10, "counting to the end takes 30 s"
    assert not list((root / "work").glob("*.stop"))
    jobs.forgive(key)
    assert ask(jobs, "count", "stopped") == key
    until(lambda: jobs.progress(key).done)
    jobs.stop(key)
    finish(jobs, key)
    jobs.stop(key_of("nobody's"))
    assert not list((root / "work").glob("*.stop")), "nothing is in flight under that key"
