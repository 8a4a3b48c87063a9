"""Writing that survives a crash: a folder appears whole under its name or not at all.

Temporary name in the same directory, fsync of every file, rename, fsync of the parent: measured with writers killed at
random moments, this order loses nothing and shows nothing torn.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StoreError

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
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        _sync(one.parent)


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
        return not _is_alive(int(parts[1]))
    return age > STRAY_AFTER


def _is_alive(process: int) -> bool:
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
