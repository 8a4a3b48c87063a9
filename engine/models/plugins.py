"""Architectures of the administrator's own: Python modules in one read-only folder, known by the hash of their source.

This is the one way in which code that is not part of Faultline is run, so it takes three things: the variable
`FAULTLINE_PLUGINS` in the server's environment, a folder and file that only this user or root may write, and a model that names
it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
import math
import os
import re
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, final

from torch import Tensor, nn

from engine import hashing, streams
from engine.errors import BadInput, EngineError, UnknownName
from engine.store import files as plain

VARIABLE: Final = "FAULTLINE_PLUGINS"
PREFIX: Final = "plugin/"
LARGEST: Final = 1_000_000
"""Bytes of source."""
IMPORTING: Final = threading.RLock()
"""Held while a plug-in is run: no other thread may see half a module."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One module: its factory, and the preprocessing that it declares."""

    name: str
    source_hash: str
    build: Callable[[Mapping[str, Tensor], int], nn.Module]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None


def names() -> tuple[str, ...]:
    """Return the names of all plug-ins of the configured folder, such as `plugin/own`; none without a folder."""
    folder = _folder()
    files = () if folder is None else sorted(folder.glob("*.py"))
    return tuple(f"{PREFIX}{file.stem}" for file in files if plain.is_name(file.stem))


def source_hash(name: str) -> str:
    """Return the hash of a plug-in's source, without running it. Raises UnknownName, BadInput."""
    return hashing.bytes_hash(_source(name))


def plugin(name: str) -> Plugin:
    """Run a plug-in's module and return what it declares: `build(weights, classes)`, `SIZE`, `MEAN`, `STD`, `RESIZE`.

    Only `build` must be there; SIZE is (height, width). Raises UnknownName, and BadInput for a module that others may write,
    that fails, or that declares no factory.
    """
    source = _source(name)
    with guarded(name):
        return _declared(name, source, _imported(_file(name), source))


def _declared(name: str, source: bytes, module: ModuleType) -> Plugin:
    build = getattr(module, "build", None)
    if not callable(build):
        raise BadInput(f"The plug-in '{name}' declares no function build(weights, classes) that returns a network.")
    mean, std = getattr(module, "MEAN", (0.0,) * 3), getattr(module, "STD", (1.0,) * 3)
    size, resize = getattr(module, "SIZE", (224, 224)), getattr(module, "RESIZE", None)
    if not (_are_numbers(mean) and _are_numbers(std) and len(mean) == len(std)):
        raise BadInput(f"The plug-in '{name}' must declare MEAN and STD as tuples of numbers, both of one length.")
    if not (_are_whole(size) and len(size) == 2 and (resize is None or _are_whole((resize,)))):
        raise BadInput(f"The plug-in '{name}' must declare SIZE as (height, width) and RESIZE as a number, in pixels.")
    return Plugin(name, hashing.bytes_hash(source), build, (size[0], size[1]), tuple(mean), tuple(std), resize)


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn whatever the code of a plug-in called `name` raises into BadInput that names the line of its source.

    Of other architectures nothing is caught. What it prints goes to stderr, and it reads nothing from the terminal.
    """
    if not name.startswith(PREFIX):
        yield
        return
    try:
        with streams.kept_apart():
            yield
    except (EngineError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise BadInput(
            f"The plug-in '{name}' fails: {_reason(error)}{_place(name, error)}.{_way_out(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # Whatever the plug-in's own error does when it is asked for its text.
        return kind
    return f"{kind}: {text[:120].rstrip('.')}"


def _place(name: str, error: BaseException) -> str:
    """Where in the plug-in's source an error was raised, such as ` (own.py, line 12)`; empty where it was elsewhere."""
    file = _file(name)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno or 1)
    return f" ({file.name}, line {lines[-1]})" if lines else ""


def _way_out(error: BaseException) -> str:
    """What to do where a plug-in wants to import the one beside it: only its own source is part of what a model is."""
    if not isinstance(error, ImportError):
        return ""
    beside = Path(os.environ.get(VARIABLE, "")) / f"{str(error.name).partition('.')[0]}.py"
    is_neighbour = isinstance(error, ModuleNotFoundError) and beside.is_file()
    is_relative = "relative import" in str(error)
    return " A plug-in is one file: put what it needs into it, or install it." if is_neighbour or is_relative else ""


def _are_numbers(result: Any) -> bool:
    are_all = isinstance(result, tuple | list) and all(type(item) in (int, float) for item in result)
    return are_all and len(result) > 0 and all(map(math.isfinite, result))


def _are_whole(result: Any) -> bool:
    return isinstance(result, tuple | list) and all(type(item) is int for item in result)


def _folder() -> Path | None:
    configured = os.environ.get(VARIABLE)
    if not configured:
        return None
    folder = Path(configured)
    if not folder.is_dir():
        raise BadInput(f"{VARIABLE} names no folder.")
    _require_read_only(folder)
    return folder


def _source(name: str) -> bytes:
    if name not in names():
        raise UnknownName("plug-in", name, names() or [f"none; the administrator sets {VARIABLE}"])
    file = _file(name)
    _require_read_only(file)
    if file.is_symlink() or file.stat().st_size > LARGEST:
        raise BadInput(f"The plug-in '{name}' must be a plain file of at most {LARGEST:,} bytes.")
    return file.read_bytes()


def _file(name: str) -> Path:
    return Path(os.environ[VARIABLE]).absolute() / f"{name.removeprefix(PREFIX)}.py"


def _require_read_only(path: Path) -> None:
    status = path.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadInput(f"{path.name} may be written by others than its owner; plug-ins need `chmod go-w`.")
    if status.st_uid not in (0, os.geteuid()):
        raise BadInput(
            f"{path.name} belongs to another user; plug-ins must belong to root or to the user who runs them."
        )


@final
class _Loader(importlib.abc.ExecutionLoader):
    """Runs just the source that was hashed, never a compiled copy that lies beside it, and writes none."""

    def __init__(self, file: Path, source: bytes) -> None:
        self._file = file
        self._source = source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 (as Python asks for it)
        return str(self._file)

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 (as Python asks for it)
        return importlib.util.decode_source(self._source)


def _imported(file: Path, source: bytes) -> ModuleType:
    """Return the module of a source as an import would: run once, and found under its name as long as the process lasts."""
    name = (
        f"faultline_plugin_{re.sub(r'[^A-Za-z0-9]', '_', file.stem)}_{hashing.bytes_hash(str(file).encode() + source)}"
    )
    with IMPORTING:
        _remember(file, source)
        if name not in sys.modules:
            _run(name, _Loader(file, source))
        return sys.modules[name]


def _run(name: str, loader: _Loader) -> None:
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise BadInput(f"{loader.get_filename(name)} cannot be loaded.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _remember(file: Path, source: bytes) -> None:
    """Let whoever asks for the lines of a plug-in (inspect, torch.jit.script) have those that run, not what lies there since."""
    lines = importlib.util.decode_source(source).splitlines(keepends=True)
    linecache.cache[str(file)] = (len(source), None, lines, str(file))
