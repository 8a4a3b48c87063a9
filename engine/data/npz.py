"""Reading arrays out of an npz file that nobody vouches for: declared sizes are checked before memory is taken."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import numpy as np

from engine import files
from engine.errors import BadInput

MOST_BYTES = 4 * 2**30
HARMLESS_BYTES = 64 * 2**20
LARGEST_RATIO = 200
"""How many times its compressed size a larger array may have: pictures stay below 50, a zip bomb is at 1000."""
LARGEST_FILE: Final = 4 * MOST_BYTES
LONGEST_HEADER: Final = 10_000
"""Bytes; the header of a plain array takes 128."""
COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The two that numpy writes; others can ask for any amount of memory."""
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An open npz file."""

    def __init__(self, name: str, archive: zipfile.ZipFile, size: int) -> None:
        """size: bytes of the file."""
        self.name = name
        self._archive = archive
        self._size = size

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.namelist()

    def array(self, key: str) -> np.ndarray:
        """Return one array. Raises BadInput when it is missing, of Python objects, too large or damaged."""
        if key not in self:
            known = ", ".join(sorted(name.removesuffix(".npy") for name in self._archive.namelist())[:12])
            raise BadInput(f"{self.name} has no array '{key}'. It has: {known[:200] or 'nothing'}.")
        what, entry = f"The array '{key}' in {self.name}", self._archive.getinfo(f"{key}.npy")
        if entry.flag_bits & 1:
            raise BadInput(f"{what} is encrypted; save it without a password.")
        if entry.compress_type not in COMPRESSIONS:
            raise BadInput(f"{what} is compressed in another way than numpy does; save it with numpy.savez_compressed.")
        with files.told(what, "an npy array"):
            with self._archive.open(entry) as member:
                self._check_header(what, member, entry)
            with self._archive.open(entry) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

    def _check_header(self, what: str, member: IO[bytes], entry: zipfile.ZipInfo) -> None:
        header = io.BytesIO(member.read(LONGEST_HEADER))
        version = np.lib.format.read_magic(header)
        if version not in HEADERS:
            raise BadInput(f"{what} has the unknown npy version {version[0]}.{version[1]}.")
        shape, _, dtype = HEADERS[version](header)
        if dtype.hasobject:
            raise BadInput(f"{what} holds Python objects; save plain numbers or text.")
        size, declared = math.prod(shape) * dtype.itemsize, entry.file_size
        if size > MOST_BYTES or declared > MOST_BYTES:
            raise BadInput(f"{what} declares {size:,} bytes; at most {MOST_BYTES:,} are read.")
        if size + header.tell() != declared:
            raise BadInput(f"{what} declares {size:,} bytes but holds another number.")
        # The compressed size is only declared too; the file's is a fact.
        if declared > max(HARMLESS_BYTES, LARGEST_RATIO * min(entry.compress_size, self._size)):
            raise BadInput(f"{what} unpacks to over {LARGEST_RATIO} times its size; save it uncompressed.")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an npz file. Raises BadInput for what is not one."""
    with files.opened(path, "an npz file", LARGEST_FILE) as file, zipfile.ZipFile(file) as archive:
        yield Archive(path.name, archive, os.fstat(file.fileno()).st_size)
