"""What every attack states: norm and budget, 8-bit rounding within it, cost, where it applies. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from engine import images, parameters
from engine.errors import BadSetting
from engine.parameters import Measure, TextValue


def linf_reach(epsilon: Fraction) -> int:
    """Return by how many of 255 steps a stored pixel may differ; below 1/255 none can."""
    return math.floor(epsilon * 255)


def l2_reach(epsilon: Fraction) -> int:
    """Return the largest sum of squared differences, counted in 255 steps, that a budget allows."""
    return math.floor((epsilon * 255) ** 2)


def l1_reach(epsilon: Fraction) -> int:
    """Return the largest sum of differences, counted in 255 steps, that a budget allows."""
    return math.floor(epsilon * 255)


def within_linf(clean: np.ndarray, wanted: np.ndarray, reach: int) -> np.ndarray:
    """Return the uint8 image nearest to `wanted` (floats in [0, 1]) of which no pixel is over `reach` from `clean`."""
    change = images.to_bytes(wanted).astype(np.int16) - clean
    return (clean + np.clip(change, -reach, reach)).astype(np.uint8)


def within_l2(clean: np.ndarray, wanted: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return `wanted` (floats in [0, 1]) rounded, with a sum of squared differences from `clean` of at most `reach`.

    clean, wanted: (batch, channels, height, width); reach: (batch,) int64. Where rounding to nearest leaves the ball,
    the pixels that were rounded away from `clean` by most are rounded towards it instead, as few as will do.
    """
    return _within(clean, wanted, reach, np.square)


