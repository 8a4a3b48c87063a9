"""What stands in every JSON file of the store: a format number, the value, the hashes of the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import keys
from engine.errors import StoreError
from engine.schemas import Schema
from engine.store.archive import Corrupt

FORMAT = 2
"""Stores of format 1, of version 0.1, name the class of a record where format 2 names its schema."""


@dataclass(frozen=True, eq=False, slots=True)
class Envelope:
    """A record's plain value and what its neighbours must hash to."""

    schema: Schema
    value: Any
    files: dict[str, str] = field(default_factory=dict)
    """Hash of each plain file in the folder."""
    archives: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per npz file the hash of each member."""


def pack(envelope: Envelope) -> bytes:
    """Return an envelope as JSON text that carries its own hash."""
    content = {
        "format": FORMAT,
        "schema": envelope.schema.name,
        "value": envelope.value,
        "files": envelope.files,
        "archives": envelope.archives,
    }
    return json.dumps({"hash": _hash(content), "content": content}, indent=1).encode()


def unpack(text: bytes, schema: Schema) -> Envelope:
    """Return the envelope of a schema.

    Raises Corrupt when the text is not what was written, and StoreError when it is whole and holds something else, such as
    what a newer version wrote: that is no damage, and nobody may take it away.
    """
    content = _checked(text)
    if content.get("format") not in (1, FORMAT):
        raise StoreError(
            f"This was stored in format {str(content.get('format'))[:20]}, and this Faultline reads formats 1 and {FORMAT}; "
            "open the store with the version that wrote it, or start a new store. Nothing was changed."
        )
    stored = str(content.get("noun" if content["format"] == 1 else "schema", "nothing"))
    if not schema.fits(stored):
        raise StoreError(
            f"This holds '{stored[:80]}', and this Faultline looks for '{schema.name}' here; open the store with the version "
            "that wrote it. Nothing was changed."
        )
    return Envelope(schema, content["value"], content["files"], content["archives"])


def file_hash(path: Path) -> str:
    """Return the hash of a file's bytes without holding them all."""
    digest = keys.running_hash()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checked(text: bytes) -> dict[str, Any]:
    try:
        outer = json.loads(text)
    except ValueError as error:
        raise Corrupt(f"not JSON: {error}") from error
    if not isinstance(outer, dict) or not isinstance(outer.get("content"), dict):
        raise Corrupt("not an envelope")
    if outer.get("hash") != _hash(outer["content"]):
        raise Corrupt("differs from what was written")
    return outer["content"]


def _hash(content: Mapping[str, Any]) -> str:
    return keys.bytes_hash(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
