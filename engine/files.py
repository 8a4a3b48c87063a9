"""Files that nobody vouches for: only plain ones are opened, and whatever a damaged one does to its reader is one line."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from engine.errors import BadInput, EngineError


@contextmanager
def told(what: str, form: str) -> Iterator[None]:
    """Turn whatever a reader raises in the block into BadInput: `what` cannot be read as `form`, and why.

    Errors of the engine pass. What readers warn of is dropped: they warn of what the engine refuses or does not use.
    """
    try:
        # The filters are the whole process's; files are read by a command, or by the one thread of a worker.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EngineError:
        raise
    except Exception as error:
        raise BadInput(f"{what} cannot be read as {form}: {reason(error)}.") from error


@contextmanager
def opened(path: Path, form: str, most: int) -> Iterator[BufferedReader]:
    """Open a plain file of at most `most` bytes; what goes wrong in the block is told as in `told`.

    Raises BadInput for a pipe or a device, which would be waited for, and for a file that is larger.
    """
    with told(path.name, form), open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path.name} is a pipe or a device; {form} in a plain file is wanted.")
        if status.st_size > most:
            raise BadInput(f"{path.name} has {status.st_size:,} bytes; at most {most:,} are read.")
        yield file


def reason(error: BaseException) -> str:
    """Return what an error says in one short line without a stop; where it says nothing, that it is damaged."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (" ".join(text.split())[:120] or f"damaged ({type(error).__name__})").rstrip(".")


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe that nobody writes to at once, instead of waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
