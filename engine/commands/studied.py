"""The JSON file that a command's answer goes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.store import durable


def require_new(out: Path) -> None:
    """Raise BadInput for a file that exists or cannot be there."""
    if out.exists():
        raise BadInput(f"{out.name} exists already; choose another file.")
    if not out.parent.is_dir():
        raise BadInput(f"There is no folder {out.parent.name} for {out.name}.")


def write(out: Path, found: dict[str, Any], doing: str) -> None:
    """Write an answer whole, or raise StoreError that says what was being done."""
    with durable.disk_errors(doing):
        durable.write_file(out, (json.dumps(found, indent=2) + "\n").encode())
