"""Records as plain JSON values and named arrays, and back, read off the fields of the dataclasses. No pickle.

Every array becomes a member named by its field path, for example `clean/scores/003`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from engine import hashing
from engine.errors import EngineError, StoreError
from engine.parameters import ReadBy, TextValue

Record = TypeVar("Record")
ARRAY = "array"
"""The one key of the JSON object that stands in an array's place."""


@dataclass(frozen=True, eq=False, slots=True)
class Flat:
    """A record taken apart."""

    value: Any
    """Only dicts, lists, texts, numbers, booleans and None."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def flatten(record: object) -> Flat:
    """Return a record as a plain value and its arrays.

    Raises StoreError for a number that is not finite and for a field that has no plain form.
    """
    arrays: dict[str, np.ndarray] = {}
    return Flat(_plain(record, "", arrays), arrays)


def rebuild(kind: type[Record], value: Any, arrays: Mapping[str, np.ndarray] | None = None) -> Record:
    """Return the record of dataclass `kind` that `flatten` took apart, its arrays read-only.

    A field that is absent takes its default. Raises StoreError where the value does not fit the dataclass.
    """
    return _restored(kind, value, arrays or {}, kind.__name__)


def size(record: object) -> int:
    """Return the bytes held by a record's arrays."""
    return sum(array.nbytes for array in flatten(record).arrays.values())


def _plain(value: object, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreError(f"{path} is {value}; only finite numbers are stored.")
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise StoreError(f"{path} is an array of objects; only numbers and texts are stored.")
        arrays[path] = value
        return {ARRAY: path}
    if isinstance(value, tuple):
        return [_plain(item, _below(path, f"{index:03d}"), arrays) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _plain(item, _below(path, key), arrays) for key, item in value.items()}
    if isinstance(value, TextValue):
        return value.text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [(hashing.stored_name(field), field.name) for field in dataclasses.fields(value)]
        return {stored: _plain(getattr(value, name), _below(path, stored), arrays) for stored, name in names}
    raise StoreError(f"{path} is a {type(value).__name__}, which has no plain form.")


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


@functools.cache
def _fields(kind: type) -> dict[str, tuple[str, Any]]:
    """Name and type of each field by the name under which it is stored."""
    hints = get_type_hints(kind, include_extras=True)
    return {hashing.stored_name(field): (field.name, hints[field.name]) for field in dataclasses.fields(kind)}


def _restored(kind: Any, value: Any, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _restored_record(kind, value, arrays, path)
    if kind is np.ndarray:
        return _restored_array(value, arrays, path)
    origin = get_origin(kind)
    if origin is Annotated:
        return _restored_text(kind, value, path)
    if origin is tuple:
        return _restored_tuple(get_args(kind), value, arrays, path)
    if origin is dict:
        _require(isinstance(value, dict), path, "an object", value)
        return {key: _restored(get_args(kind)[1], item, arrays, f"{path}/{key}") for key, item in value.items()}
    if origin is Union or origin is types.UnionType:
        return _restored_optional(get_args(kind), value, arrays, path)
    if origin is Literal:
        _require(value in get_args(kind), path, f"one of {', '.join(map(str, get_args(kind)))}", value)
        return value
    return _restored_scalar(kind, value, path)


def _restored_record(kind: Any, value: Any, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    _require(isinstance(value, dict), path, "an object", value)
    known = _fields(kind)
    foreign = sorted(set(value) - set(known))
    if foreign:
        raise StoreError(f"{path} has no field called '{foreign[0][:80]}'.")
    fields = {
        known[stored][0]: _restored(known[stored][1], item, arrays, f"{path}/{stored}")
        for stored, item in value.items()
    }
    missing = [field.name for field in dataclasses.fields(kind) if field.name not in fields and not _has_default(field)]
    if missing:
        raise StoreError(f"{path} lacks the field '{missing[0]}'.")
    return kind(**fields)


def _has_default(one: dataclasses.Field) -> bool:
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


def _restored_array(value: Any, arrays: Mapping[str, np.ndarray], path: str) -> np.ndarray:
    _require(isinstance(value, dict) and set(value) == {ARRAY}, path, "an array", value)
    if value[ARRAY] not in arrays:
        raise StoreError(f"{path} points to an array that is not there.")
    array = arrays[value[ARRAY]]
    array.setflags(write=False)
    return array


def _restored_tuple(parts: tuple[Any, ...], value: Any, arrays: Mapping[str, np.ndarray], path: str) -> tuple:
    _require(isinstance(value, list), path, "a list", value)
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    _require(len(parts) == len(value), path, f"a list of {len(parts)}", value)
    pairs = enumerate(zip(parts, value, strict=True))
    return tuple(_restored(part, item, arrays, f"{path}/{index:03d}") for index, (part, item) in pairs)


def _restored_optional(choices: tuple[Any, ...], value: Any, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    if value is None and type(None) in choices:
        return None
    (choice,) = [item for item in choices if item is not type(None)]
    return _restored(choice, value, arrays, path)


def _restored_text(kind: Any, value: Any, path: str) -> TextValue:
    _require(isinstance(value, str), path, "a text", value)
    (reader,) = [item for item in kind.__metadata__ if isinstance(item, ReadBy)]
    try:
        return reader.read(value)
    except EngineError as error:
        raise StoreError(f"{path}: {error}") from error


def _restored_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and type(value) is int:
        return value
    _require(type(value) is kind, path, kind.__name__, value)
    return value


def _require(is_right: bool, path: str, expected: str, value: object) -> None:
    if not is_right:
        raise StoreError(f"{path} must be {expected}, got {str(value)[:80]!r}.")
