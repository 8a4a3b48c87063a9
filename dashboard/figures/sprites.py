"""Feature maps and inputs as lossless PNG bytes: one indexed sheet of tiles per layer and side, or one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image
from plotly import colors

from dashboard.viewmodels import fields, layer

Array = np.ndarray
Side = Literal["clean", "adversarial", "difference"]
Scale = Literal["channel", "layer"]

TOP = 254
"""Largest colour index of a value: 255 colours, so that the difference palette has a middle (127)."""
MIDDLE = 127
PADDING = 255
"""Colour index of cells behind the last channel; transparent."""
GREY = 128


def _palette(stops: Sequence[str]) -> bytes:
    """Return 255 colours interpolated between evenly spaced `stops`, and the padding colour, as RGB triples."""
    known = np.array([colors.hex_to_rgb(stop) if stop.startswith("#") else colors.unlabel_rgb(stop) for stop in stops])
    where = np.linspace(0, TOP, len(known))
    mixed = np.stack([np.interp(np.arange(TOP + 1), where, known[:, c]) for c in range(3)], axis=1)
    return np.rint(np.vstack([mixed, [[255, 255, 255]]])).astype(np.uint8).tobytes()


VIRIDIS = _palette(colors.sequential.Viridis)
PURPLE_ORANGE = _palette(colors.diverging.PuOr[::-1])
"""Orange where the attack made a map stronger, as the adversarial side is orange everywhere."""


def pool(maps: Array, limit: int = layer.TILE_LIMIT) -> Array:
    """Return maps (channels, height, width) max-pooled so that no side is longer than `limit`."""
    return _pool_axis(_pool_axis(maps, limit, axis=1), limit, axis=2)


def pool_signed(difference: Array, limit: int = layer.TILE_LIMIT) -> Array:
    """Return the same for signed maps: of each block the value of largest magnitude, with its sign."""
    highest, lowest = pool(difference, limit), -pool(-difference, limit)
    return np.where(highest >= -lowest, highest, lowest)


def sheet(clean: Array, adversarial: Array, side: Side, scale: Scale) -> bytes:
    """Return one PNG with a tile per channel, in channel order, `layer.columns(channels)` to a row.

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
    windows = np.array([fields.window(k, full, limit) for k in range(limit)])
    starts, ends = windows[:, 0], windows[:, 1]
    steps = [np.minimum(starts + step, ends - 1) for step in range(int((ends - starts).max()))]
    return np.maximum.reduce([np.take(maps, step, axis=axis) for step in steps])


def _levels(clean: Array, adversarial: Array, side: Side, scale: Scale, limit: int = layer.TILE_LIMIT) -> Array:
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
    columns = layer.columns(channels)
    rows = -(-channels // columns)
    cells = np.full((rows * columns, height, width), PADDING, dtype=np.uint8)
    cells[:channels] = levels
    return cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _encode_indexed(indices: Array, side: Side) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(PURPLE_ORANGE if side == "difference" else VIRIDIS)
    return _encode(image, transparency=PADDING)


def _encode(image: Image.Image, **options: int) -> bytes:
    # Level 1: 2048 tiles in 9-17 ms; level 6 takes three times as long for a tenth fewer bytes.
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1, **options)
    return buffer.getvalue()
