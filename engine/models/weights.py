"""Weights from a file that nobody vouches for: tensors and nothing else, under the names an architecture gives them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from engine.errors import BadInput
from engine.models import formats
from engine.models.formats import Format

WRAPPERS = ("module", "model", "_orig_mod")
"""What data-parallel training, Lightning and torch.compile put before every name."""
LARGEST_FILE = 8 * 2**30
BASE_MEMORY = 2 * 2**30
"""Bytes of data that torch alone takes when it is loaded (0.7 GiB measured), with room to spare."""
SECONDS = 120
UNPICKLING = Path(__file__).with_name("unpickling.py")


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """The tensors of a weights file, and how they were found in it."""

    tensors: dict[str, Tensor]
    file: Path
    """A safetensors file with exactly these tensors."""
    format: Format
    notes: tuple[str, ...]
    """What was taken out of the file and what was left, one sentence each; empty where it was taken as it is."""


@contextmanager
def opened(path: Path) -> Iterator[Weights]:
    """Yield the weights of a safetensors or state_dict file; no other format is ever opened.

    A state_dict is unpickled, restricted to tensors, by a process of its own. Raises BadInput in one line.
    """
    kind = formats.of(path)
    if path.stat().st_size > LARGEST_FILE:
        raise BadInput(f"{path.name} has {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,} are read.")
    with tempfile.TemporaryDirectory(prefix="faultline-") as folder:
        file, notes = (path, ()) if kind == "safetensors" else _converted(path, Path(folder))
        found = Weights(read(file, path.name), file, kind, notes)
        yield _unwrapped(found, Path(folder) / "unwrapped.safetensors")


def read(path: Path, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, called `name` in messages. Raises BadInput in one line."""
    name = name or path.name
    if formats.of(path) != "safetensors":
        raise BadInput(f"{name} is not a safetensors file.")
    try:
        tensors = {key: _plain(tensor) for key, tensor in safetensors.torch.load_file(path).items()}
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise BadInput(f"{name} is damaged: {_one_line(error)}.") from error
    if not tensors:
        raise BadInput(f"{name} holds no tensors.")
    odd = [key for key, tensor in tensors.items() if tensor.is_complex()]
    broken = odd or [
        key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise BadInput(f"{name} holds NaN, infinity or complex numbers in {broken[0][:80]!r}.")
    return tensors


def _plain(tensor: Tensor) -> Tensor:
    """In the precision everything is computed in, whatever half or quarter precision the file saves space with."""
    return tensor.float() if tensor.is_floating_point() else tensor


def wrapper(names: Mapping[str, object]) -> str:
    """Return the wrappers that stand before every name, such as `module.`; empty where there is none."""
    found = ""
    while names and all(name.startswith(found) for name in names):
        inner = next((one for one in WRAPPERS if all(name.startswith(f"{found}{one}.") for name in names)), "")
        if not inner:
            return found
        found += f"{inner}."
    return found


def _unwrapped(found: Weights, target: Path) -> Weights:
    before = wrapper(found.tensors)
    if not before:
        return found
    tensors = {name.removeprefix(before): tensor for name, tensor in found.tensors.items()}
    safetensors.torch.save_file(tensors, target)
    return Weights(
        tensors, target, found.format, (*found.notes, f"Every name began with '{before}', which was taken off.")
    )


def _converted(path: Path, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Have a state_dict file rewritten as safetensors by a process that knows of nothing else."""
    target = folder / "weights.safetensors"
    memory = BASE_MEMORY + 3 * path.stat().st_size
    command = [sys.executable, "-I", str(UNPICKLING), str(path.resolve()), str(target), str(memory), str(SECONDS)]
    try:
        # Without the environment: what it holds of this user (credentials, the store's folder) is none of its business.
        done = subprocess.run(
            command, env={"OMP_NUM_THREADS": "1"}, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{path.name} could not be opened within {SECONDS} seconds.") from error
    told = _told(done.stdout)
    if "error" in told:
        raise BadInput(f"{path.name} {str(told['error'])[:240]}; {formats.WAY_OUT}.")
    if done.returncode or not target.is_file():
        raise BadInput(f"{path.name} could not be opened as a state_dict within its limits; {formats.WAY_OUT}.")
    return target, _notes(told)


def _told(output: bytes) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _notes(told: Mapping[str, Any]) -> tuple[str, ...]:
    converted = "A state_dict was converted to safetensors."
    if not told.get("inside"):
        return (converted,)
    left = ", ".join(map(str, told["left_out"][:6]))
    return converted, f"The weights lay under '{told['inside']}'; left out: {left or 'nothing'}."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
