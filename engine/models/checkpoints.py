"""Weights files: told by content, read as safetensors, their names fitted to an architecture."""

from __future__ import annotations

import itertools
import json
import math
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from engine.errors import BadInput, printable

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
    for offset, mark, result in BEGINNINGS:
        if start[offset : offset + len(mark)] == mark:
            return result
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
    kind = of(path)
    if path.stat().st_size > LARGEST_FILE:
        raise BadInput(f"{path.name} has {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,} are read.")
    with tempfile.TemporaryDirectory(prefix="faultline-") as folder:
        file, notes = (path, ()) if kind == "safetensors" else _converted(path, Path(folder))
        weights = Weights(read(file, path.name), file, kind, notes)
        yield _unwrapped(weights, Path(folder) / "unwrapped.safetensors")


def read(path: Path, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, called `name` in messages. Raises BadInput in one line."""
    name = name or path.name
    if of(path) != "safetensors":
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
    result = ""
    while names and all(name.startswith(result) for name in names):
        inner = next((item for item in WRAPPERS if all(name.startswith(f"{result}{item}.") for name in names)), "")
        if not inner:
            return result
        result += f"{inner}."
    return result


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the wrappers before all of them and inside it, or all as they are where two would be one."""
    bare = {name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in names}
    before = wrapper(dict.fromkeys(bare.values()))
    short = {name: rest.removeprefix(before) for name, rest in bare.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


def _unwrapped(weights: Weights, target: Path) -> Weights:
    """Take off what tools put before names and beside them; nothing of a network is ever left out here."""
    beside = _beside(weights.tensors)
    kept = {name: tensor for name, tensor in weights.tensors.items() if name not in beside}
    short = short_names(kept)
    tensors = {short[name]: tensor for name, tensor in kept.items()}
    notes = (*weights.notes, *_taken_off(beside, short))
    if tensors.keys() == weights.tensors.keys():
        return replace(weights, notes=notes)
    safetensors.torch.save_file(tensors, target)
    return Weights(tensors, target, weights.format, notes)


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
    result = _reply_of(done.stdout)
    if "error" in result:
        raise BadInput(f"{path.name} {str(result['error'])[:240]}; {WAY_OUT}.")
    if done.returncode or not target.is_file():
        raise BadInput(f"{path.name} could not be opened as a state_dict within its limits; {WAY_OUT}.")
    return target, _notes(result)


def _reply_of(output: bytes) -> dict[str, Any]:
    try:
        result = json.loads(output)
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}


def _notes(values: Mapping[str, Any]) -> tuple[str, ...]:
    converted = "A state_dict was converted to safetensors."
    if not values.get("inside"):
        return (converted,)
    left = ", ".join(map(str, values["left_out"][:6]))
    result = converted, printable(f"The weights lay under '{values['inside']}'; left out: {left or 'nothing'}.")
    others = ", ".join(f"'{item}'" for item in values["others"][:6])
    what = f"Other weights of the same names lie under {others}; to take those, save them alone."
    return (*result, printable(what)) if others else result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


COUNTER: Final = "num_batches_tracked"
"""Of batch norm: a number that evaluation never reads, which older files lack and others keep as a float."""
NORMALISERS: Final = ("mean", "std", "new_mean", "new_std", "_mean", "_std", "mu", "sigma")
"""Last parts of the names under which modules keep what they subtract from pictures and divide them by."""
MOST_CHANNELS: Final = 4
NAMED: Final = 3
"""Of what a message lists."""
Tensors = Mapping[str, Tensor]


def placed(wanted: Tensors, got: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of a network, as far as the names leave no doubt.

    What intake took off every name (`weights.short_names`) is restored where a network really has it; a prefix is taken off
    where all of the file stands behind it. Nothing of a file is ever left out.
    """
    places = {short: full for full, short in short_names(wanted).items()}
    results = {key if key in wanted else places.get(key, key): tensor for key, tensor in got.items()}
    if len(results) < len(got):
        return dict(got)
    before = next(iter(prefixes(wanted, results)), "")
    if not all(key.startswith(before) for key in results):
        return results
    return {key.removeprefix(before): tensor for key, tensor in results.items()}


def prefixes(wanted: Tensors, got: Tensors) -> list[str]:
    """Return every prefix behind which a file has all names of a network, such as `student.` and `teacher.`."""
    needed = _needed(wanted)
    return [before for before in _candidates(needed, got) if all(f"{before}{key}" in got for key in needed)]


def hint(name: str, wanted: Tensors, got: Tensors) -> str:
    """Return what to do with a file whose names are not those of the network called `name`; empty where nothing is known."""
    result = prefixes(wanted, got)
    if len(result) > 1:
        return f" {_several(name, wanted, got, result)}"
    if result:
        return f" {_one(name, result[0], wanted, got)}"
    return _most(name, wanted, got)


def _needed(wanted: Tensors) -> list[str]:
    """All names but those of counters, the longest first: the fewest others end with it."""
    return sorted(
        (key for key in wanted if not key.endswith(COUNTER)), key=lambda key: (-key.count("."), -len(key), key)
    )


def _candidates(needed: list[str], got: Tensors) -> list[str]:
    """Prefixes of the names that are, or end with, a name of the network."""
    if not needed:
        return []
    ending = needed[0]
    return sorted(key.removesuffix(ending) for key in got if key == ending or key.endswith(f".{ending}"))


def _several(name: str, wanted: Tensors, got: Tensors, texts: list[str]) -> str:
    ways = " and ".join(_behind(before) for before in texts[:NAMED])
    first, *others = texts
    is_equal = all(
        torch.equal(got[f"{first}{key}"], got[f"{other}{key}"]) for other in others for key in _needed(wanted)
    )
    what = "the same values, so either will do" if is_equal else "different values"
    return (
        f"The file holds the names of {name} {len(texts)} times, {ways}, with {what}: save the one that is meant alone, "
        f"without its prefix.{_declaration(wanted, got, texts)}"
    )


def _one(name: str, before: str, wanted: Tensors, got: Tensors) -> str:
    beside = sorted(key for key in got if not key.startswith(before) or key.removeprefix(before) not in wanted)
    more = ", …" if len(beside) > NAMED else ""
    listed = ", ".join(key[:80] for key in beside[:NAMED])
    way_out = "save that part alone, without the prefix" if before else "save the network without them"
    return (
        f"All names of {name} stand {_behind(before)}, and beside them {listed}{more}: {way_out}."
        f"{_declaration(wanted, got, [before])}"
    )


def _most(name: str, wanted: Tensors, got: Tensors) -> str:
    """Where more than half of the names stand behind one prefix."""
    needed = _needed(wanted)
    counts = Counter(before for key in got for before in _before(key, frozenset(needed)))
    (best, count), *_ = counts.most_common(1) or [("", 0)]
    if 2 * count <= len(needed):
        return ""
    lacking = [key for key in needed if f"{best}{key}" not in got]
    return (
        f" {count} of the {len(needed)} names of {name} stand {_behind(best)}, and not {', '.join(lacking[:NAMED])}"
        f"{', …' if len(lacking) > NAMED else ''}: rename them to be those of {name}."
    )


def _before(key: str, ends: frozenset[str]) -> Iterator[str]:
    """Yield each prefix of a name behind which one of the `ends` stands."""
    parts = key.split(".")
    for cut in range(1, len(parts)):
        if ".".join(parts[cut:]) in ends:
            yield f"{'.'.join(parts[:cut])}."


def _behind(before: str) -> str:
    return f"behind the prefix '{before[:80]}'" if before else "without a prefix"


def _declaration(wanted: Tensors, got: Tensors, texts: list[str]) -> str:
    """What to declare where a file has a normaliser that the network has not: its values decide every answer."""
    own = {f"{before}{key}" for before in texts for key in wanted}
    values = {key: tensor for key, tensor in got.items() if key not in own and _is_normaliser(key, tensor)}
    if not values:
        return ""
    result = "; ".join(
        f"{key[:80]} = {_listed(tensor)}" for key, tensor in sorted(values.items(), key=lambda one: one[0])[: 2 * NAMED]
    )
    return f" The file's normaliser is no part of this network: declare its values with --mean and --std ({result})."


def _is_normaliser(key: str, tensor: Tensor) -> bool:
    is_one = key.split(".")[-1] in NORMALISERS and tensor.is_floating_point()
    return is_one and 1 <= tensor.numel() <= MOST_CHANNELS


def _listed(tensor: Tensor) -> str:
    return ",".join(f"{value:.4g}" for value in tensor.flatten().tolist())
