"""Pictures: exact conversion, refusal of what cannot be read, and fitting to a network's input."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from engine import images
from engine.errors import BadInput

RAMP = np.arange(256, dtype=np.uint8)


def colour(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_all_256_values_survive_the_way_to_float_and_back():
    assert images.to_float(RAMP).dtype == np.float32
    assert np.array_equal(images.to_bytes(images.to_float(RAMP)), RAMP)


def test_floats_are_rounded_to_the_nearest_value_not_cut_off():
    assert images.to_bytes(np.array([7.6, 8.4], dtype=np.float32) / 255).tolist() == [8, 8]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 1.01, 200.0])
def test_floats_outside_0_to_1_are_refused(value):
    with pytest.raises(BadInput, match=r"must lie in \[0, 1\]"):
        images.to_bytes(np.array([0.5, value], dtype=np.float32))


def test_the_wrong_dtype_is_refused_both_ways():
    with pytest.raises(BadInput, match="uint8"):
        images.to_float(RAMP.astype(np.float32))
    with pytest.raises(BadInput, match="floats"):
        images.to_bytes(RAMP)


def test_a_lossless_picture_is_read_as_it_was_written(tmp_path):
    Image.fromarray(colour(5, 7)).save(tmp_path / "a.png")
    assert np.array_equal(images.decode(tmp_path / "a.png"), colour(5, 7))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_eight_bit_mode_becomes_three_channels(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(np.full((4, 4, 3), 255, dtype=np.uint8)).convert(mode)
    picture.save(file)
    assert (images.decode(file) >= 254).all()
    assert images.decode(file).shape == (4, 4, 3)


def test_the_rotation_note_of_a_camera_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    Image.fromarray(colour(5, 7)).save(tmp_path / "a.png", exif=exif)
    assert images.decode(tmp_path / "a.png").shape == (5, 7, 3)


def test_a_header_that_declares_a_gigapixel_is_refused_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(BadInput, match=r"^bomb\.png has too many pixels; at most 40,000,000"):
        images.decode(tmp_path / "bomb.png")


def test_more_pixels_or_bytes_than_the_limits_are_refused(tmp_path):
    Image.fromarray(colour(10, 10)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"a\.png declares 10 x 10 pixels; at most 99"):
        images.decode(tmp_path / "a.png", limits=images.Limits(pixels=99))
    with pytest.raises(BadInput, match=r"a\.png has .* bytes; at most 20"):
        images.decode(tmp_path / "a.png", limits=images.Limits(file_bytes=20))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix):
    file = tmp_path / f"cut.{suffix}"
    Image.fromarray(colour(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadInput, match=rf"^cut\.{suffix} cannot be read as a picture: [^\n]+\.$"):
        images.decode(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", b"GIF89a"])
def test_what_is_not_a_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"^notes\.png is not a picture"):
        images.decode(tmp_path / "notes.png")


def test_a_missing_file_is_refused_without_its_folder(tmp_path):
    with pytest.raises(BadInput, match=r"^gone\.png cannot be read as a picture: No such file or directory\.$"):
        images.decode(tmp_path / "gone.png")


def test_sixteen_bits_transparency_and_animation_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 100)).save(tmp_path / "glass.png")
    frames = [Image.new("RGB", (4, 4), colour_name) for colour_name in ("red", "blue")]
    frames[0].save(tmp_path / "film.webp", save_all=True, append_images=frames[1:])
    for name, message in (("deep.png", "8 bits"), ("glass.png", "transparent"), ("film.webp", "2 frames")):
        with pytest.raises(BadInput, match=f"^{name}.*{message}"):
            images.decode(tmp_path / name)


def png(kind: int, depth: int, side: int = 8) -> bytes:
    """A black PNG of a colour type (2 colours, 3 palette without its palette) and bits per channel."""
    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side * 3 * depth // 8))) if side < 100 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


DEEP = {
    "png": png(2, 16),
    "ppm": b"P6\n2 2\n65535\n" + bytes(24),
    "plain ppm": b"P3\n1 1\n1023\n1000 1 2\n",
    "grey ppm": b"P5\n2 2\n300\n" + bytes(8),
}


@pytest.mark.parametrize("kind", DEEP)
def test_more_than_eight_bits_per_channel_are_never_cut_silently(tmp_path, kind):
    (tmp_path / "deep").write_bytes(DEEP[kind])
    with pytest.raises(BadInput, match=r"^deep has more than 8 bits per channel; save it with 8\.$"):
        images.decode(tmp_path / "deep")


@pytest.mark.parametrize("content", [png(2, 8, 2), b"P6\n1 1\n255\n\1\2\3", b"P3\n1 1\n255\n1 2 3\n"])
def test_eight_bits_per_channel_are_read(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert images.decode(tmp_path / "a").shape[2] == 3


def test_a_palette_picture_without_its_palette_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(3, 8))
    with pytest.raises(BadInput, match=r"^a\.png cannot be read as a picture: damaged \(AssertionError\)\.$"):
        images.decode(tmp_path / "a.png")


def test_libraries_warn_of_nothing_that_is_refused_or_unused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(colour(4, 4)).save(buffer, "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02"
    content = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
    (tmp_path / "large.png").write_bytes(png(2, 8, 11_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.decode(tmp_path / "a.jpg").shape == (4, 4, 3)
        with pytest.raises(BadInput, match=r"^large\.png has too many pixels; at most 40,000,000"):
            images.decode(tmp_path / "large.png")


def test_pictures_of_the_right_size_are_not_resampled():
    pictures = colour(8, 8)[None]
    assert np.array_equal(images.fit(pictures, 3, (8, 8)), pictures)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(20, 10, (8, 8)), (10, 20, (8, 8)), (4, 9, (8, 8)), (11, 7, (6, 12)), (1, 1, (3, 2))]
)
def test_fitted_pictures_have_exactly_the_wanted_size(height, width, size):
    assert images.fit(colour(height, width)[None], 3, size).shape == (1, *size, 3)


def test_fitting_keeps_the_centre():
    wide = np.zeros((1, 8, 24, 1), dtype=np.uint8)
    wide[:, :, 8:16] = 200
    assert (images.fit(wide, 1, (8, 8)) == 200).all()


def test_grey_is_repeated_and_equal_channels_become_one():
    grey = colour(6, 6)[None, ..., :1]
    repeated = images.fit(grey, 3, (6, 6))
    assert all(np.array_equal(repeated[..., k : k + 1], grey) for k in range(3))
    assert np.array_equal(images.fit(repeated, 1, (6, 6)), grey)


def test_coloured_pictures_are_refused_by_a_one_channel_model():
    with pytest.raises(BadInput, match=r"takes 1 channel\(s\), the images have 3"):
        images.fit(colour(6, 6)[None], 1, (6, 6))


def test_no_pictures_fit_to_no_pictures():
    assert images.fit(np.empty((0, 5, 5, 3), dtype=np.uint8), 3, (8, 8)).shape == (0, 8, 8, 3)
