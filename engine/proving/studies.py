"""What can be asked of a group of attacked images, by name: from a request to a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.proving import causal, curves, defence, smallest
from engine.store.dataset import Dataset

Answering = Callable[[ModelBundle, Dataset, Any, Report], object]
STUDIES: Final[dict[str, Answering]] = {
    "group-proof": causal.prove_group,
    "smallest": smallest.find,
    "curve": curves.curve,
    "profile": curves.profile,
    "defence": defence.hint,
}
"""Each takes its own request (`work.KINDS`) and returns its own record (`records.restoration.STUDIES`)."""
