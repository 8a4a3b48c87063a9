"""Audits in real processes: whichever of them is killed, the run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from engine.audit import manifest
from engine.audit.manifest import Place
from tests import audits, stores
from tests.asking import until
from tests.test_cluster import processes_of

CHECKOUT = Path(__file__).parent.parent
PLAN = audits.PLAN.replace("count = 6", "count = 24").replace(
    'attacks = ["fgsm-linf:eps=24/255"]', 'attacks = ["fgsm-linf:eps=24/255", "pgd-linf:eps=24/255,steps=40"]'
)
SHARDS = 36
NO_FIXED_PORT = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Without a dashboard Dask still opens its port, 8787: a second cluster of tests beside this one could not."""
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def filled(small_demo_store, tmp_path_factory) -> Path:
    """A store, and the plan beside it."""
    folder = tmp_path_factory.mktemp("processes")
    stores.copied(small_demo_store, folder / "store")
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def undisturbed(filled, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that one worker made in peace."""
    folder = copied(filled, tmp_path_factory.mktemp("peace"))
    audit = start(folder)
    output, noise = audit.communicate(timeout=300)
    assert audit.returncode == 0, noise
    assert json.loads(output)["status"] == "finished"
    return audits.tables(place(folder))


def copied(filled: Path, target: Path) -> Path:
    subprocess.run(["cp", "-r", *map(str, filled.iterdir()), str(target)], check=True)
    return target


def start(folder: Path, *options: str, noise: IO[str] | int = subprocess.PIPE) -> subprocess.Popen:
    """Start the documented command in a session of its own; what it tells meanwhile goes to `noise`."""
    command = [sys.executable, "-m", "engine", "audit", str(folder / "plan.toml"), "--store", str(folder / "store")]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [*command, "--json", *options],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=noise,
        text=True,
        start_new_session=True,
    )


def place(folder: Path) -> Place:
    root = folder / "store"
    (run,) = manifest.listed(root)
    return manifest.place(root, run)


def shards(folder: Path) -> int:
    return len(list((folder / "store" / "runs").glob("*/shards/*/block=*/_receipt.json")))


def worker_of(session: int) -> int:
    """The process of a session that computes: the one with torch in it."""
    for process in processes_of(session):
        if process != session and "libtorch" in Path(f"/proc/{process}/maps").read_text():
            return process
    raise LookupError("no worker")


def finish(folder: Path, audit: subprocess.Popen, undisturbed: dict[str, bytes]) -> None:
    """Wait for the end and compare: nothing lost, nothing twice, nothing left running, every byte the same."""
    output, noise = audit.communicate(timeout=300)
    assert audit.returncode == 0, noise
    assert json.loads(output)["shards"] == {"done": SHARDS, "total": SHARDS}
    assert audits.tables(place(folder)) == undisturbed
    until(lambda: not processes_of(audit.pid), 15)


def test_a_worker_killed_in_the_middle_is_replaced(filled, undisturbed, tmp_path):
    folder = copied(filled, tmp_path)
    audit = start(folder)
    until(lambda: shards(folder) >= 4, 120)
    os.kill(worker_of(audit.pid), signal.SIGKILL)
    finish(folder, audit, undisturbed)


def test_a_server_killed_in_the_middle_leaves_no_orphan_and_the_same_command_goes_on(filled, undisturbed, tmp_path):
    folder = copied(filled, tmp_path)
    audit = start(folder)
    until(lambda: shards(folder) >= 4, 120)
    audit.send_signal(signal.SIGKILL)
    audit.communicate()
    until(lambda: not processes_of(audit.pid), 20)
    before = shards(folder)
    assert 4 <= before < SHARDS
    written = {
        item: item.stat().st_mtime_ns for item in (folder / "store" / "runs").glob("*/shards/*/block=*/_receipt.json")
    }
    finish(folder, start(folder), undisturbed)
    assert all(item.stat().st_mtime_ns == written[item] for item in written), "what was done is not done again"


def test_a_polite_end_is_told_and_can_be_resumed(filled, undisturbed, tmp_path):
    folder = copied(filled, tmp_path)
    audit = start(folder)
    until(lambda: shards(folder) >= 2, 120)
    audit.send_signal(signal.SIGTERM)
    _, noise = audit.communicate(timeout=60)
    assert audit.returncode == 3, noise
    assert "the same command goes on" in noise
    finish(folder, start(folder), undisturbed)


def test_two_commands_on_one_store_make_every_shard_once(filled, undisturbed, tmp_path):
    folder = copied(filled, tmp_path)
    first, second = start(folder), start(folder)
    finish(folder, first, undisturbed)
    finish(folder, second, undisturbed)


class Cluster:
    """A scheduler and two workers, each a process of its own, with a test certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.processes: list[subprocess.Popen] = []
        self.files = faithfulness_checks(folder)

    @property
    def options(self) -> list[str]:
        names = ("--tls-ca", "--tls-cert", "--tls-key")
        chosen = [part for pair in zip(names, self.files, strict=True) for part in pair]
        return ["--scheduler", f"tls://127.0.0.1:{self.port}", *chosen]

    def start(self, workers: int = 2) -> None:
        self._run("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), *NO_FIXED_PORT)
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> None:
        self._run("dask_worker", f"tls://127.0.0.1:{self.port}", "--nthreads", "1", "--no-nanny", *NO_FIXED_PORT)

    def kill(self, count: int = 3) -> None:
        for process in self.processes[:count]:
            process.kill()
            process.wait()
        self.processes = self.processes[count:]

    def _run(self, program: str, *options: str) -> None:
        names = ("--tls-ca-file", "--tls-cert", "--tls-key")
        chosen = [part for pair in zip(names, self.files, strict=True) for part in pair]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options, *chosen]
        with (self.folder / "cluster.log").open("a") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log))


