"""Kills what an audit runs on, piece by piece, and compares what is left: `python -m tests.kill_audit --help`.

One plan is run three times, on copies of one store: in peace; with its worker, its server and its Dask scheduler killed in
the middle, each followed by the same command again; and on two workers. Of a run everything but its times is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import kill
from pathlib import Path

import pyarrow.parquet as pq

from engine.audit import manifest as manifests
from engine.audit import manifest as places
from engine.audit import results
from tests import audits
from tests.test_audit_processes import Cluster, place, processes_of, start, worker_of

PATIENCE = 4 * 3600
"""Seconds a run may take."""
ENDING = 90
"""Seconds that processes have for ending after the one they belong to was killed."""
BLOWS = 5
LOOK = 0.25
"""Seconds between two looks: more often would take the processors from what is watched."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One process that was killed."""

    killed: str
    done: int
    """Shards that were finished before."""
    orphans: int
    """Processes that were still there `ENDING` seconds later and should not have been."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run ended."""

    name: str
    status: str
    seconds: float
    blows: tuple[Blow, ...]
    differing: tuple[str, ...]
    """Files that are not those of the run in peace, byte for byte."""
    compared: int
    rows: int
    missing: int
    """Rows that the plan promises and the table lacks."""
    doubled: int
    made_again: int
    """Shards that were finished before a blow and written again after it."""
    """Shards in the catalogue."""
    total: int


def main() -> int:
    """Run all three and print the table; 0 where nothing differs, is lost, made twice or left running."""
    options = _options()
    options.out.mkdir(parents=True)
    folder = _copied(options, "peace")
    started = time.monotonic()
    found = [ended("in peace", (folder, folder), told(start_quietly(folder)), (time.monotonic() - started, None))]
    _say(_line(found[0]))
    for name in options.against:
        own, started = _copied(options, name), time.monotonic()
        cluster = Cluster(own)
        try:
            last, battle = COURSES[name](own, cluster)
        finally:
            cluster.kill(len(cluster.processes))
        found.append(ended(name, (own, folder), last, (time.monotonic() - started, battle)))
        _say(_line(found[-1]))
    _say("\n".join(["", *map(_line, found), *(_blow_line(blow) for one in found for blow in one.blows)]))
    return 0 if all(is_sound(item) for item in found) else 1


@dataclass(slots=True)
class Battle:
    """A run that is hit again and again."""

    folder: Path
    blows: list[Blow] = field(default_factory=list)
    written: dict[Path, int] = field(default_factory=dict)
    """When each shard was first seen finished, in nanoseconds."""

    def wait(self) -> None:
        """Wait until the next blow is due: they fall evenly over the run."""
        while not (self.folder / "store" / "runs").is_dir() or not places.listed(self.folder / "store"):
            time.sleep(LOOK)
        manifest = manifests.read(place(self.folder))
        due = manifest.shards * (len(self.blows) + 1) // (BLOWS + 1)
        while self.note() < due:
            time.sleep(LOOK)

    def note(self) -> int:
        """Take down when every finished shard was written, and return how many there are."""
        for receipt in (self.folder / "store" / "runs").glob("*/shards/*/block=*/_receipt.json"):
            self.written.setdefault(receipt, receipt.stat().st_mtime_ns)
        return len(self.written)

    def hit(self, killed: str, process: int, left: Callable[[], list[int]]) -> None:
        """Kill a process; `left` are those that must end with it."""
        done = self.note()
        kill(process, signal.SIGKILL)
        deadline = time.monotonic() + ENDING
        while left() and time.monotonic() < deadline:
            time.sleep(LOOK)
        self.blows.append(Blow(killed, done, len(left())))
        _say(_blow_line(self.blows[-1]))

    def made_again(self) -> int:
        """Return how many shards were written a second time."""
        return sum(one.stat().st_mtime_ns != at for one, at in self.written.items())


