"""Reading arrays out of an npz file that nobody vouches for: declared sizes are checked before memory is taken."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import BadInput

MOST_BYTES = 4 * 2**30
HARMLESS_BYTES = 64 * 2**20
LARGEST_RATIO = 200
"""How many times its compressed size a larger array may have: pictures stay below 50, a zip bomb is at 1000."""
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An open npz file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.name = path.name
        self._archive = archive

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.namelist()

    def array(self, key: str) -> np.ndarray:
        """Return one array. Raises BadInput when it is missing, of Python objects, too large or damaged."""
        if key not in self:
            known = ", ".join(sorted(name.removesuffix(".npy") for name in self._archive.namelist())[:12])
            raise BadInput(f"{self.name} has no array '{key}'. It has: {known[:200] or 'nothing'}.")
        try:
            with self._archive.open(f"{key}.npy") as member:
                self._check_header(key, member, self._archive.getinfo(f"{key}.npy"))
            with self._archive.open(f"{key}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)
        except (
            ValueError,
            SyntaxError,
            EOFError,
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
        ) as error:
            raise BadInput(f"The array '{key}' in {self.name} is damaged and cannot be read.") from error
        except RuntimeError as error:
            raise BadInput(f"The array '{key}' in {self.name} is encrypted; save it without a password.") from error

    def _check_header(self, key: str, member: IO[bytes], entry: zipfile.ZipInfo) -> None:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise BadInput(f"The array '{key}' in {self.name} has the unknown npy version {version[0]}.{version[1]}.")
        shape, _, dtype = HEADERS[version](member)
        if dtype.hasobject:
            raise BadInput(f"The array '{key}' in {self.name} holds Python objects; save plain numbers or text.")
        size, declared = math.prod(shape) * dtype.itemsize, entry.file_size
        if size > MOST_BYTES or declared > MOST_BYTES:
            raise BadInput(
                f"The array '{key}' in {self.name} declares {size:,} bytes; at most {MOST_BYTES:,} are read."
            )
        if size + member.tell() != declared:
            raise BadInput(f"The array '{key}' in {self.name} declares {size:,} bytes but holds another number.")
        if declared > max(HARMLESS_BYTES, LARGEST_RATIO * entry.compress_size):
            raise BadInput(
                f"The array '{key}' in {self.name} unpacks to over {LARGEST_RATIO} times its size; save it uncompressed."
            )


def opened(path: Path) -> zipfile.ZipFile:
    """Return an open npz file, to be closed by the caller. Raises BadInput for what is not one."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path.name} cannot be read as an npz file.") from error
