"""Audits on a disk that is really full, and on one that is really read-only: file systems in a namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.audit import manifest
from tests import audits, stores

CHECKOUT = Path(__file__).parent.parent
ROOM = 400
"""KiB that the disk has left beyond the store: a few shards of the plan, not all."""
MOUNTING = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    trial = [*MOUNTING, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not can_mount(), reason="this system lets no user mount a disk"),
]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended."""

    code: int
    output: str
    noise: str

    @property
    def last(self) -> str:
        """The last line of what it told meanwhile."""
        return self.noise.rstrip("\n").rpartition("\n")[2]


@pytest.fixture
def folder(small_demo_store, tmp_path) -> Path:
    """A store, a plan of many small shards beside it, and a place for a disk."""
    stores.copied(small_demo_store, tmp_path / "store")
    (tmp_path / "plan.toml").write_text(audits.PLAN.replace("count = 6", "count = 24"))
    (tmp_path / "disk").mkdir()
    return tmp_path


def within(folder: Path, script: str) -> None:
    """Run a script that may mount; `audit NAME STORE` in it runs the command and keeps what it says as NAME."""
    audit = (
        f'audit() {{ code=0; "{sys.executable}" -m engine audit "{folder}/plan.toml" --store "$2" --json '
        f'> "{folder}/$1.out" 2> "{folder}/$1.err" || code=$?; echo $code > "{folder}/$1.code"; }}\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [*MOUNTING, "bash", "-euc", audit + script]
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr


def ended(folder: Path, name: str) -> Ended:
    code, output, noise = ((folder / f"{name}.{kind}").read_text() for kind in ("code", "out", "err"))
    return Ended(int(code), output, noise)


def tables(root: Path) -> dict[str, bytes]:
    (run,) = manifest.listed(root)
    return audits.tables(manifest.place(root, run))


def kib(folder: Path) -> int:
    return int(subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0])


def test_a_full_disk_interrupts_with_its_reason_and_with_room_the_same_command_finishes(folder):
    disk, store = folder / "disk", folder / "store"
    within(
        folder,
        f'''
        cp -r "{store}" "{folder}/peace"
        audit peace "{folder}/peace"
        mount -t tmpfs -o size={kib(store) + ROOM}k tmpfs "{disk}"
        cp -r "{store}" "{disk}/store"
        audit full "{disk}/store"
        cp -r "{disk}/store" "{folder}/left"
        mount -o remount,size=500m "{disk}"
        audit room "{disk}/store"
        cp -r "{disk}/store" "{folder}/room"
        ''',
    )
    peace, full, room = (ended(folder, name) for name in ("peace", "full", "room"))
    assert (peace.code, room.code) == (0, 0), room.noise
    assert full.code in (2, 3), full.noise
    assert "no space is left on the device" in (json.loads(full.output)["message"] if full.output else full.last)
    assert "Traceback" not in full.noise
    assert len(full.noise.splitlines()) < 20, full.noise
    before = {path: content for path, content in tables(folder / "left").items() if path.startswith("shards")}
    assert before, "some shards must have been stored before the disk was full"
    expected = tables(folder / "peace")
    assert all(expected[path] == content for path, content in before.items()), "what is there is whole"
    assert tables(folder / "room") == expected


def test_a_read_only_store_is_refused_in_one_line_and_stays_as_it_is(folder):
    store = folder / "store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    within(
        folder,
        f'''
        mount --bind "{store}" "{store}"
        mount -o remount,ro,bind "{store}"
        audit refused "{store}"
        ''',
    )
    refused = ended(folder, "refused")
    assert refused.code == 2, refused.noise
    assert refused.last.startswith("error: ")
    assert "cannot be written to" in refused.last
    assert len(refused.noise.splitlines()) == 1
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert refused.output == "" or json.loads(refused.output)
