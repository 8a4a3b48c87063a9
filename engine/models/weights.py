"""Weights from a file that nobody vouches for: tensors and nothing else, under the names an architecture gives them."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from engine.errors import BadInput, printable
from engine.models import formats
from engine.models.formats import Format

INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, sharded training and checkpointed activations put anywhere into a name."""
WRAPPERS = ("module", "model", "_forward_module", "_module", *INSIDE)
"""What data-parallel training, Lightning, its Fabric and Opacus put before every name."""
AVERAGED = "n_averaged"
"""What `torch.optim.swa_utils.AveragedModel` counts beside `module.`."""
COUNTERS = ("total_ops", "total_params")
"""Last parts of the names under which thop leaves what it counted, one number each."""
LARGEST_FILE = 4 * 2**30
"""Bytes: a checkpoint may hold an optimiser beside its weights; what is not wanted of it is never taken into memory."""
MOST_VALUES = 2**28
"""In all tensors together: 1 GiB in float32. Adding holds them three times (file, network, network in its order), beside torch."""
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
        _require_room(name, _shapes(path))
        tensors = {key: _plain(tensor) for key, tensor in safetensors.torch.load_file(path).items()}
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise BadInput(f"{name} is damaged: {_one_line(error)}.") from error
    for key, tensor in tensors.items():
        if tensor.is_complex():
            raise BadInput(f"{name} holds complex numbers in {key[:80]!r}; networks of real numbers are taken.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BadInput(f"{name} holds NaN, infinity or numbers too large for float32 in {key[:80]!r}.")
    return tensors


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    # As for numpy: as for torch the whole file would be mapped as memory of this process.
    with safetensors.safe_open(path, framework="np") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)


def _require_room(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check what the header declares before a single value is read."""
    if not shapes:
        raise BadInput(f"{name} holds no tensors.")
    empty = [key for key, shape in shapes.items() if not math.prod(shape)]
    if empty:
        raise BadInput(f"{name} holds no values in {empty[0][:80]!r}, which has the shape {shapes[empty[0]]}.")
    values = sum(map(math.prod, shapes.values()))
    if values > MOST_VALUES:
        raise BadInput(f"{name} holds {values:,} values; networks of at most {MOST_VALUES:,} are taken.")


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


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the wrappers before all of them and inside it, or all as they are where two would be one."""
    bare = {name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in names}
    before = wrapper(dict.fromkeys(bare.values()))
    short = {name: rest.removeprefix(before) for name, rest in bare.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


def _unwrapped(found: Weights, target: Path) -> Weights:
    """Take off what tools put before names and beside them; nothing of a network is ever left out here."""
    beside = _beside(found.tensors)
    kept = {name: tensor for name, tensor in found.tensors.items() if name not in beside}
    short = short_names(kept)
    tensors = {short[name]: tensor for name, tensor in kept.items()}
    notes = (*found.notes, *_taken_off(beside, short))
    if tensors.keys() == found.tensors.keys():
        return replace(found, notes=notes)
    safetensors.torch.save_file(tensors, target)
    return Weights(tensors, target, found.format, notes)


def _beside(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """The names that are no network's: what thop counted, and how often weights were averaged."""
    counted = {name for name, one in tensors.items() if name.split(".")[-1] in COUNTERS and one.numel() == 1}
    rest = tensors.keys() - counted - {AVERAGED}
    is_averaged = AVERAGED in tensors and rest and all(name.startswith("module.") for name in rest)
    return frozenset(counted | ({AVERAGED} if is_averaged else set())) if rest else frozenset()


def _taken_off(beside: frozenset[str], short: Mapping[str, str]) -> Iterator[str]:
    """One sentence each on what was left out and taken off."""
    if AVERAGED in beside:
        yield f"The weights are averaged (torch's AveragedModel); its counter '{AVERAGED}' was left out."
    counted = sorted(beside - {AVERAGED})
    if counted:
        yield printable(f"{len(counted)} counters of thop were left out (first: {counted[0][:80]}).")
    before = {name.removesuffix(rest) for name, rest in short.items()}
    if len(before) == 1 and before != {""}:
        yield printable(f"Every name began with '{before.pop()}', which was taken off.")
    elif len(before) > 1:
        held = {part for name, rest in short.items() for part in set(name.split(".")) - set(rest.split("."))}
        yield f"Names held {', '.join(sorted(held))}, which tools put there and which was taken off."
    shared = common(short.values())
    if shared:
        yield printable(
            f"Every name begins with '{shared}', which is taken off where the architecture has no such part."
        )


def common(names: Iterable[str]) -> str:
    """The parts with which every name begins, such as `net.`; empty where there are none."""
    parts = [name.split(".")[:-1] for name in names]
    shared = list(itertools.takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False)))
    return "".join(f"{part}." for part, *_ in shared)


def _converted(path: Path, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Have a state_dict file rewritten as safetensors by a process that knows of nothing else."""
    source, target = folder / "submitted.pt", folder / "weights.safetensors"
    # Under a name of ours: torch looks at the ending of a path before it looks at the content.
    source.symlink_to(path.resolve())
    size = path.stat().st_size
    # The file as it is mapped, and the tensors twice: put in order, and as they are written.
    memory = BASE_MEMORY + size + 2 * min(size, 4 * MOST_VALUES)
    command = [sys.executable, "-I", str(UNPICKLING), str(source), str(target), str(memory), str(SECONDS)]
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
    found = converted, printable(f"The weights lay under '{told['inside']}'; left out: {left or 'nothing'}.")
    others = ", ".join(f"'{one}'" for one in told["others"][:6])
    what = f"Other weights of the same names lie under {others}; to take those, save them alone."
    return (*found, printable(what)) if others else found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
