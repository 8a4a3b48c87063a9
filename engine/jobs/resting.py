"""What a worker does with nothing to do: it gives back the memory that its work has left."""

from __future__ import annotations

import ctypes
import threading

AFTER = 0.5
"""Seconds without work. Work that follows at once finds its memory where it was: taking it anew costs time."""


class Resting:
    """Returns freed memory to the system once there has been no work for a while, where the C library is glibc.

    MobileNetV2 at 224 pixels: the worker holds 0.9 GB at rest instead of the 1.75 GB that an examination leaves; giving it
    back takes 0.07 s.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Work is over: give back unless `end` follows soon."""
        with self._lock:
            self._stop()
            self._timer = threading.Timer(AFTER, give_back)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """There is work again."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def give_back() -> bool:
    """Return whether the C library could be asked to return what is no longer used."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
