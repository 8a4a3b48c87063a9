"""The streams of a process: what code prints at work never gets among what a command says."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator


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
