"""Pictures: files decoded and checked, 8-bit arrays, resizing and cropping."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from engine.errors import BadInput, EngineError


@contextmanager
def read_errors(what: str, form: str) -> Iterator[None]:
    """Turn whatever a reader raises in the block into BadInput: `what` cannot be read as `form`, and why.

    Errors of the engine pass. What readers warn of is dropped: they warn of what the engine refuses or does not use.
    """
    try:
        # The filters are the whole process's; files are read by a command, or by the one thread of a worker.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EngineError:
        raise
    except Exception as error:
        raise BadInput(f"{what} cannot be read as {form}: {reason(error)}.") from error


@contextmanager
def opened(path: Path, form: str, most: int) -> Iterator[BufferedReader]:
    """Open a plain file of at most `most` bytes; what goes wrong in the block is told as in `told`.

    Raises BadInput for a pipe or a device, which would be waited for, and for a file that is larger.
    """
    with read_errors(path.name, form), open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path.name} is a pipe or a device; {form} in a plain file is wanted.")
        if status.st_size > most:
            raise BadInput(f"{path.name} has {status.st_size:,} bytes; at most {most:,} are read.")
        yield file


def reason(error: BaseException) -> str:
    """Return what an error says in one short line without a stop; where it says nothing, that it is damaged."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (" ".join(text.split())[:120] or f"damaged ({type(error).__name__})").rstrip(".")


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe that nobody writes to at once, instead of waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
ORIENTATION, UPRIGHT, TURNED = 0x0112, 1, range(2, 9)
"""The note in EXIF data, and its values (Exif 2.32, section 4.6.4 A)."""
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
ROUNDING = 1e-6
"""How far float arithmetic may push a pixel out of [0, 1]."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture file may cost before it is refused."""

    pixels: int = 40_000_000
    file_bytes: int = 64 * 2**20


LIMITS = Limits()
# Pillow itself refuses twice this many: also in pictures that torchvision opens.
Image.MAX_IMAGE_PIXELS = LIMITS.pixels // 2


def to_float(picture: np.ndarray) -> np.ndarray:
    """Return uint8 values as float32 in [0, 1]; raises BadInput for another dtype."""
    if picture.dtype != np.uint8:
        raise BadInput(f"Pixels must be uint8 (0 to 255), got {picture.dtype}.")
    return picture.astype(np.float32) / np.float32(255)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Return float values in [0, 1] as uint8, rounded to nearest: truncation turned a budget of 8/255 into 9/255.

    Raises BadInput for another dtype, for NaN and for values outside [0, 1].
    """
    if picture.dtype.kind != "f":
        raise BadInput(f"Pixels must be floats in [0, 1], got {picture.dtype}.")
    if not (np.isfinite(picture).all() and (picture >= -ROUNDING).all() and (picture <= 1 + ROUNDING).all()):
        raise BadInput("Pixels must lie in [0, 1]; got values outside, or not a number.")
    return np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False, slots=True)
class Decoded:
    """A picture file as it lies, and whether its camera noted that it should be turned."""

    pixels: np.ndarray
    """(height, width, 3) uint8."""
    is_turned: bool


def decode(path: Path, *, limits: Limits = LIMITS) -> np.ndarray:
    """Return the pixels of a picture file, (height, width, 3) uint8; raises as `read`."""
    return read(path, limits=limits).pixels


def read(path: Path, *, limits: Limits = LIMITS) -> Decoded:
    """Return a picture file; grey files have three equal channels, and no EXIF data changes a pixel.

    Raises BadInput naming the file when it is missing, not a picture, cut off, too large, animated, transparent or of
    more than 8 bits.
    """
    with (
        opened(path, "a picture", limits.file_bytes) as file,
        _recognised(path.name, file, limits) as picture,
    ):
        _check_header(path.name, picture, limits)
        pixels = _opaque(path.name, picture)
        return Decoded(pixels, is_turned(picture))


def is_turned(picture: Image.Image) -> bool:
    """Tell whether a loaded picture has a note (EXIF orientation) that asks to turn or mirror it."""
    try:
        return picture.getexif().get(ORIENTATION, UPRIGHT) in TURNED
    except Exception:  # Pillow raises whatever a damaged note leads to, and a note decides no pixel.
        return False


def fit(pictures: np.ndarray, channels: int, size: tuple[int, int], resize: int | None = None) -> np.ndarray:
    """Return (images, height, width, channels) uint8 pictures as a network takes them.

    Pictures of just `size` (height, width) stay as they are. Of others the shortest side is resized to `resize` pixels, or
    so that the picture just covers `size`, and the centre is cut out. Grey is repeated to three channels, three equal
    channels become one. Raises BadInput for coloured pictures where one channel is wanted, and for very narrow ones.
    """
    recoloured = _with_channels(pictures, channels)
    if recoloured.shape[1:3] == size:
        return recoloured
    return (
        np.stack([_cover(picture, size, resize) for picture in recoloured]) if len(pictures) else _empty(channels, size)
    )


def is_grey(pictures: np.ndarray) -> bool:
    """Return whether all channels of (images, height, width, channels) pictures are equal."""
    return all(bool((picture == picture[..., :1]).all()) for picture in pictures)


def _recognised(name: str, file: BinaryIO, limits: Limits) -> ImageFile.ImageFile:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadInput(f"{name} is not a picture in one of the formats {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{name} has too many pixels; at most {limits.pixels:,} are read.") from error


def _check_header(name: str, picture: ImageFile.ImageFile, limits: Limits) -> None:
    """Check what the header declares before a single pixel is decoded."""
    if picture.width * picture.height > limits.pixels:
        raise BadInput(
            f"{name} declares {picture.width} x {picture.height} pixels; at most {limits.pixels:,} are read."
        )
    if _is_deep(picture):
        raise BadInput(f"{name} has more than 8 bits per channel; save it with 8.")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise BadInput(f"{name} holds {frames} frames; one picture per file is wanted.")


def _is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits per channel: of colours Pillow keeps the upper 8, and only the tile tells."""
    if picture.mode in DEEP_MODES:
        return True
    arguments = [tile.args for tile in picture.tile]
    if picture.format == "PPM":
        return any(isinstance(argument, tuple) and int(argument[1]) > 255 for argument in arguments)
    return picture.format == "PNG" and any(str(argument).endswith(";16B") for argument in arguments)


