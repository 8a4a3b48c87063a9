"""Clusters that come and go: owners, guests, forks and what is left when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.jobs import Jobs, connection
from engine.jobs.connection import Connection
from engine.store import Store
from tests import errands
from tests.asking import ask, finish, is_running, key_of, starts, until

pytestmark = pytest.mark.cluster
CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def fresh_root(tmp_path) -> Path:
    return Store(tmp_path / "store").root


def test_closing_ends_every_process_and_the_next_one_takes_over(fresh_root):
    owner, guest = Jobs(fresh_root, errands.perform), Jobs(fresh_root, errands.perform)
    finish(owner, first := ask(owner, "finish", "one"))
    finish(guest, second := ask(guest, "finish", "two"))
    assert starts(fresh_root, first) == starts(fresh_root, second), "both must use one worker"
    lost = ask(guest, "wait", "lost with the owner")
    until(lambda: starts(fresh_root, lost))
    owner.close()
    worker = int(starts(fresh_root, first)[0])
    until(lambda: not is_running(worker))
    assert finish(guest, lost).state == "unknown"
    assert not (fresh_root / f"finished-{lost}").exists(), "lost is not done"
    (fresh_root / "go").touch()
    finish(guest, ask(guest, "wait", "lost with the owner"))
    assert (fresh_root / f"finished-{lost}").exists()
    assert len(starts(fresh_root, lost)) == 2
    guest.close()
    assert not (fresh_root / "cluster.json").exists()


def test_the_lock_is_free_after_its_holder_and_held_before(fresh_root):
    first, second = connection.ownership(fresh_root), connection.ownership(fresh_root)
    assert first.claim()
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()
    second.release()


def test_a_contact_left_by_a_dead_owner_is_not_believed(fresh_root):
    connection.publish(fresh_root, connection.Contact("tls://127.0.0.1:9", "no certificate", "no key"))
    own = Connection(fresh_root)
    assert own.client().status == "running"
    own.close()


OWNER = """
import sys, time
from pathlib import Path
from engine.jobs import Jobs
from tests import errands
if __name__ == "__main__":
    root = Path(sys.argv[1])
    jobs = Jobs(root, errands.perform)
    jobs.submit({"key": sys.argv[2], "do": sys.argv[3]}, priority="interactive", doing="testing")
    while jobs.progress(sys.argv[2]).state == "working" and not (root / "leave").exists():
        time.sleep(0.02)
    forbidden = [name for name in ("torch", "dash", "plotly") if name in sys.modules]
    print(forbidden, flush=True)
    if len(sys.argv) > 4:
        time.sleep(60)
    jobs.close()
"""


def owner(tmp_path: Path, root: Path, *arguments: str) -> subprocess.Popen:
    """Another process that owns the cluster of a store."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    chosen = {"OMP_NUM_THREADS", "MALLOC_ARENA_MAX"}
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    environment["PYTHONPATH"] = str(CHECKOUT)
    command = [sys.executable, str(script), str(root), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def processes_of(session: int) -> list[int]:
    """Living processes of a session: the leader and whatever it started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            found.append(int(entry.name))
    return found


def test_an_owner_loads_no_torch_and_ends_without_noise(tmp_path, fresh_root):
    process = owner(tmp_path, fresh_root, key_of("quiet"), "tell_environment")
    output, noise = process.communicate(timeout=40)
    assert (process.returncode, output.strip(), noise) == (0, "[]", "")
    until(lambda: not processes_of(process.pid), 5)
    # All cores for torch, few malloc arenas, and nothing in the worker has imported torch yet.
    assert (fresh_root / "environment").read_text() == f"{len(os.sched_getaffinity(0))},2,False"


def test_an_owner_that_leaves_in_the_middle_of_work_is_quick_and_quiet(tmp_path, fresh_root):
    process = owner(tmp_path, fresh_root, key_of("middle"), "wait")
    until(lambda: starts(fresh_root, key_of("middle")))
    (fresh_root / "leave").touch()
    output, noise = process.communicate(timeout=10)
    assert (process.returncode, output.strip(), noise) == (0, "[]", "")
    until(lambda: not processes_of(process.pid), 5)


@pytest.mark.slow
@pytest.mark.parametrize("do", ["wait", "finish"])
def test_an_owner_killed_leaves_no_orphan_and_the_next_one_finishes_its_work(tmp_path, fresh_root, do):
    key = key_of("killed")
    process = owner(tmp_path, fresh_root, key, do, "stay")
    until(lambda: starts(fresh_root, key))
    assert len(processes_of(process.pid)) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not processes_of(process.pid), 10)
    (fresh_root / "go").touch()
    jobs = Jobs(fresh_root, errands.perform)
    jobs.submit({"key": key, "do": do}, priority="interactive", doing="testing")
    assert finish(jobs, key).state == "unknown"
    assert (fresh_root / f"finished-{key}").exists()
    jobs.close()


@pytest.mark.slow
def test_a_guest_of_a_killed_owner_takes_over(tmp_path, fresh_root):
    process = owner(tmp_path, fresh_root, key_of("owner's"), "finish", "stay")
    until(lambda: (fresh_root / "cluster.json").exists())
    guest = Jobs(fresh_root, errands.perform)
    key = ask(guest, "wait", "guest's")
    until(lambda: starts(fresh_root, key))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finish(guest, key).state == "unknown"
    (fresh_root / "go").touch()
    finish(guest, ask(guest, "wait", "guest's"))
    assert (fresh_root / f"finished-{key}").exists()
    assert json.loads((fresh_root / "cluster.json").read_text())["address"].startswith("tls://127.0.0.1")
    guest.close()


FORK = """
import os, signal, sys, time
from pathlib import Path
from engine.jobs import Jobs
from tests import errands

def done(jobs, key):
    jobs.submit({"key": key, "do": "finish"}, priority="interactive", doing="testing")
    while jobs.progress(key).state == "working":
        time.sleep(0.02)
    return (root / f"finished-{key}").exists()

if __name__ == "__main__":
    root = Path(sys.argv[1])
    jobs = Jobs(root, errands.perform)
    before = done(jobs, "a" * 32)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        print(done(jobs, "b" * 32), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(before, done(jobs, "c" * 32), flush=True)
    jobs.close()
"""


@pytest.mark.slow
def test_a_fork_of_a_connected_process_connects_anew_and_does_not_disturb_its_parent(tmp_path, fresh_root):
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-W", "ignore", str(script), str(fresh_root)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, noise = process.communicate(timeout=40)
    finally:
        for item in processes_of(process.pid):
            os.kill(item, signal.SIGKILL)
    assert output.split() == ["True", "True", "True"], noise
