"""Results by content key: written once, whole, and checked against their hashes whenever they are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, final

import numpy as np

from engine import serialization
from engine.errors import StoreError
from engine.hashing import Schema, schema
from engine.store import files
from engine.store.files import Corrupt

Record = TypeVar("Record")
log = logging.getLogger(__name__)


class NotStored(StoreError):
    """No such result lies in the store, or what lay there was damaged and has been discarded."""


@final
class Shelf:
    """The folder `records/<kind>/<first two digits>/<key>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, kind: str, key: str) -> bool:
        """Tell whether a result lies in the store, without reading it."""
        return self._place(kind, key).is_dir()

    def write(
        self, kind: str, key: str, record: object, *, extras: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> None:
        """Store a record, and beside it extra archives whose members are read one by one.

        What is stored already under that key stays. Raises StoreError when the disk refuses.
        """
        flat = serialization.flatten(record)
        with files.disk_errors("writing a result"), files.new_folder(self._place(kind, key)) as folder:
            archives = {"arrays": files.write(folder / "arrays.npz", flat.arrays)}
            for name, arrays in (extras or {}).items():
                archives[name] = files.write(folder / f"{name}.npz", arrays)
            sealed = files.Envelope(schema(type(record)), flat.value, archives=archives)
            (folder / "record.json").write_bytes(files.pack(sealed))

    def read(self, kind: str, key: str, noun: type[Record]) -> Record:
        """Return a stored record; raises NotStored."""
        place = self._place(kind, key)
        try:
            sealed = self._sealed(place, schema(noun))
            arrays = files.read(place / "arrays.npz", sealed.archives["arrays"])
            return serialization.rebuild(noun, sealed.value, arrays)
        except Corrupt as error:
            raise self._discarded(place, error) from error
        except OSError as error:
            raise _unreadable(error) from error

    def read_extra(
        self, kind: str, key: str, name: str, members: tuple[str, ...], noun: type
    ) -> tuple[np.ndarray, ...]:
        """Return some members of an extra archive; raises NotStored, also for a member that is not there."""
        place = self._place(kind, key)
        try:
            hashes = self._sealed(place, schema(noun)).archives.get(name, {})
            if not set(members) <= set(hashes):
                raise NotStored(f"This {kind} holds no {name} of that name.")
            result = files.read(place / f"{name}.npz", {member: hashes[member] for member in members})
        except Corrupt as error:
            raise self._discarded(place, error) from error
        except OSError as error:
            raise _unreadable(error) from error
        return tuple(result[member] for member in members)

    def sweep(self) -> None:
        """Remove what dead writers left behind."""
        for directory in self._folder.glob("*/*"):
            files.sweep(directory)

    def _place(self, kind: str, key: str) -> Path:
        if not files.is_name(kind) or not files.is_key(key):
            raise NotStored(f"No {kind[:40]} is stored under '{str(key)[:80]}'.")
        return self._folder / kind / key[:2] / key

    def _sealed(self, place: Path, expected: Schema) -> files.Envelope:
        try:
            text = (place / "record.json").read_bytes()
        except FileNotFoundError as error:
            if place.is_dir():
                raise Corrupt("record.json is missing") from error
            raise NotStored("No such result is stored.") from error
        return files.unpack(text, expected)

    def _discarded(self, place: Path, error: Corrupt) -> NotStored:
        """Take a damaged result away, so that it is computed again instead of trusted."""
        log.warning("Discarding the damaged result %s: %s", place.name, error)
        with files.disk_errors("discarding a damaged result"):
            files.discard(place)
        return NotStored("The stored result was damaged and has been discarded; ask again to compute it anew.")


def _unreadable(error: OSError) -> StoreError:
    return StoreError(f"A stored result cannot be read: {error.strerror or type(error).__name__}.")
