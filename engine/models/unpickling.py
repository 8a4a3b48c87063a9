"""Opens one state_dict file in a process of its own and writes its tensors as safetensors. Run by `weights`, never imported.

Four walls: torch's restricted unpickler, limits on memory, time and file size, an audit hook that ends whatever would write a
file, start a program or open a connection, and that this process knows of nothing but its two files.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import sys
from typing import Any, NoReturn

PREFERRED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights beside an optimiser, the likeliest first."""
FORBIDDEN = (
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "pty.",
    "webbrowser.",
)
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
ENDED_BY_THE_HOOK = 77
SAFE_SINCE = (2, 10)
"""Before this torch the restricted unpickler had holes (CVE-2025-32434, CVE-2026-24747)."""


def main(source: str, target: str, memory: int, seconds: int) -> None:
    """Write the tensors of `source` to `target` and print what was found, or the error, as one line of JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch
    from safetensors.torch import save_file

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_SINCE:
        _end(error=f"state_dict files need torch {SAFE_SINCE[0]}.{SAFE_SINCE[1]} or newer; save them with safetensors")
    _loaded(torch, _example(torch))  # what torch imports on first use is imported before the hook stands
    sys.addaudithook(_refuse)
    try:
        loaded = _loaded(torch, source, mmap=True)
    except Exception as error:
        _end(error=_reason(error))
    inside, left_out, tensors, others = _state_dict_in(torch, loaded)
    _require_held(tensors)
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, target)
    _end(inside=inside, left_out=left_out, others=others)


def _loaded(torch: Any, file: Any, *, mmap: bool = False) -> Any:
    """With `mmap` an optimiser that lies beside the weights is never read into memory."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _example(torch: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1, device="cpu")}, buffer)
    buffer.seek(0)
    return buffer


def _refuse(event: str, arguments: tuple) -> None:
    writes = event == "open" and isinstance(arguments[-1], int) and bool(arguments[-1] & WRITING)
    acts = event.startswith(FORBIDDEN) or (event.startswith("os.") and event not in HARMLESS)
    if writes or acts:
        # Not an exception: what is being opened must not be able to catch it.
        os._exit(ENDED_BY_THE_HOOK)


def _reason(error: Exception) -> str:
    """In our own words: torch's would advise to open the file without restriction."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"pickles the Python object {named[1][:80]}: a whole model, or a checkpoint with code in it"
    return "is damaged, or holds more than tensors"


def _state_dict_in(torch: Any, loaded: Any) -> tuple[str, list[str], dict[str, Any], list[str]]:
    """The dict of tensors that is meant, the whole or one inside it, and which others hold other weights of the same names."""
    if not isinstance(loaded, dict):
        _end(error=f"holds a {type(loaded).__name__}, not a state_dict")
    inside = {"": loaded} | {key: value for key, value in loaded.items() if isinstance(value, dict)}
    candidates = [key for key, value in inside.items() if _is_state_dict(torch, value)]
    if not candidates:
        _end(error="holds no state_dict: no dictionary of named tensors, plain or one level down")
    largest = max(candidates, key=lambda key: len(inside[key]))
    chosen = "" if "" in candidates else next((key for key in PREFERRED if key in candidates), largest)
    others = [key for key in candidates if key != chosen and _is_rival(torch, inside[chosen], inside[key])]
    doubtful = [key for key in others if chosen not in PREFERRED or key in PREFERRED]
    if doubtful:
        _end(error=f"holds two networks of the same names, under {chosen[:40]!r} and {doubtful[0][:40]!r}")
    left_out = [] if not chosen else sorted(str(key)[:40] for key in loaded if key != chosen)
    return chosen[:40], left_out, inside[chosen], sorted(key[:40] for key in others)


def _is_rival(torch: Any, chosen: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether another dict holds other values under the same names, wrapped or not."""
    first, second = ({key.removeprefix("module."): one for key, one in part.items()} for part in (chosen, other))
    is_same = first.keys() == second.keys()
    return is_same and not all(torch.equal(first[key], second[key]) for key in first)


def _is_state_dict(torch: Any, value: dict) -> bool:
    return bool(value) and all(
        isinstance(key, str)
        and isinstance(item, torch.Tensor)
        and item.layout is torch.strided
        and not item.is_quantized
        and not item.is_meta
        for key, item in value.items()
    )


def _require_held(tensors: dict[str, Any]) -> None:
    """Refuse a tensor that is larger than its values in the file: one value can stand for gigabytes (`expand`)."""
    for key, tensor in tensors.items():
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            _end(error=f"repeats the values of {key[:80]!r} without holding them all")


def _end(**result: Any) -> NoReturn:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