def fight(folder: Path, cluster: Cluster) -> tuple[dict, Battle]:
    """Drive a run while everything it needs is killed: on the cluster it starts itself, then on one of other processes."""
    battle, audit = Battle(folder), start_quietly(folder)
    battle.wait()
    battle.hit("worker", worker_of(audit.pid), list)
    battle.wait()
    battle.hit("server", audit.pid, lambda: _session(audit))
    cluster.start(1)
    audit = start_quietly(folder, *cluster.options)
    battle.wait()
    worker = cluster.processes.pop()
    battle.hit("worker of a cluster", worker.pid, lambda: _alive([worker]))
    cluster.start_worker()
    battle.wait()
    battle.hit("server at a cluster", audit.pid, lambda: _session(audit))
    audit = start_quietly(folder, *cluster.options)
    battle.wait()
    battle.hit("scheduler", cluster.processes[0].pid, lambda: _alive(cluster.processes))
    if (left := told(audit)["status"]) != "interrupted":
        raise RuntimeError(f"A run whose scheduler died says that it is {left}.")
    battle.note()
    cluster.kill(len(cluster.processes))
    cluster.start(1)
    return told(start_quietly(folder, *cluster.options)), battle


def share(folder: Path, cluster: Cluster) -> tuple[dict, None]:
    """Drive a run on two workers."""
    cluster.start(2)
    return told(start_quietly(folder, *cluster.options)), None


COURSES = {"killed": fight, "two-workers": share}


def ended(name: str, folders: tuple[Path, Path], last: dict, course: tuple[float, Battle | None]) -> Ended:
    """Return how a run ended, compared with the one in peace; course: its seconds, and what befell it."""
    (folder, peace), (seconds, battle) = folders, course
    manifest = manifests.read(place(folder))
    own, others = audits.tables(place(folder)), audits.tables(place(peace))
    rows = pq.read_table(place(folder).result / results.TABLE, columns=["role", "condition", "sample"]).to_pylist()
    distinct = {tuple(row.values()) for row in rows}
    return Ended(
        name=name,
        status=last["status"],
        seconds=seconds,
        blows=tuple(battle.blows) if battle else (),
        differing=tuple(sorted(path for path in own.keys() | others.keys() if own.get(path) != others.get(path))),
        compared=len(own),
        rows=len(rows),
        missing=len(manifest.conditions) * len(manifest.images.samples) - len(distinct),
        doubled=len(rows) - len(distinct),
        made_again=battle.made_again() if battle else 0,
        total=manifest.shards,
    )


def is_sound(one: Ended) -> bool:
    """Tell whether nothing was lost, changed, made twice or left running."""
    wrong = (one.missing, one.doubled, one.made_again, len(one.differing), sum(blow.orphans for blow in one.blows))
    return one.status == "finished" and not any(wrong)


def told(audit: subprocess.Popen) -> dict:
    """Wait for the command's end and return what it printed."""
    output, _ = audit.communicate(timeout=PATIENCE)
    if audit.returncode not in (0, 1, 3):
        raise RuntimeError(f"The audit ended with {audit.returncode}; see its audit.log.")
    return json.loads(output)


def start_quietly(folder: Path, *options: str) -> subprocess.Popen:
    """Start the command; hours of its progress would fill a pipe that nobody reads."""
    with (folder / "audit.log").open("a") as noise:
        return start(folder, *options, noise=noise)


def _copied(options: argparse.Namespace, name: str) -> Path:
    folder = options.out / name
    folder.mkdir()
    shutil.copytree(
        options.store, folder / "store", ignore=shutil.ignore_patterns("runs", "catalogue.sqlite*", "log.jsonl")
    )
    shutil.copy(options.plan, folder / "plan.toml")
    return folder


def _session(audit: subprocess.Popen) -> list[int]:
    """What is left of a killed command's session."""
    audit.poll()
    return processes_of(audit.pid)


def _alive(processes: list[subprocess.Popen]) -> list[int]:
    return [processe.pid for processe in processes if processe.poll() is None]


def _line(one: Ended) -> str:
    return (
        f"{one.name:<12} {one.status}, {one.seconds:.0f} s; {one.total} shards, "
        f"{one.made_again} made again; {one.rows} rows, {one.missing} missing, {one.doubled} doubled; "
        f"{len(one.differing)} of {one.compared} files differ{': ' if one.differing else ''}{', '.join(one.differing[:5])}"
    )


def _blow_line(one: Blow) -> str:
    return f"  {one.killed} killed at {one.done} shards: {one.orphans} processes left"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="A store with the plan's models and data.")
    parser.add_argument("--plan", type=Path, required=True, help="The plan, TOML.")
    parser.add_argument("--out", type=Path, required=True, help="A new folder for the three copies.")
    text = "What is compared with the run in peace; both if not given."
    parser.add_argument("--against", nargs="+", choices=COURSES, default=list(COURSES), help=text)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
