"""What every attack and control states beside its settings: family, norm, cost, where it applies. Imports no torch."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from engine import settings
from engine.attacks.rounding import Norm
from engine.errors import BadSetting
from engine.text_values import TextValue

Family = Literal["ascent", "library", "sign noise", "matched noise", "corruption"]
"""Which runner of `engine.attacks.run` runs it."""
NO_TARGET: Final = "none"


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attack costs per image it is run on, at most."""

    passes: int
    """Forward with backward."""
    forwards: int
    """Forward alone."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.passes + other.passes, self.forwards + other.forwards)

    def times(self, count: int) -> Cost:
        """Return the cost of doing it so many times."""
        return Cost(self.passes * count, self.forwards * count)


JUDGING: Final = Cost(0, 2)
"""The clean image and the stored one."""


def climb(steps: int) -> Cost:
    """Return the cost of steps and, for more than one of them, the last point and the test of what is stored."""
    return Cost(steps, 0 if steps == 1 else 2)


class Attack(TextValue):
    """One attack or control with all its settings: a frozen dataclass whose fields `settings` declares."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    name: ClassVar[str]
    """What ids begin with."""
    title: ClassVar[str]
    family: ClassVar[Family]
    norm: ClassVar[Norm]
    """In which its budget is counted."""
    is_control: ClassVar[bool]
    fewest_classes: ClassVar[int] = 1
    """Classes a model must have for it to apply."""
    most_targets: ClassVar[int] = 1
    """Target classes that it tries one after the other on an image, at most."""

    epsilon: Fraction | None = None
    """Its budget; None for an attack that has none."""
    target: str = NO_TARGET
    """Rule by which it chooses the class each image is to be mistaken for."""

    def __post_init__(self) -> None:
        settings.check(self)

    @property
    def text(self) -> str:
        """The full id, all settings included; `catalogue.attack` reads it back."""
        return settings.identifier(self)

    @property
    def without_epsilon(self) -> str:
        """The id without the strength: what the points of one curve have in common."""
        return settings.identifier(self, but="epsilon")

    @property
    def epsilon_text(self) -> str:
        """Its strength as ids write it, for example `8/255`; empty where it has none."""
        return "" if self.epsilon is None else settings.value_text(self, "epsilon")

    @property
    def is_standard(self) -> bool:
        """Whether every setting but its strength is at its default."""
        return self.without_epsilon == type(self)().without_epsilon

    @property
    def budget(self) -> Fraction:
        """Its epsilon, 0 of an attack that has none."""
        return self.epsilon or Fraction(0)

    def at(self, epsilon: Fraction) -> Self:
        """Return the same attack at another strength; raises BadSetting where it has none or that is out of range."""
        if self.epsilon is None:
            raise BadSetting(
                f"{self.name} has no epsilon; its settings are {', '.join(one.name for one in fields(self))}."
            )
        return replace(self, epsilon=epsilon)

    @property
    def running(self) -> Cost:
        """What it costs per image, or per image and target class where it tries several; judging left out."""
        return Cost(0, 0)

    def cost(self, classes: int) -> Cost:
        """Return what it costs per image of a model of so many classes, to which it applies."""
        return JUDGING + self.running.times(max(1, min(self.most_targets, classes - 1)))

    def limit(self, values: int) -> float | None:
        """Return how large a change of an image of so many values may be in its norm; None for everyday damage."""
        del values
        return None if self.epsilon is None else float(self.epsilon)

    def stored(self, clean: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return `wanted` (batch, channels, height, width), floats, as uint8 within the budget around `clean`, uint8."""
        return self.norm.nearest(clean, wanted, self.budget)
