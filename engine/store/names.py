"""Which names may become a file name: nothing that reaches outside its folder on any system."""

from __future__ import annotations

import re

from engine.errors import BadInput

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