def _opaque(name: str, picture: Image.Image) -> np.ndarray:
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            raise BadInput(f"{name} has transparent pixels; put it on a background first.")
    return np.asarray(picture.convert("RGB"))


def _with_channels(pictures: np.ndarray, channels: int) -> np.ndarray:
    if pictures.shape[3] == channels:
        return pictures
    if channels == 3 and pictures.shape[3] == 1:
        return np.repeat(pictures, 3, axis=3)
    if channels == 1 and is_grey(pictures):
        return np.ascontiguousarray(pictures[..., :1])
    raise BadInput(f"The model takes {channels} channel(s), the images have {pictures.shape[3]} that differ.")


def _cover(picture: np.ndarray, size: tuple[int, int], resize: int | None) -> np.ndarray:
    """Return (height, width, channels) resized to `resize`, or so that it just covers `size`, and cut to it.

    Sides and corners are rounded as torchvision's `Resize` and `CenterCrop` round them. Raises BadInput for a picture so
    narrow that it would grow beyond `LIMITS.pixels` before it is cut.
    """
    height, width = size
    rows, columns = _covering(picture.shape[:2], size) if resize is None else _shortest(picture.shape[:2], resize)
    if rows * columns > LIMITS.pixels:
        raise BadInput(
            f"{picture.shape[1]} x {picture.shape[0]} pixels would be resized to {columns} x {rows} before the centre is cut "
            f"out; at most {LIMITS.pixels:,} pixels are drawn, so cut the picture first."
        )
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return pixels[top : top + height, left : left + width].reshape(height, width, picture.shape[2])


def _shortest(sides: tuple[int, int], resize: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the shorter is `resize`."""
    height, width = (resize * side // min(sides) for side in sides)
    return height, width


def _covering(sides: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) scaled so that they just cover `size`."""
    scale = max(size[0] / sides[0], size[1] / sides[1])
    # max: rounding must not leave a side one pixel short.
    return max(size[0], round(sides[0] * scale)), max(size[1], round(sides[1] * scale))


def _empty(channels: int, size: tuple[int, int]) -> np.ndarray:
    return np.empty((0, *size, channels), dtype=np.uint8)
