"""Files damaged at random and by design: one line says why, and memory stays bounded."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from engine import images
from engine.data import csv_table, sources
from engine.errors import BadInput
from engine.models import checkpoints

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


@pytest.fixture
def patient():
    """Whoever waits for more than ten seconds is waked by an error."""

    def wake(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def told_in_one_line(read, path):
    """Read a damaged file; where it is refused, return 1."""
    try:
        read(path)
    except BadInput as error:
        assert "\n" not in str(error) and 10 < len(str(error)) < 400
        return 1
    return 0


def opened(path):
    with checkpoints.opened(path):
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
    "npz": (npz_file, sources.read_npz),
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
    "no values under a huge shape": header(entry(shape=[0, 2_000_000_000, 1, 1], data_offsets=[0, 0]), b""),
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


def test_a_file_of_holes_that_would_take_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "file.safetensors"
    size = 2 * 10**9
    path.write_bytes(header({"a": {"dtype": "F8_E4M3", "shape": [size], "data_offsets": [0, size]}}, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    with pytest.raises(BadInput, match=r"^file\.safetensors holds 2,000,000,000 values; networks of at most"):
        opened(path)


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
    assert told_in_one_line(sources.read_npz, tmp_path / "set.npz") == 1


def npy(header: bytes, values: bytes = b"", version: int = 1) -> bytes:
    """A member of an archive with any text as its header."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + values


def zipped(member: bytes, compression: int = zipfile.ZIP_STORED, name: str = "x.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, member)
    return buffer.getvalue()


def directory(content: bytes, offset: int, changed: bytes) -> bytes:
    """The archive with a field of the first entry of its directory changed."""
    place = content.index(b"PK\1\2") + offset
    return content[:place] + changed + content[place + len(changed) :]


PLAIN = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2, 3), }\n"
WHOLE = npy(PLAIN, bytes(24))
MEMBERS = {
    "bracket without its end": zipped(npy(b"{'descr': (" + b" " * 40)),
    "text without its end": zipped(npy(b"{'descr': '|u1" + b" " * 40)),
    "type in a pair of one": zipped(npy(PLAIN.replace(b"'|u1'", b"('|u1',)"), bytes(24))),
    "name that is a list": zipped(npy(b"{[]: 1}\n")),
    "names of two types": zipped(npy(b"{1: 1, 'a': 2}\n")),
    "deeply nested": zipped(npy(b"-" * 5000 + b"1")),
    "version 9.9": directory(zipped(WHOLE), 6, b"\x63\0"),
    "name in no alphabet": directory(directory(zipped(WHOLE), 8, b"\0\x08"), 46, b"\xff\xff"),
    "encrypted": directory(zipped(WHOLE), 8, b"\1\0"),
    "compressed with LZMA": zipped(WHOLE, zipfile.ZIP_LZMA),
    "compressed with bzip2": zipped(WHOLE, zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_archives_damaged_by_design_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "set.npz"
    path.write_bytes(MEMBERS[kind])
    assert told_in_one_line(sources.read_npz, path) == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("encrypted", "save it without a password"),
        ("deeply nested", "cannot be read as an npy array"),
        ("compressed with LZMA", "compressed in another way"),
        ("compressed with bzip2", "compressed in another way"),
    ],
)
def test_the_reason_why_an_array_is_refused_is_the_true_one(tmp_path, kind, reason):
    (tmp_path / "set.npz").write_bytes(MEMBERS[kind])
    with pytest.raises(BadInput, match=reason):
        sources.read_npz(tmp_path / "set.npz")


def test_a_header_without_an_end_is_not_read_to_its_end(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(npy(b"", version=2)[:8] + struct.pack("<I", 200 * 2**20))
        for _ in range(200):
            file.write(b" " * 2**20)
    assert told_in_one_line(sources.read_npz, tmp_path / "set.npz") == 1


def test_class_names_of_no_character_or_without_end_are_refused(tmp_path):
    x, y = np.zeros((2, 2, 2, 3), np.uint8), np.arange(2)
    beyond = np.frombuffer(b"\xff\xff\xff\xff" * 2, dtype="<U1")
    empty = b"{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,), }\n"
    np.savez(tmp_path / "beyond.npz", x=x, y=y, classes=beyond)
    np.savez(tmp_path / "many.npz", x=x, y=y)
    with zipfile.ZipFile(tmp_path / "many.npz", "a") as archive:
        archive.writestr("classes.npy", npy(empty))
    for name in ("beyond", "many"):
        assert told_in_one_line(sources.read_npz, tmp_path / f"{name}.npz") == 1


def test_an_array_written_by_python_2_is_read_without_a_warning(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", npy(PLAIN.replace(b"(2, 2,", b"(2L, 2L,"), bytes(24)))
        archive.writestr("y.npy", npy(PLAIN.replace(b"(2, 2, 2, 3)", b"(2L,)"), bytes(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sources.read_npz(tmp_path / "set.npz").x.shape == (2, 2, 2, 1)


def test_a_directory_that_lies_about_the_compressed_size_helps_no_bomb(tmp_path):
    (tmp_path / "set.npz").write_bytes(directory(bomb(), 20, struct.pack("<I", 2**30)))
    with pytest.raises(BadInput, match="unpacks to over 200 times its size"):
        sources.read_npz(tmp_path / "set.npz")


def sparse(path, size=3 * 2**30):
    """A file that says it has gigabytes and takes no room on the disk."""
    path.touch()
    os.truncate(path, size)
    return path


def test_files_of_gigabytes_are_refused_unread(tmp_path):
    assert told_in_one_line(sources.read_classes, sparse(tmp_path / "names.txt")) == 1
    sparse(tmp_path / "one.png")
    (tmp_path / "table.csv").write_text("file,label,sha256\none,0,00\n")
    with pytest.raises(BadInput, match=r"one\.png has 3,221,225,472 bytes; at most 67,108,864 are read"):
        csv_table.read(tmp_path / "table.csv", tmp_path, csv_table.Columns(), None)


def test_a_narrow_picture_takes_no_memory_when_it_is_fitted(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("L", (1, 20_000)).save(tmp_path / "set" / "a" / "thin.png")
    with pytest.raises(BadInput, match=r"^thin\.png: 1 x 20000 pixels would be resized to 224 x 4480000"):
        sources.read_folder(tmp_path / "set", size=(224, 224))


READERS = {
    "picture": images.decode,
    "npz": sources.read_npz,
    "classes": sources.read_classes,
    "csv": lambda path: csv_table.read(path, path.parent, csv_table.Columns(), None),
    "folder": lambda path: sources.read_folder(path.parent.parent),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.usefixtures("patient")
def test_nobody_waits_for_a_pipe(tmp_path, kind):
    pipe = tmp_path / "set" / "a" / "pipe"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match=r"^pipe is a pipe or a device; .* in a plain file is wanted\.$"):
        READERS[kind](pipe)
