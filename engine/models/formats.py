"""What a weights file is, told by its content alone: a name such as `.safetensors` says nothing."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.errors import BadInput

Format = Literal["safetensors", "state_dict"]

LARGEST_HEADER = 20_000_000
"""Bytes: safetensors' own cap is 100 MB; a network of a million tensors would still fit here."""
MOST_MEMBERS = 200_000
LARGEST_PICKLE = 50_000_000
"""Bytes of the pickled table of a state_dict: names, shapes and offsets, no values."""
OLD_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that begins torch's format before version 1.6."""
WAY_OUT = "where you trust it, load it and save the network's state_dict() with safetensors"
BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF", f"an HDF5 (Keras) file; {WAY_OUT}"),
    (0, b"\x93NUMPY", "one numpy array; save the weights with safetensors under the keys of the state_dict"),
    (0, b"GGUF", "a GGUF file of a language model"),
    (4, b"TFL3", f"a TensorFlow Lite program; {WAY_OUT}"),
    (4, b"PTMF", f"a mobile TorchScript program; {WAY_OUT}"),
    (257, b"ustar", f"a tar archive, as torch once wrote, whose pickles run code; {WAY_OUT}"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (0, b"7z\xbc\xaf", "compressed with 7z; unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (0, b"<", "a web page or XML, perhaps an error message saved as a file; fetch the weights again"),
)
"""(offset, bytes there, what the file is and what to do)."""


def of(path: Path) -> Format:
    """Return how a file holds its tensors. Raises BadInput in one line that says what the file is and the way out."""
    if not path.is_file():
        raise BadInput(f"There is no weights file {path.name}.")
    with path.open("rb") as file:
        start = file.read(512)
    if _is_safetensors(start, path.stat().st_size):
        return "safetensors"
    if start.startswith(b"PK"):
        _require_state_dict(path)
        return "state_dict"
    raise BadInput(f"{path.name} is not a safetensors file but {_described(start)}.")


def _is_safetensors(start: bytes, size: int) -> bool:
    header = struct.unpack("<Q", start[:8])[0] if len(start) > 8 else 0
    return start[8:9] == b"{" and 2 <= header <= min(LARGEST_HEADER, size - 8)


def _described(start: bytes) -> str:
    if start[:1] == b"\x80" and len(start) > 1 and start[1] <= 5:
        if OLD_TORCH in start[:16]:
            return "a pickle in torch's format from before 1.6; load it with torch.load(…, weights_only=True) and save it anew"
        return f"a pickle, which runs code when it is opened; {WAY_OUT}"
    for offset, mark, found in BEGINNINGS:
        if start[offset : offset + len(mark)] == mark:
            return found
    if _is_onnx(start):
        return f"an ONNX graph, whose layers are not those of a registered architecture; {WAY_OUT}"
    return "of no known format; save the network's state_dict() with safetensors"


def _is_onnx(start: bytes) -> bool:
    """A protobuf that begins with a small version (field 1) and goes on with a producer, domain, graph or opset."""
    return len(start) > 3 and start[0] == 0x08 and start[1] < 0x20 and start[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _require_state_dict(path: Path) -> None:
    """Check the archive's directory: nothing of a program, nothing compressed, nothing twice, no member larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is a damaged zip archive.") from error
    names = [member.filename for member in members]
    refused = _foreign(names) or _unsafe(members, path.stat().st_size)
    if refused:
        raise BadInput(f"{path.name} is {refused}.")


def _foreign(names: Sequence[str]) -> str:
    """What an archive is that holds no state_dict; empty for one that may."""
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return f"a TorchScript program, which runs when it is loaded; {WAY_OUT}"
    if "archive_format" in inner or any(name.startswith(("models/", "serialized_")) for name in (*inner, *names)):
        return f"a program of torch.export (.pt2), which may unpickle code; {WAY_OUT}"
    if any(name.startswith(".data/extern_modules") for name in inner):
        return f"a torch.package archive, which holds code; {WAY_OUT}"
    if any(name.endswith(".npy") for name in names):
        return "an npz archive of numpy arrays; save them with safetensors under the keys of the state_dict"
    if len({name.partition("/")[0] for name in names}) != 1 or "data.pkl" not in inner:
        return "a zip archive, but none that torch.save wrote; unpack it first"
    return ""


def _unsafe(members: Sequence[zipfile.ZipInfo], size: int) -> str:
    names = [member.filename for member in members]
    if len(names) > MOST_MEMBERS or len(set(names)) != len(names):
        return f"an archive with {len(names):,} members, some of them twice or more than {MOST_MEMBERS:,}"
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        return "compressed or encrypted, which torch.save never does; save it again with torch.save"
    pickle = max((member.file_size for member in members if member.filename.endswith("data.pkl")), default=0)
    if sum(member.file_size for member in members) > size or pickle > LARGEST_PICKLE:
        return "an archive that declares more than it holds"
    return ""
