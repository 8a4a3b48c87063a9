"""Architectures of the administrator's own: Python modules in one read-only folder, known by the hash of their source.

This is the one way in which code that is not part of Faultline is run, so it takes three things: the variable
`FAULTLINE_PLUGINS` in the server's environment, a folder and file that only this user or root may write, and a model that names
it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, final

from torch import Tensor, nn

from engine import keys
from engine.errors import BadInput, EngineError, UnknownName
from engine.store import names as plain

VARIABLE: Final = "FAULTLINE_PLUGINS"
PREFIX: Final = "plugin/"
LARGEST: Final = 1_000_000
"""Bytes of source."""


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
    return keys.bytes_hash(_source(name))


def plugin(name: str) -> Plugin:
    """Run a plug-in's module and return what it declares: `build(weights, classes)`, `SIZE`, `MEAN`, `STD`, `RESIZE`.

    Only `build` must be there; SIZE is (height, width). Raises UnknownName, and BadInput for a module that others may write,
    that fails, or that declares no factory.
    """
    source = _source(name)
    with guarded(name):
        module = _executed(name, source)
    build = getattr(module, "build", None)
    if not callable(build):
        raise BadInput(f"The plug-in '{name}' declares no function build(weights, classes) that returns a network.")
    mean, std = getattr(module, "MEAN", (0.0,) * 3), getattr(module, "STD", (1.0,) * 3)
    size, resize = getattr(module, "SIZE", (224, 224)), getattr(module, "RESIZE", None)
    if not (_are_numbers(mean) and _are_numbers(std) and len(mean) == len(std)):
        raise BadInput(f"The plug-in '{name}' must declare MEAN and STD as tuples of numbers, both of one length.")
    if not (_are_whole(size) and len(size) == 2 and (resize is None or _are_whole((resize,)))):
        raise BadInput(f"The plug-in '{name}' must declare SIZE as (height, width) and RESIZE as a number, in pixels.")
    return Plugin(name, keys.bytes_hash(source), build, (size[0], size[1]), tuple(mean), tuple(std), resize)


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn whatever the code of a plug-in called `name` raises into BadInput; of other architectures nothing is caught."""
    try:
        yield
    except EngineError:
        raise
    except (Exception, SystemExit) as error:
        if not name.startswith(PREFIX):
            raise
        raise BadInput(f"The plug-in '{name}' fails: {type(error).__name__}: {str(error)[:120]}.") from error


def _are_numbers(found: Any) -> bool:
    are_all = isinstance(found, tuple | list) and all(type(one) in (int, float) for one in found)
    return are_all and len(found) > 0 and all(map(math.isfinite, found))


def _are_whole(found: Any) -> bool:
    return isinstance(found, tuple | list) and all(type(one) is int for one in found)


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
    file = Path(os.environ[VARIABLE]) / f"{name.removeprefix(PREFIX)}.py"
    _require_read_only(file)
    if file.is_symlink() or file.stat().st_size > LARGEST:
        raise BadInput(f"The plug-in '{name}' must be a plain file of at most {LARGEST:,} bytes.")
    return file.read_bytes()


def _require_read_only(path: Path) -> None:
    status = path.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadInput(f"{path.name} may be written by others than its owner; plug-ins need `chmod go-w`.")
    if status.st_uid not in (0, os.geteuid()):
        raise BadInput(
            f"{path.name} belongs to another user; plug-ins must belong to root or to the user who runs them."
        )


@final
class _Loader(importlib.abc.InspectLoader):
    """Runs just the source that was hashed, never a compiled copy that lies beside it."""

    def __init__(self, source: bytes, file: str) -> None:
        self._source, self._file = source, file

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 (as Python asks for it)
        return self._source.decode()

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        # By the name of its file an error, and an operation that cannot be read, tell where they stand.
        return self.source_to_code(self._source, self._file)


def _executed(name: str, source: bytes) -> ModuleType:
    file = f"{name.removeprefix(PREFIX)}.py"
    spec = importlib.util.spec_from_loader(f"faultline_plugin_{keys.bytes_hash(source)}", _Loader(source, file))
    if spec is None or spec.loader is None:
        raise BadInput(f"The plug-in '{name}' cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
