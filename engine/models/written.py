"""What is said of a network's input, as people write it: the texts of the command line and of the page's form."""

from __future__ import annotations

import math
from typing import Final, Protocol

from engine.errors import BadInput
from engine.models.load import LARGEST, SMALLEST, Declared
from engine.records import ChannelOrder

DIGITS: Final = 5
"""Of a number of pixels: longer ones are not even read."""
WHITES: Final = {"1": 1, "255": 255}
ORDERS: Final[dict[str, ChannelOrder]] = {"rgb": "rgb", "bgr": "bgr"}


class Written(Protocol):
    """The options of `model add` that say how pictures are prepared."""

    @property
    def mean(self) -> str | None: ...

    @property
    def std(self) -> str | None: ...

    @property
    def size(self) -> str | None: ...

    @property
    def resize(self) -> int | None: ...

    @property
    def channels(self) -> str: ...

    @property
    def range(self) -> str: ...

    @property
    def accuracy(self) -> str | None: ...


def declared(options: Written) -> Declared:
    """Return what the options say; raises BadInput for what is not written as it should be."""
    if options.channels not in ORDERS or options.range not in WHITES:
        raise BadInput(f"--channels must be {' or '.join(ORDERS)} and --range {' or '.join(WHITES)}.")
    return Declared(
        mean=_numbers("--mean", options.mean),
        std=_numbers("--std", options.std),
        size=size(options.size),
        resize=options.resize,
        order=ORDERS[options.channels],
        brightest=WHITES[options.range],
        accuracy=_share(options.accuracy),
    )


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise BadInput(f"{option} must be numbers such as 0.485,0.456,0.406, got '{text[:80]}'.")
    return found


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise BadInput(f"--accuracy must lie between 0 and 1, got '{text[:80]}'.")
    return share


def size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of `224` or `224x192`; raises BadInput."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(map(_is_side, parts)):
        raise BadInput(f"--size must be pixels such as 224 or 224x224, {SMALLEST} to {LARGEST}, got '{text[:80]}'.")
    return int(parts[0]), int(parts[-1])


def _is_side(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= DIGITS and SMALLEST <= int(part) <= LARGEST
