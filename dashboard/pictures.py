"""Pixels: feature maps and inputs as PNG sheets, patches of the data set, and where a position of a map looks."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from plotly import colors

from engine import Site

Array = np.ndarray
Side = Literal["clean", "adversarial", "difference"]
Scale = Literal["channel", "layer"]
TOP = 254
"""Largest colour index of a value: 255 colours, so that the difference palette has a middle (127)."""
MIDDLE = 127
PADDING = 255
"""Colour index of cells behind the last channel; transparent."""
GREY = 128
TILE_LIMIT = 28
"""Longest side of a tile in map positions; larger maps are max-pooled in the overview, a quarter of the bytes."""
SHEET_COLUMNS = 32
CELL = 112
"""Longest side of a cell in pixels: twice what is shown, sharp on dense screens."""
CELL_COLUMNS = 8
STOPS = 12
"""Colours named in the gradient of a bar."""
MARK = 3
"""Half the size of the cross at a field's centre, in cell pixels."""


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


def _palette(stops: Sequence[str]) -> bytes:
    """Return 255 colours interpolated between evenly spaced `stops`, and the padding colour, as RGB triples."""
    known = np.array([colors.hex_to_rgb(stop) if stop.startswith("#") else colors.unlabel_rgb(stop) for stop in stops])
    where = np.linspace(0, TOP, len(known))
    mixed = np.stack([np.interp(np.arange(TOP + 1), where, known[:, c]) for c in range(3)], axis=1)
    return np.rint(np.vstack([mixed, [[255, 255, 255]]])).astype(np.uint8).tobytes()


VIRIDIS = _palette(colors.sequential.Viridis)
PURPLE_ORANGE = _palette(colors.diverging.PuOr[::-1])
"""Orange where the attack made a map stronger, as the adversarial side is orange everywhere."""


def scales() -> str:
    """Return the colour scales as variables of a style sheet, for the bars that stand beside the pictures."""
    palettes = (("viridis", VIRIDIS), ("purple-orange", PURPLE_ORANGE))
    return f":root {{ {' '.join(f'--{name}: {_gradient(palette)};' for name, palette in palettes)} }}"


def _gradient(palette: bytes) -> str:
    triples = [palette[3 * k : 3 * k + 3] for k in np.linspace(0, TOP, STOPS).round().astype(int)]
    return f"linear-gradient(90deg, {', '.join('#' + triple.hex() for triple in triples)})"


def columns(channels: int) -> int:
    """Return how many tiles stand in a row of the sprite sheet."""
    return min(channels, SHEET_COLUMNS)


def pool(maps: Array, limit: int = TILE_LIMIT) -> Array:
    """Return maps (channels, height, width) max-pooled so that no side is longer than `limit`."""
    return _pool_axis(_pool_axis(maps, limit, axis=1), limit, axis=2)


def pool_signed(difference: Array, limit: int = TILE_LIMIT) -> Array:
    """Return the same for signed maps: of each block the value of largest magnitude, with its sign."""
    highest, lowest = pool(difference, limit), -pool(-difference, limit)
    return np.where(highest >= -lowest, highest, lowest)


def sheet(clean: Array, adversarial: Array, side: Side, scale: Scale) -> bytes:
    """Return one PNG with a tile per channel, in channel order, `columns(channels)` to a row.

    clean, adversarial: (channels, height, width). Both sides share one scale, per channel or over the whole layer.
    """
    return _encode_indexed(_mosaic(_levels(clean, adversarial, side, scale)), side)


def single(clean: Array, adversarial: Array, side: Side) -> bytes:
    """Return one map, (height, width), as a PNG of its stored resolution; both sides share one scale."""
    return _encode_indexed(_levels(clean[None], adversarial[None], side, "channel", max(clean.shape))[0], side)


def picture(image: Array) -> bytes:
    """Return an image (height, width, channels) uint8, one or three channels, as a PNG."""
    return _encode(Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)))


def strip(pictures: Array, side: int) -> bytes:
    """Return images (count, height, width, channels) uint8 beside each other, each `side` pixels wide and high, as a PNG."""
    cells = [Image.open(io.BytesIO(picture(image))).convert("RGB").resize((side, side)) for image in pictures]
    row = Image.new("RGB", (side * len(cells), side))
    for k, cell in enumerate(cells):
        row.paste(cell, (k * side, 0))
    return _encode(row)


