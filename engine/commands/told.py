"""What a command says when it ends, and the exit codes that all commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

DONE: Final = 0
FAILED: Final = 1
"""A threshold of an audit failed or could not be told, a verification found a difference, or a model fails a check of its
intake report."""
BAD_INPUT: Final = 2
INTERRUPTED: Final = 3
"""The same command goes on where this one ended."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a command says: a line or table for people, and the same for programs (`--json`)."""

    text: str
    found: dict[str, Any]
    code: int = DONE
