"""How fast a machine works, as the estimate of an audit's cost needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.schemas import Schema


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per image, measured on the machine that will do the work."""

    SCHEMA: ClassVar[Schema] = Schema("pace/1", "Pace")

    pass_seconds: float
    """Of one forward with backward."""
    forward_seconds: float
    explain_seconds: float = 0.0
    """Of scoring the feature maps of one attacked image and its attack flow; 0 where nothing is scored."""
