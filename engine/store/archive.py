"""Arrays in one uncompressed npz: every member is checked against its hash before it is parsed."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine import keys

EPOCH = (1980, 1, 1, 0, 0, 0)
"""One fixed date, so that equal arrays make equal files."""


class Corrupt(Exception):
    """What lies on the disk is not what was written; only the store sees this."""


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write arrays as an npz that numpy opens too, and return the hash of every member."""
    hashes = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = _packed(array)
            hashes[name] = keys.bytes_hash(content)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), content)
    return hashes


def read(path: Path, hashes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the members named in `hashes`, read-only; raises Corrupt when one is not what was written."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, expected in hashes.items():
                content = archive.read(f"{name}.npy")
                if keys.bytes_hash(content) != expected:
                    raise Corrupt(f"{path.name}: {name} differs from what was written")
                found[name] = _unpacked(content)
    # RuntimeError and NotImplementedError: a flipped flag makes a member look encrypted or compressed.
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, RuntimeError, FileNotFoundError) as error:
        raise Corrupt(f"{path.name}: {error}") from error
    return found


def _packed(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _unpacked(content: bytes) -> np.ndarray:
    """Return the array over the very bytes that were checked, without a copy of them."""
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    shape, is_transposed, dtype = _header(buffer, version)
    if is_transposed or dtype.hasobject:
        raise ValueError("an array that no store wrote")
    return np.frombuffer(content, dtype, count=math.prod(shape), offset=buffer.tell()).reshape(shape)


def _header(buffer: io.BytesIO, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(buffer)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(buffer)
    raise ValueError(f"an array of version {version}")
