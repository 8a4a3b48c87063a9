"""Files damaged at random and by design: one line says why, and memory stays bounded."""

from __future__ import annotations

import io
import json
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from engine import images
from engine.data import intake
from engine.errors import BadInput
from engine.models import weights

ROOM = 256 * 2**20
"""Bytes that reading a damaged file of a few kilobytes may take beyond what the process holds."""
DAMAGES = 80
"""Of every kind of file, drawn by seed."""


@pytest.fixture(autouse=True)
def bounded():
    """Memory beyond `ROOM` cannot be had: taking it ends in a MemoryError, which is no BadInput."""
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def damaged(content: bytes, seed: int) -> bytes:
    """Bytes flipped, cut off, repeated or put in, most often near the beginning, where headers stand."""
    generator = np.random.default_rng(seed)
    found = bytearray(content)
    reach = min(len(found), int(generator.choice([16, 128, len(found)])))
    kind = seed % 4
    place = int(generator.integers(reach))
    if kind == 0:
        for spot in generator.integers(reach, size=int(generator.integers(1, 9))):
            found[spot] = int(generator.integers(256))
    elif kind == 1:
        del found[place:]
    elif kind == 2:
        found[place:place] = generator.bytes(int(generator.integers(1, 64)))
    else:
        found[place : place + 8] = struct.pack("<Q", int(generator.integers(2**63)))
    return bytes(found)


def told_in_one_line(read, path):
    """Read a damaged file; where it is refused, return 1."""
    try:
        read(path)
    except BadInput as error:
        assert "\n" not in str(error) and 10 < len(str(error)) < 400
        return 1
    return 0


def opened(path):
    with weights.opened(path):
        pass


def safetensors_file():
    return safetensors.torch.save({"a.weight": torch.ones(4, 3), "b": torch.zeros(7, dtype=torch.int64)})


def npz_file():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((4, 6, 5, 3), np.uint8), y=np.arange(4), classes=np.array(list("abcd")))
    return buffer.getvalue()


def picture(kind):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, size=(24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    "safetensors": (safetensors_file, opened),
    "npz": (npz_file, intake.read_npz),
    "png": (lambda: picture("PNG"), images.decode),
    "jpeg": (lambda: picture("JPEG"), images.decode),
    "webp": (lambda: picture("WEBP"), images.decode),
    "bmp": (lambda: picture("BMP"), images.decode),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_damaged_at_random_are_read_or_refused_in_one_line(tmp_path, kind):
    make, read = FILES[kind]
    whole, path = make(), tmp_path / "file"
    path.write_bytes(whole)
    read(path)
    refused = 0
    for seed in range(DAMAGES):
        path.write_bytes(damaged(whole, seed))
        refused += told_in_one_line(read, path)
    # Some damage falls on pixels or values and makes another whole file.
    assert refused > DAMAGES / 4


def header(table, values=b"\0" * 48):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + values


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]} | changes}


HEADERS = {
    "shape larger than the data": header(entry(shape=[10**6, 10**6])),
    "shape beyond 64 bits": header(entry(shape=[10**30])),
    "shape whose size overflows": header(entry(shape=[2**62, 8])),
    "negative shape": header(entry(shape=[-3, -4])),
    "shape of fractions": header(entry(shape=[1.5, 8])),
    "offsets behind the end": header(entry(data_offsets=[0, 10**12])),
    "offsets that run backwards": header(entry(data_offsets=[48, 0])),
    "negative offsets": header(entry(data_offsets=[-48, 0])),
    "unknown type": header(entry(dtype="F1024")),
    "type that is a list": header(entry(dtype=["F32"])),
    "no offsets": header({"a": {"dtype": "F32", "shape": [3, 4]}}),
    "overlapping tensors": header(entry() | {"b": entry()["a"]}),
    "hole between tensors": header(entry(shape=[1], data_offsets=[44, 48])),
    "nothing at all": header({}, b""),
    "nothing but metadata": header({"__metadata__": {"a": "b"}}, b""),
    "metadata of numbers": header(entry() | {"__metadata__": {"a": 1}}),
    "not JSON": header(b"{not json"),
    "not UTF-8": header(b'{"\xff\xfe": 1}'),
    "deeply nested": header(b'{"a":' * 100_000),
    "many brackets": header(b'{"a":' + b"[" * 1_000_000),
    "a list": header(b"[1, 2, 3]"),
    "length of a terabyte": struct.pack("<Q", 2**40) + b"{}",
    "length of zero": struct.pack("<Q", 0) + b"{}",
    "largest length": b"\xff" * 8 + b"{}",
    "length just behind the end": struct.pack("<Q", 3) + b"{}",
    "not a number among the values": header(entry(), np.full(12, np.nan, np.float32).tobytes()),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_damaged_by_design_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "file.safetensors"
    path.write_bytes(HEADERS[kind])
    assert told_in_one_line(opened, path) == 1


def bomb():
    """An archive of 80 kilobytes that unpacks to 80 megabytes."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("x.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (80 * 2**20, 1, 1, 1)}
        )
        for _ in range(80):
            file.write(bytes(2**20))
    return buffer.getvalue()


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    (tmp_path / "set.npz").write_bytes(bomb())
    assert told_in_one_line(intake.read_npz, tmp_path / "set.npz") == 1
