"""The patches of the data set that a feature map answers to most, as one PNG of equal cells."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dashboard.viewmodels.fields import Box

CELL = 112
"""Longest side of a cell in pixels: twice what is shown, sharp on dense screens."""
CELL_COLUMNS = 8
MARK = 3
"""Half the size of the cross at a field's centre, in cell pixels."""


def grid(pictures: Sequence[np.ndarray], boxes: Sequence[Box]) -> bytes:
    """Return a PNG with one cell per picture, `CELL_COLUMNS` to a row.

    pictures: (height, width, channels) uint8, all of one size; boxes: the field of each peak, in picture pixels.
    A cell holds the field's own pixels around its centre, transparent where it reaches over the border. A field that is
    larger than the picture shows the whole picture, with the field's box and its centre drawn on it.
    """
    cells = [cell(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
    width, height = cells[0].size
    rows = -(-len(cells) // CELL_COLUMNS)
    sheet = Image.new("RGBA", (min(len(cells), CELL_COLUMNS) * width, rows * height), (0, 0, 0, 0))
    for k, one in enumerate(cells):
        sheet.paste(one, (k % CELL_COLUMNS * width, k // CELL_COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def cell(picture: np.ndarray, box: Box) -> Image.Image:
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
