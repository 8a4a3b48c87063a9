"""What other programs leave in folders of pictures: never a class, never a picture, and no reason to refuse the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMES: Final = frozenset(
    (
        "__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "recycler",
        "system volume information", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r", "picasa.ini", "thumbs.db",
    )
)  # fmt: skip
"""Of macOS' archives, Windows, network drives and file systems, in small letters."""
SHOWN: Final = 6


def is_left_over(name: str) -> bool:
    """Tell whether a file or folder is hidden (`.DS_Store`, `._1.png`, `.ipynb_checkpoints`), or known to be left behind."""
    return name.startswith(".") or name.casefold() in NAMES


def sentence(names: Sequence[str]) -> str:
    """Return what is said of names that were left out."""
    entries = f"{len(names)} {'entry' if len(names) == 1 else 'entries'}"
    more = ", …" if len(names) > SHOWN else ""
    return f"Hidden, or left by other programs, and so left out: {entries} ({', '.join(names[:SHOWN])}{more})."
