"""The version, the names under which values are stored, and keys of content that are the same everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass
from fractions import Fraction

import numpy as np

from engine.errors import BadInput
from engine.parameters import TextValue

VERSION = "0.2.0"


@dataclass(frozen=True, slots=True)
class Schema:
    """The name of what a class stores, held by the class as `SCHEMA`. Once data lies on a disk it never changes."""

    name: str
    """What is stored, and the version of its form, for example `explanation/1`."""
    noun: str = ""
    """What stores of version 0.1 call it, and what keys of content call it for ever; empty for what came later."""

    @property
    def key_name(self) -> str:
        """What stands for the class in keys of content."""
        return self.noun or self.name

    def fits(self, stored: str) -> bool:
        """Tell whether a stored name, of this version or an older one, is this schema's."""
        return stored in (self.name, self.noun)


def schema(kind: type) -> Schema:
    """Return the schema of a class that is stored or hashed; raises TypeError for a class without one."""
    result = getattr(kind, "SCHEMA", None)
    if not isinstance(result, Schema):
        raise TypeError(f"{kind.__name__} has no SCHEMA, so it can neither be stored nor be part of a key.")
    return result


def stored_as(name: str) -> Mapping[str, str]:
    """Return the metadata of a dataclass field that was renamed: the name under which it is stored and hashed for ever."""
    return {"stored": name}


def stored_name(field: Field) -> str:
    """Return the name under which a field is stored and hashed."""
    return field.metadata.get("stored", field.name)


FORMAT = 3
"""Version of what a stored result means; it is part of every key, so results of another version are never mixed in."""
DIGEST_BYTES = 16
GROWN = {"grown": True}
"""Metadata of a dataclass field that came later: at its default it is left out of keys, so that older ones still hold."""


def content_key(record: object, *extra: object) -> str:
    """Return 32 hex digits that stand for these values: dataclasses, tuples, texts, numbers, fractions.

    Raises BadInput for a number that is not finite and for a value without a canonical form.
    """
    plain = [_canonical(value) for value in (record, *extra)]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes_hash(text.encode())


def array_hash(array: np.ndarray) -> str:
    """Return 32 hex digits of an array's element type, shape and values; byte order and memory layout do not count."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.blake2b(f"{little.dtype.str}{little.shape}".encode(), digest_size=DIGEST_BYTES)
    digest.update(little.tobytes())
    return digest.hexdigest()


def bytes_hash(content: bytes) -> str:
    """Return 32 hex digits of some bytes."""
    digest = running_hash()
    digest.update(content)
    return digest.hexdigest()


def running_hash() -> hashlib.blake2b:
    """Return the hash object behind `bytes_hash`, for content that arrives in blocks."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _canonical(value: object) -> object:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"A key cannot be made of a number that is not finite, got {value}.")
        return value
    if isinstance(value, Fraction):
        return {"fraction": f"{value.numerator}/{value.denominator}"}
    if isinstance(value, tuple | list):
        return [_canonical(item) for item in value]
    if isinstance(value, TextValue):
        return value.text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        fields = {
            stored_name(field): _canonical(one)
            for field, one in held
            if not (field.metadata.get("grown") and one == field.default)
        }
        return {"noun": schema(type(value)).key_name, "fields": fields}
    raise BadInput(f"A key cannot be made of a {type(value).__name__}.")
