"""Values that stand as one text in keys, JSON, links and plans, and what reads such a text back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass


class TextValue(ABC):
    """A value that a text says completely."""

    __slots__ = ()

    @property
    @abstractmethod
    def text(self) -> str:
        """The text; equal values have equal texts."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ReadBy:
    """Stands in the type of a field, `Annotated[Attack, ReadBy(attack)]`: what makes its value of the stored text."""

    read: Callable[[str], TextValue]
    """Raises EngineError for a text that says no value."""