def faithfulness_checks(folder: Path) -> list[str]:
    """Write a certificate that is its own authority, as the local cluster uses."""
    from distributed.security import Security

    made = Security.temporary()
    files = []
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        path = folder / f"{name}.pem"
        path.write_text(getattr(made, name))
        files.append(str(path))
    return files


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.start()
    yield made
    made.kill(len(made.processes))


def test_two_workers_of_an_existing_cluster_make_the_same_bytes_as_one(filled, undisturbed, tmp_path, cluster):
    folder = copied(filled, tmp_path)
    finish(folder, start(folder, *cluster.options), undisturbed)
    assert not (folder / "store" / "cluster.json").exists(), "none is started"


def test_a_scheduler_killed_in_the_middle_is_an_interruption_and_never_a_success(
    filled, undisturbed, tmp_path, cluster
):
    folder = copied(filled, tmp_path)
    audit = start(folder, *cluster.options)
    until(lambda: shards(folder) >= 4, 120)
    cluster.kill()
    output, noise = audit.communicate(timeout=120)
    assert audit.returncode == 3, noise
    told = json.loads(output)
    assert (told["status"], told["is_interim"]) == ("interrupted", True)
    assert "Traceback" not in noise, noise
    cluster.start()
    time.sleep(1)
    finish(folder, start(folder, *cluster.options), undisturbed)


def test_plain_tcp_and_missing_faithfulness_are_refused(filled):
    for options, reason in (
        (["--scheduler", "tcp://127.0.0.1:1"], "needs TLS"),
        (["--scheduler", "tls://127.0.0.1:1", "--tls-ca", "a.pem"], "needs all of"),
        (
            ["--scheduler", "tls://127.0.0.1:1", "--tls-ca", "a", "--tls-cert", "b", "--tls-key", "c"],
            "no certificate file",
        ),
    ):
        audit = start(filled, *options)
        _, noise = audit.communicate(timeout=60)
        assert (audit.returncode, noise.count("\n")) == (2, 1)
        assert reason in noise
