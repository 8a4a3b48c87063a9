"""The streams of a process: what code prints at work never gets among what a command says."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Final, TextIO

STDOUT: Final = 1
STDERR: Final = 2


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Keep this process's stdout for what the block says there; from then on all else that is written to it goes to stderr.

    That is also what C code, other processes that are started, and code at the end of the process print.
    """
    answer = os.fdopen(os.dup(STDOUT), "w", encoding=sys.stdout.encoding)
    os.dup2(STDERR, STDOUT)
    sys.stdout = answer
    try:
        yield
    finally:
        sys.stdout = sys.stderr
        _flush(answer)


def _flush(answer: TextIO) -> None:
    try:
        answer.flush()
    except BrokenPipeError:
        # Whoever read the answer has read enough (`| head`), and Python must not try again as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answer.fileno())


@contextlib.contextmanager
def kept_apart() -> Iterator[None]:
    """Send what the block prints to stderr, and let it read nothing: stdout holds the answer, and nobody may be there to ask.

    Networks come with code of their own, which prints while it is imported, built and run.
    """
    before = sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdin = before
