"""The inbox: a folder on the server from which models and data sets are added by id, never by a path of the browser's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, final

from engine import keys
from engine.data import leftovers
from engine.errors import BadInput, StoreError, UnknownName, printable
from engine.records.imports import DataOrder, DataTask, Entry, EntryKind, ModelOrder, ModelTask

SUFFIXES: Final[dict[str, EntryKind]] = {
    ".safetensors": "weights",
    ".pt": "weights",
    ".pth": "weights",
    ".bin": "weights",
    ".npz": "npz",
    ".csv": "csv",
    ".txt": "classes",
}
"""What a file is offered as; what it really is, its content decides when it is added."""
MOST: Final = 500
"""Entries that are listed."""
MOST_BELOW: Final = 100_000
"""Files of a folder by which it is known; measured, 50,000 take 0.2 s."""
KEY_WIDTH: Final = 16


@final
class Inbox:
    """The files and folders of one folder; hidden ones, what other programs left, links and names that cannot be shown are not."""

    def __init__(self, root: Path | None) -> None:
        """root: the folder, or None where the administrator has not set one; raises StoreError for one that is not there."""
        if root is not None and not root.is_dir():
            raise StoreError("The inbox is not a folder; make it, or start without one.")
        self._root = root.resolve() if root else None

    @property
    def is_set(self) -> bool:
        """Whether the administrator has set an inbox."""
        return self._root is not None

    def entries(self) -> tuple[Entry, ...]:
        """Return what can be added, by name; raises StoreError where the folder cannot be read."""
        return tuple(sorted((entry for entry, _ in self._found()), key=lambda one: one.name.casefold()))[:MOST]

    def left_out(self) -> str:
        """Return one sentence on what is hidden there or was left by other programs, empty for nothing; raises StoreError."""
        names = sorted(path.name for path in self._paths() if leftovers.is_left_over(path.name))
        return printable(leftovers.sentence(names)) if names else ""

    def path(self, key: str, kinds: tuple[EntryKind, ...]) -> tuple[Path, EntryKind]:
        """Return where an entry lies and what it is; raises UnknownName, BadInput for another kind."""
        for entry, path in self._found():
            if entry.key == key:
                if entry.kind not in kinds:
                    raise BadInput(f"'{entry.name[:80]}' is {entry.kind}; what is needed is {' or '.join(kinds)}.")
                return path, entry.kind
        raise UnknownName("entry of the inbox", key, [entry.name for entry, _ in self._found()])

    def model(self, order: ModelOrder) -> ModelTask:
        """Return an order with its files; raises UnknownName, BadInput."""
        weights, _ = self.path(order.entry, ("weights",))
        return ModelTask(order, str(weights), self._classes(order.classes))

    def data(self, order: DataOrder) -> DataTask:
        """Return an order with its files; raises UnknownName, BadInput."""
        source, kind = self.path(order.entry, ("npz", "folder", "csv"))
        if kind == "csv" and not order.images:
            raise BadInput("A table of pictures needs the folder in which they lie.")
        images = str(self.path(order.images, ("folder",))[0]) if order.images and kind == "csv" else None
        return DataTask(order, kind, str(source), self._classes(order.classes) if order.classes else None, images)

    def _classes(self, named: str) -> str | None:
        return None if named.startswith("data:") else str(self.path(named, ("classes",))[0])

    def _found(self) -> Iterator[tuple[Entry, Path]]:
        for path in self._paths():
            entry = None if leftovers.is_left_over(path.name) else _entry(path)
            if entry is not None:
                yield entry, path

    def _paths(self) -> list[Path]:
        try:
            return list(self._root.iterdir()) if self._root else []
        except OSError as error:
            raise StoreError(f"The inbox cannot be read: {error.strerror}.") from error


def unchanged(path: str, key: str) -> Path:
    """Return where an entry lies that is still what was ordered; raises BadInput where it changed since."""
    found = _entry(Path(path))
    if found is None or found.key != key:
        raise BadInput(f"{Path(path).name[:80]} changed since it was chosen; choose it again.")
    return Path(path)


def _entry(path: Path) -> Entry | None:
    """Return what lies there; None for a link, a device, something that vanished, or a file of another kind."""
    try:
        status = path.lstat()
    except OSError:
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    kind: EntryKind | None = "folder" if is_folder else SUFFIXES.get(path.suffix.lower())
    if kind is None or not (is_folder or stat.S_ISREG(status.st_mode)) or not path.name.isprintable():
        return None
    size, below = (0, _below(path)) if is_folder else (status.st_size, "")
    key = keys.content_key("inbox", path.name, size, _changed(status), below)[:KEY_WIDTH]
    return Entry(key, path.name, kind, size)


def _changed(status: os.stat_result) -> int:
    """When a file changed; a folder is known by what lies in it, since its own time tells of leftovers too."""
    return 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns


def _below(folder: Path) -> str:
    """Return a hash of the names, sizes and times of what lies below a folder; links are not followed."""
    digest = keys.running_hash()
    for path, status in islice(_walk(str(folder)), MOST_BELOW):
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        digest.update(f"{path}\0{size}\0{_changed(status)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                # A Mac or Windows that only looks into a folder leaves its own files there: the pictures are the same.
                kept = (entry for entry in found if not leftovers.is_left_over(entry.name))
                entries = sorted(kept, key=lambda entry: entry.name)
            told = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError:
            # What cannot be read is refused, with its name, when the folder is added.
            continue
        yield from told
        waiting += [path for path, status in told if stat.S_ISDIR(status.st_mode)]
