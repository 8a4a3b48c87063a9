"""Where the files of a run lie, relative to the store. Nothing here is ever made of what a browser sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import UnknownName
from engine.store import names

RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one run."""

    folder: Path

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name

    @property
    def manifest(self) -> Path:
        """Canonical JSON; its hash is the run's id."""
        return self.folder / "manifest.json"

    @property
    def state(self) -> Path:
        """How far the run is, rewritten while it goes on."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the process that drives the run."""
        return self.folder / "run.lock"

    @property
    def cancel(self) -> Path:
        """There while the run is to stop."""
        return self.folder / "cancel"

    @property
    def result(self) -> Path:
        """The folder of what a finished run says: there whole, or not at all."""
        return self.folder / "result"

    @property
    def shards(self) -> Path:
        """One folder per condition in it, one per block in that: the names are read as columns by Parquet readers."""
        return self.folder / "shards"

    def shard(self, condition: str, block: int) -> Path:
        """Return the folder of one shard."""
        return self.shards / f"condition={condition}" / f"block={block:05d}"


def place(root: Path, run: str) -> Place:
    """Return the place of a run; raises UnknownName for what is not an id."""
    if not names.is_key(run):
        raise UnknownName("run", run, listed(root))
    return Place(root / RUNS / run)


def listed(root: Path) -> list[str]:
    """Return the ids of all runs of a store."""
    folder = root / RUNS
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(one.name for one in found if names.is_key(one.name) and Place(one).manifest.is_file())
