"""Keeping the web process small: without pandas, of which it needs nothing, and with few places to allocate from."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OPTIONS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 2**20), "M_TRIM_THRESHOLD": (-1, 2**20)}
"""Of glibc's <malloc.h>, with what they are set to: heaps for all threads; bytes from which on memory is given back."""


class WithoutPandas(MetaPathFinder):
    """Answers every import of pandas as if it were not installed.

    pyarrow imports it merely to ask whether a value is a data frame: half a second and 40 MB, in whichever thread comes first.
    Meanwhile plotly in another thread finds the half-imported module, and its figure fails.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for pandas, and leave everything else to the other finders."""
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("The web process does without pandas.", name=fullname)
        return None


def without_pandas() -> None:
    """Keep pandas out of this process from now on."""
    if not any(isinstance(finder, WithoutPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, WithoutPandas())


def giving_back() -> bool:
    """Let the C library, where it is glibc, return what is no longer used; return whether it agreed.

    Every thread of the server reads examinations now and then, and a heap of its own keeps what it once took: after two
    rounds through eight views of MobileNetV2 the process held 415 MB, with two heaps 305, and with large arrays mapped 263.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and [mallopt(*option) for option in OPTIONS.values()] == [1] * len(OPTIONS)
