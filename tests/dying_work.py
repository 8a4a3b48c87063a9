"""Made-up results of a worker that dies over the first picture and the first responses; imports no torch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from engine.store import Store
from tests import fakes


def perform(task: dict[str, Any], store_root: str) -> str:
    """Store a made-up record, but for pictures and responses end the process first, once each."""
    kind, key, request = task["kind"], task["key"], task["request"]
    mark = Path(store_root) / f"died-{kind}"
    if kind in ("synthesis", "responses") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    made = fakes.FakeAuditor()
    record = {
        "gallery": lambda: made.gallery("", "").value,
        "synthesis": lambda: made.feature_visualization("", "", request["layer"], request["channel"]).value,
        "responses": lambda: made.responses("fake00001").value,
    }[kind]()
    Store(store_root, create=False).records.write(kind, key, record)
    return key
