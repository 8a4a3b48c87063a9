"""The errors of the engine: each message says what was wrong, what was got, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final


def printable(text: str) -> str:
    """Return a text as one line that does nothing to a terminal: what cannot be printed becomes an escape such as \\n."""
    return "".join(item if item.isprintable() else item.encode("unicode_escape").decode() for item in text)


FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First letters after which a table program would take a text for a formula."""


def harmless(value: object) -> object:
    """Return a value as a table program may open it: a text that would be a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class EngineError(Exception):
    """Base of every error whose text may be shown to an auditor as it stands, whatever names from files stand in it."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class BadInput(EngineError):
    """Something handed in (a file, an image, a weight, an option) cannot be used."""


class BadSetting(BadInput):
    """A setting lies outside its declared range."""


class UnknownName(BadInput):
    """A name that is not in its catalogue."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        super().__init__(f"No {kind} is called '{str(name)[:80]}'.{hint} Known: {shown or 'none'}.")


class Unsupported(BadInput):
    """A network holds something that cannot be traced, named here."""


class StoreError(EngineError):
    """The store cannot be read or written; nothing stored was lost."""


class WorkFailed(EngineError):
    """A piece of work ended without a result, for example because its worker died."""
