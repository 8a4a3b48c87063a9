"""Files of the store: names that are allowed, writes that are whole or not there, locks, hashes and sealed envelopes.

On top of them results by content key: written once, whole, and checked against their hashes whenever they are read.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, final

import numpy as np

from engine import hashing, serialization
from engine.errors import BadInput, StoreError
from engine.hashing import Schema

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY = re.compile(r"[0-9a-f]{32}")


def is_name(text: object) -> bool:
    """Tell whether a text may name a model or a data set."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def is_key(text: object) -> bool:
    """Tell whether a text is a content key."""
    return isinstance(text, str) and KEY.fullmatch(text) is not None


def require_name(kind: str, text: object) -> None:
    """Raise BadInput unless a text may name a new model or data set."""
    if not is_name(text):
        raise BadInput(
            f"'{str(text)[:80]}' cannot name a {kind}: use 1 to 64 letters, digits, '.', '_' and '-', "
            "and begin with a letter or digit."
        )


PREFIX = ".tmp-"
STRAY_AFTER = 30 * 60
"""Seconds after which a temporary name of another machine counts as left behind."""
REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}
HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"
log = logging.getLogger(__name__)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn what the operating system says into a StoreError without a path, for example while `writing a record`."""
    try:
        yield
    except OSError as error:
        reason = REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StoreError(
            f"The store failed while {doing}: {reason}. Nothing that was stored before is lost."
        ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends, or vanishes when it fails.

    Where `target` is there already, it stays as it is.
    """
    parent = target.parent
    _make_parents(parent)
    temporary = parent / f"{PREFIX}{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        if _rename_new(temporary, target):
            _settle(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a whole file in place of `path`, durably."""
    temporary = path.parent / f"{PREFIX}{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Take a folder out of the way at once, then remove it; another process may have been quicker."""
    doomed = folder.parent / f"{PREFIX}{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Remove temporary names that a dead process of this machine, or any machine long ago, left in a directory."""
    for entry in directory.glob(f"{PREFIX}*"):
        if _is_stray(entry):
            log.warning("Removing %s, left behind by a process that died.", entry.name)
            _remove(entry)


def _make_parents(folder: Path) -> None:
    missing = [item for item in (folder, *folder.parents) if not item.exists()]
    for item in reversed(missing):
        item.mkdir(mode=0o700, exist_ok=True)
        _sync(item.parent)


def _rename_new(temporary: Path, target: Path) -> bool:
    """Rename, and tell whether that was done: the first writer wins when two finish together."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _settle(target: Path) -> None:
    """See to it that a new folder survives a crash; one of which the disk does not say so is taken away again."""
    try:
        _sync(target.parent)
    except OSError:
        discard(target)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_stray(entry: Path) -> bool:
    try:
        age = time.time() - entry.stat().st_mtime
    except FileNotFoundError:
        return False
    parts = entry.name.removeprefix(PREFIX).split("-")
    if len(parts) == 3 and parts[0] == HOST and parts[1].isdigit():
        return not is_alive(int(parts[1]))
    return age > STRAY_AFTER


def is_alive(process: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


@final
class Lock:
    """An advisory lock on a file; processes that are spawned do not inherit it."""

    def __init__(self, path: Path, doing: str) -> None:
        """Prepare to hold the lock; `doing` says what failed where the disk refuses it."""
        self._path = path
        self._doing = doing
        self._descriptor: int | None = None

    def claim(self) -> bool:
        """Take the lock if it is free, and tell whether this object holds it now. Raises StoreError."""
        if self._descriptor is not None:
            return True
        with disk_errors(self._doing):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Free the lock if this object holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


EPOCH = (1980, 1, 1, 0, 0, 0)
"""One fixed date, so that equal arrays make equal files."""


class Corrupt(Exception):
    """What lies on the disk is not what was written; only the store sees this."""


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write arrays as an npz that numpy opens too, and return the hash of every member."""
    hashes = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = _packed(array)
            hashes[name] = hashing.bytes_hash(content)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), content)
    return hashes