def within_l1(clean: np.ndarray, wanted: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return `wanted` rounded as `within_l2` does, with a sum of differences from `clean` of at most `reach`."""
    return _within(clean, wanted, reach, np.abs)


def _within(
    clean: np.ndarray, wanted: np.ndarray, reach: np.ndarray, weight: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    shape = clean.shape
    exact = (np.clip(wanted, 0.0, 1.0).astype(np.float64) * 255 - clean).reshape(len(clean), -1)
    nearest = (images.to_bytes(wanted).astype(np.int64) - clean).reshape(len(clean), -1)
    rows = [_shrunk(*row, weight) for row in zip(exact, nearest, reach, strict=True)]
    return (clean + np.stack(rows).reshape(shape)).astype(np.uint8)


def _shrunk(
    exact: np.ndarray, nearest: np.ndarray, reach: int, weight: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the integer change `nearest` with as few entries as possible moved one step towards zero.

    weight: what a change of so many steps takes of the reach.
    """
    excess = int(weight(nearest).sum()) - int(reach)
    if excess <= 0:
        return nearest
    order = np.argsort(np.abs(exact) - np.abs(nearest), kind="stable")
    order = order[nearest[order] != 0]
    gained = np.cumsum(weight(nearest[order]) - weight(np.abs(nearest[order]) - 1))
    moved = order[: np.searchsorted(gained, excess) + 1]
    shrunk = nearest.copy()
    shrunk[moved] -= np.sign(nearest[moved])
    return shrunk


@dataclass(frozen=True, slots=True)
class Norm:
    """How large a change is, and how points are stored within a budget of it."""

    name: str
    sizes: Callable[[np.ndarray], np.ndarray]
    """From (batch, channels, height, width) int64 changes, counted in 255 steps, to (batch,) sizes in [0, 1] units."""
    nearest: Callable[[np.ndarray, np.ndarray, Fraction], np.ndarray]
    """From clean uint8 images, points in [0, 1] near them, both (batch, channels, height, width), and a budget to uint8."""
    step: Callable[[int], Fraction]
    """The smallest size of any change of a stored picture of so many pixels; a budget below it allows none."""
    example: str
    """A usual budget, as people write it."""


def _largest(change: np.ndarray) -> np.ndarray:
    return np.abs(change).max(axis=(1, 2, 3)) / 255


def _length(change: np.ndarray) -> np.ndarray:
    return np.sqrt((change**2).sum(axis=(1, 2, 3))) / 255


def _sum(change: np.ndarray) -> np.ndarray:
    return np.abs(change).sum(axis=(1, 2, 3)) / 255


def _square(change: np.ndarray) -> np.ndarray:
    """Return (batch,) the share of the picture that the smallest square around every changed pixel has; 1 at most."""
    is_changed = (change != 0).any(axis=1)
    sides = np.maximum(_extent(is_changed.any(axis=2)), _extent(is_changed.any(axis=1)))
    return np.minimum(sides**2 / is_changed[0].size, 1.0)


def _extent(is_changed: np.ndarray) -> np.ndarray:
    """Return (batch,) how many entries lie from the first that is set to the last, both included; 0 without any."""
    ends = is_changed.shape[1] - is_changed[:, ::-1].argmax(axis=1)
    return np.where(is_changed.any(axis=1), ends - is_changed.argmax(axis=1), 0)


def square_side(epsilon: Fraction, height: int, width: int) -> int:
    """Return the side in pixels of the largest square of whole pixels within a picture and a share of its area."""
    return min(math.isqrt(math.floor(epsilon * height * width)), height, width)


def _nearest_linf(clean: np.ndarray, wanted: np.ndarray, epsilon: Fraction) -> np.ndarray:
    return within_linf(clean, wanted, linf_reach(epsilon))


def _nearest_l2(clean: np.ndarray, wanted: np.ndarray, epsilon: Fraction) -> np.ndarray:
    return within_l2(clean, wanted, np.full(len(clean), l2_reach(epsilon)))


def _nearest_l1(clean: np.ndarray, wanted: np.ndarray, epsilon: Fraction) -> np.ndarray:
    return within_l1(clean, wanted, np.full(len(clean), l1_reach(epsilon)))


def _nearest(_clean: np.ndarray, wanted: np.ndarray, _epsilon: Fraction) -> np.ndarray:
    return images.to_bytes(wanted)


def _one_step(_pixels: int) -> Fraction:
    return Fraction(1, 255)


def _one_pixel(pixels: int) -> Fraction:
    return Fraction(1, pixels)


LINF = Norm("linf", _largest, _nearest_linf, _one_step, "8/255")
L2 = Norm("l2", _length, _nearest_l2, _one_step, "0.5")
L1 = Norm("l1", _sum, _nearest_l1, _one_step, "12")
"""The sum of all changes: few pixels may change by much, or many by little."""
AREA = Norm("area", _square, _nearest, _one_pixel, "0.05")
"""Any change of pixels within one square: its size is the square's share of the picture."""
NO_NORM = Norm("none", _largest, _nearest, _one_step, "")
"""Of everyday damage, which has no budget."""
BUDGETED: Final = {item.name: item for item in (LINF, L2, L1, AREA)}
"""The norms in which a budget can be given, by name."""


Family = Literal[
    "ascent",
    "universal",
    "library",
    "sign noise",
    "matched noise",
    "noise patch",
    "sparse noise",
    "corruption",
    "stored",
]
"""Which runner of `engine.attacks.runner` runs it; what is `stored` was run before."""
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
    restarts: int = 1
    """How often an ascent starts anew on each image; what harms most is kept."""

    def __post_init__(self) -> None:
        parameters.check(self)

    @property
    def text(self) -> str:
        """The full id, all settings included; `catalogue.attack` reads it back."""
        return parameters.identifier(self)

    @property
    def without_epsilon(self) -> str:
        """The id without the strength: what the points of one curve have in common."""
        return parameters.identifier(self, but="epsilon")

    @property
    def epsilon_text(self) -> str:
        """Its strength as ids write it, for example `8/255`; empty where it has none."""
        return "" if self.epsilon is None else parameters.value_text(self, "epsilon")

    @property
    def measure(self) -> Measure:
        """How people read its strength; of an attack that has none, as a plain number."""
        return parameters.MEASURES[""] if self.epsilon is None else parameters.measure(self, "epsilon")

    @property
    def strength_text(self) -> str:
        """Its strength as people read it, for example `8/255` or `5 % of the area`; empty where it has none."""
        return "" if self.epsilon is None else self.measure.text(float(self.epsilon))

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
                f"{self.name} has no epsilon; its settings are {', '.join(field.name for field in fields(self))}."
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
