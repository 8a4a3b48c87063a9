"""Copies of the stores that the whole run shares."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.store import Store


def copied(store: Store, root: Path) -> Store:
    """Return a store of its own with the same content: 1.5 MB in 10 ms, where making the demo anew takes a second."""
    return Store(shutil.copytree(store.root, root))


def content(root: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