def amplification(clean: Array, adversarial: Array) -> int:
    """Return the whole factor by which a perturbation can be enlarged around mid-grey without clipping, at least 1."""
    largest = int(np.abs(adversarial.astype(np.int16) - clean).max(initial=0))
    return max(1, (GREY - 1) // largest) if largest else 1


def perturbation(clean: Array, adversarial: Array) -> bytes:
    """Return the difference of two uint8 images, enlarged by `amplification` around mid-grey, as a PNG."""
    difference = adversarial.astype(np.int16) - clean
    enlarged = GREY + difference * amplification(clean, adversarial)
    return picture(np.clip(enlarged, 0, 255).astype(np.uint8))


def _pool_axis(maps: Array, limit: int, *, axis: int) -> Array:
    full = maps.shape[axis]
    if full <= limit:
        return maps
    windows = np.array([window(k, full, limit) for k in range(limit)])
    starts, ends = windows[:, 0], windows[:, 1]
    steps = [np.minimum(starts + step, ends - 1) for step in range(int((ends - starts).max()))]
    return np.maximum.reduce([np.take(maps, step, axis=axis) for step in steps])


def _levels(clean: Array, adversarial: Array, side: Side, scale: Scale, limit: int = TILE_LIMIT) -> Array:
    """Return colour indices (channels, height, width) uint8, pooled to `limit`.

    Activations run from the joint lowest value, at most zero, to the joint highest; differences lie around `MIDDLE`.
    """
    axes = (1, 2) if scale == "channel" else (0, 1, 2)
    clean, adversarial = clean.astype(np.float32), adversarial.astype(np.float32)
    if side == "difference":
        return _signed_levels(pool_signed(adversarial - clean, limit), axes)
    shown = {"clean": clean, "adversarial": adversarial}[side]
    low = np.minimum(*(maps.min(axis=axes, keepdims=True, initial=0.0) for maps in (clean, adversarial)))
    high = np.maximum(*(maps.max(axis=axes, keepdims=True, initial=0.0) for maps in (clean, adversarial)))
    return np.rint(TOP * (pool(shown, limit) - low) / np.where(high > low, high - low, 1.0)).astype(np.uint8)


def _signed_levels(difference: Array, axes: tuple[int, ...]) -> Array:
    limit = np.abs(difference).max(axis=axes, keepdims=True)
    return np.rint(MIDDLE + MIDDLE * difference / np.where(limit > 0, limit, 1.0)).astype(np.uint8)


def _mosaic(levels: Array) -> Array:
    channels, height, width = levels.shape
    across = columns(channels)
    rows = -(-channels // across)
    cells = np.full((rows * across, height, width), PADDING, dtype=np.uint8)
    cells[:channels] = levels
    return cells.reshape(rows, across, height, width).swapaxes(1, 2).reshape(rows * height, across * width)


def _encode_indexed(indices: Array, side: Side) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(PURPLE_ORANGE if side == "difference" else VIRIDIS)
    return _encode(image, transparency=PADDING)


def _encode(image: Image.Image, **options: int) -> bytes:
    # Level 1: 2048 tiles in 9-17 ms; level 6 takes three times as long for a tenth fewer bytes.
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1, **options)
    return buffer.getvalue()


def patch_grid(pictures: Sequence[np.ndarray], boxes: Sequence[Box]) -> bytes:
    """Return a PNG with one cell per picture, `CELL_COLUMNS` to a row.

    pictures: (height, width, channels) uint8, all of one size; boxes: the field of each peak, in picture pixels.
    A cell holds the field's own pixels around its centre, transparent where it reaches over the border. A field that is
    larger than the picture shows the whole picture, with the field's box and its centre drawn on it.
    """
    cells = [patch_cell(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
    width, height = cells[0].size
    rows = -(-len(cells) // CELL_COLUMNS)
    sheet = Image.new("RGBA", (min(len(cells), CELL_COLUMNS) * width, rows * height), (0, 0, 0, 0))
    for k, one in enumerate(cells):
        sheet.paste(one, (k % CELL_COLUMNS * width, k // CELL_COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def patch_cell(picture: np.ndarray, box: Box) -> Image.Image:
    """Return one cell (RGBA): the patch in whole-number enlargement, or the marked picture."""
    height, width = picture.shape[:2]
    if box.width >= width or box.height >= height:
        return _marked(picture, box)
    return _fitted(_crop(_opaque(picture), box))


def _opaque(picture: np.ndarray) -> np.ndarray:
    colour = np.broadcast_to(picture, (*picture.shape[:2], 3)) if picture.shape[2] == 1 else picture
    return np.dstack([colour, np.full(picture.shape[:2], 255, dtype=np.uint8)])


def _crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """Return the box's pixels, (height, width, 4), transparent where it leaves the picture."""
    height, width = max(1, round(box.height)), max(1, round(box.width))
    # Half-way edges round down, so that a field of even size starts at the same pixel in every row and column.
    top, left = int(np.ceil(box.top - 0.5)), int(np.ceil(box.left - 0.5))
    patch = np.zeros((height, width, 4), dtype=np.uint8)
    inner_top, inner_left = max(0, -top), max(0, -left)
    visible = picture[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    patch[inner_top : inner_top + visible.shape[0], inner_left : inner_left + visible.shape[1]] = visible
    return patch


def _fitted(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(image.size)
    if longest > CELL:
        width, height = (max(1, side * CELL // longest) for side in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    factor = CELL // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _marked(picture: np.ndarray, box: Box) -> Image.Image:
    height, width = picture.shape[:2]
    image = _fitted(_opaque(picture))
    scaled = box.scaled(image.height / height, image.width / width)
    inside = scaled.clipped(image.height - 1, image.width - 1)
    draw = ImageDraw.Draw(image)
    across, down = (scaled.left + scaled.right) / 2, (scaled.top + scaled.bottom) / 2
    for colour, width_ in (("black", 3), ("white", 1)):
        draw.rectangle((inside.left, inside.top, inside.right, inside.bottom), outline=colour, width=width_)
        draw.line((across - MARK, down, across + MARK, down), fill=colour, width=width_)
        draw.line((across, down - MARK, across, down + MARK), fill=colour, width=width_)
    return image
