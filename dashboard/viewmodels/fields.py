"""Where in the input a position of a feature map looks: receptive fields as boxes in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine import Site


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in image pixels; `right` and `bottom` lie just outside it. It may reach over the image's border."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.bottom - self.top

    def scaled(self, vertical: float, horizontal: float) -> Box:
        """Return the box in the pixels of a picture that is that many times as high and wide."""
        return Box(self.left * horizontal, self.top * vertical, self.right * horizontal, self.bottom * vertical)

    def clipped(self, height: float, width: float) -> Box:
        """Return the part of the box that lies inside an image."""
        left, right = (min(max(edge, 0.0), width) for edge in (self.left, self.right))
        top, bottom = (min(max(edge, 0.0), height) for edge in (self.top, self.bottom))
        return Box(left, top, right, bottom)


def field(site: Site, row: int, column: int, *, rows: int = 1, columns: int = 1) -> Box:
    """Return the receptive field of a position, or of a block of `rows` x `columns` positions that starts there.

    In input pixels of the model. A block reaches from the first to the last of its positions that the site has.
    """
    ends = [
        site.sees(*place)
        for place in ((row, column), (min(row + rows, site.height) - 1, min(column + columns, site.width) - 1))
    ]
    (top, bottom), (left, right) = (
        (min(seen[axis][0] for seen in ends), max(seen[axis][1] for seen in ends)) for axis in (0, 1)
    )
    return Box(left, top, right, bottom)


def stored_field(site: Site, row: int, column: int, shape: tuple[int, int]) -> Box:
    """Return the field of a position of a *stored* map, of (height, width) `shape`, max-pooled down from the site's."""
    (top, bottom), (left, right) = window(row, site.height, shape[0]), window(column, site.width, shape[1])
    return field(site, top, left, rows=bottom - top, columns=right - left)


def window(index: int, full: int, kept: int) -> tuple[int, int]:
    """Return the first position and the one behind the last that max-pooling `full` positions to `kept` put together.

    Windows are the least that cover everything evenly (adaptive pooling); they overlap where the sizes do not divide.
    """
    return index * full // kept, math.ceil((index + 1) * full / kept)