def read(path: Path, hashes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the members named in `hashes`, read-only; raises Corrupt when one is not what was written."""
    results = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, expected in hashes.items():
                content = archive.read(f"{name}.npy")
                if hashing.bytes_hash(content) != expected:
                    raise Corrupt(f"{path.name}: {name} differs from what was written")
                results[name] = _unpacked(content)
    # RuntimeError and NotImplementedError: a flipped flag makes a member look encrypted or compressed.
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, RuntimeError, FileNotFoundError) as error:
        raise Corrupt(f"{path.name}: {error}") from error
    return results


def _packed(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _unpacked(content: bytes) -> np.ndarray:
    """Return the array over the very bytes that were checked, without a copy of them."""
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    shape, is_transposed, dtype = _header(buffer, version)
    if is_transposed or dtype.hasobject:
        raise ValueError("an array that no store wrote")
    return np.frombuffer(content, dtype, count=math.prod(shape), offset=buffer.tell()).reshape(shape)


def _header(buffer: io.BytesIO, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(buffer)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(buffer)
    raise ValueError(f"an array of version {version}")


FORMAT = 2
"""Stores of format 1, of version 0.1, name the class of a record where format 2 names its schema."""


@dataclass(frozen=True, eq=False, slots=True)
class Envelope:
    """A record's plain value and what its neighbours must hash to."""

    schema: Schema
    value: Any
    files: dict[str, str] = field(default_factory=dict)
    """Hash of each plain file in the folder."""
    archives: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per npz file the hash of each member."""


def pack(envelope: Envelope) -> bytes:
    """Return an envelope as JSON text that carries its own hash."""
    content = {
        "format": FORMAT,
        "schema": envelope.schema.name,
        "value": envelope.value,
        "files": envelope.files,
        "archives": envelope.archives,
    }
    return json.dumps({"hash": _hash(content), "content": content}, indent=1).encode()


def unpack(text: bytes, schema: Schema) -> Envelope:
    """Return the envelope of a schema.

    Raises Corrupt when the text is not what was written, and StoreError when it is whole and holds something else, such as
    what a newer version wrote: that is no damage, and nobody may take it away.
    """
    content = _checked(text)
    if content.get("format") not in (1, FORMAT):
        raise StoreError(
            f"This was stored in format {str(content.get('format'))[:20]}, and this Faultline reads formats 1 and {FORMAT}; "
            "open the store with the version that wrote it, or start a new store. Nothing was changed."
        )
    stored = str(content.get("noun" if content["format"] == 1 else "schema", "nothing"))
    if not schema.fits(stored):
        raise StoreError(
            f"This holds '{stored[:80]}', and this Faultline looks for '{schema.name}' here; open the store with the version "
            "that wrote it. Nothing was changed."
        )
    return Envelope(schema, content["value"], content["files"], content["archives"])


def file_hash(path: Path) -> str:
    """Return the hash of a file's bytes without holding them all."""
    with path.open("rb") as stream:
        return stream_hash(stream)


def stream_hash(stream: IO[bytes]) -> str:
    """Return the hash of what is left to read of an open file."""
    digest = hashing.running_hash()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _checked(text: bytes) -> dict[str, Any]:
    try:
        outer = json.loads(text)
    except ValueError as error:
        raise Corrupt(f"not JSON: {error}") from error
    if not isinstance(outer, dict) or not isinstance(outer.get("content"), dict):
        raise Corrupt("not an envelope")
    if outer.get("hash") != _hash(outer["content"]):
        raise Corrupt("differs from what was written")
    return outer["content"]


def _hash(content: Mapping[str, Any]) -> str:
    return hashing.bytes_hash(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


Record = TypeVar("Record")


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
        with disk_errors("writing a result"), new_folder(self._place(kind, key)) as folder:
            archives = {"arrays": write(folder / "arrays.npz", flat.arrays)}
            for name, arrays in (extras or {}).items():
                archives[name] = write(folder / f"{name}.npz", arrays)
            sealed = Envelope(hashing.schema(type(record)), flat.value, archives=archives)
            (folder / "record.json").write_bytes(pack(sealed))

    def read(self, kind: str, key: str, noun: type[Record]) -> Record:
        """Return a stored record; raises NotStored."""
        place = self._place(kind, key)
        try:
            sealed = self._sealed(place, hashing.schema(noun))
            arrays = read(place / "arrays.npz", sealed.archives["arrays"])
            return serialization.rebuild(noun, sealed.value, arrays)
        except Corrupt as error:
            raise self._discarded(place, error) from error
        except OSError as error:
            raise _unreadable(error) from error

    def remove(self, kind: str, key: str) -> None:
        """Take away what a whole result has replaced, if it is there. Raises StoreError."""
        place = self._place(kind, key)
        if place.is_dir():
            with disk_errors("removing what a result has replaced"):
                discard(place)

    def read_extra(
        self, kind: str, key: str, name: str, members: tuple[str, ...], noun: type
    ) -> tuple[np.ndarray, ...]:
        """Return some members of an extra archive; raises NotStored, also for a member that is not there."""
        place = self._place(kind, key)
        try:
            hashes = self._sealed(place, hashing.schema(noun)).archives.get(name, {})
            if not set(members) <= set(hashes):
                raise NotStored(f"This {kind} holds no {name} of that name.")
            result = read(place / f"{name}.npz", {member: hashes[member] for member in members})
        except Corrupt as error:
            raise self._discarded(place, error) from error
        except OSError as error:
            raise _unreadable(error) from error
        return tuple(result[member] for member in members)

    def sweep(self) -> None:
        """Remove what dead writers left behind."""
        for directory in self._folder.glob("*/*"):
            sweep(directory)

    def _place(self, kind: str, key: str) -> Path:
        if not is_name(kind) or not is_key(key):
            raise NotStored(f"No {kind[:40]} is stored under '{str(key)[:80]}'.")
        return self._folder / kind / key[:2] / key

    def _sealed(self, place: Path, expected: Schema) -> Envelope:
        try:
            text = (place / "record.json").read_bytes()
        except FileNotFoundError as error:
            if place.is_dir():
                raise Corrupt("record.json is missing") from error
            raise NotStored("No such result is stored.") from error
        return unpack(text, expected)

    def _discarded(self, place: Path, error: Corrupt) -> NotStored:
        """Take a damaged result away, so that it is computed again instead of trusted."""
        log.warning("Discarding the damaged result %s: %s", place.name, error)
        with disk_errors("discarding a damaged result"):
            discard(place)
        return NotStored("The stored result was damaged and has been discarded; ask again to compute it anew.")


def _unreadable(error: OSError) -> StoreError:
    return StoreError(f"A stored result cannot be read: {error.strerror or type(error).__name__}.")
