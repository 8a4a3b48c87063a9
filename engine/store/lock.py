"""A lock between processes that the system frees when its holder dies, however."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import final

from engine.store import durable


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
        with durable.disk_errors(self._doing):
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
