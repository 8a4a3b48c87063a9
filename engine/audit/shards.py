"""A shard: one block of images under one condition, written whole or not at all and checked by its receipt."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from engine import serial
from engine.audit import cube, rows
from engine.audit.cube import Part
from engine.audit.manifest import Condition, Manifest
from engine.audit.places import Place
from engine.audit.rows import Rows
from engine.schemas import Schema
from engine.store import archive, durable, envelope
from engine.store.archive import Corrupt
from engine.store.envelope import Envelope

ROWS: Final = "rows.parquet"
PART: Final = "_cube.npz"
IMAGES: Final = "_images.npy"
RECEIPT: Final = "_receipt.json"
"""Names with an underscore are skipped by readers of whole Parquet folders."""
log = logging.getLogger(__name__)


class NoShard(Exception):
    """The shard is not there, or is damaged."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was written; the hashes of the files stand beside it."""

    SCHEMA: ClassVar[Schema] = Schema("shard-receipt/1", "Receipt")

    run: str
    condition: str
    block: int
    images: int
    seconds: float
    """What the worker took; the only thing here that another worker would write differently."""
    device: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A receipt with the hash of the shard's rows."""

    receipt: Receipt
    rows_hash: str


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What a worker computed for a shard."""

    rows: Rows
    images: np.ndarray | None
    """(images, height, width, channels) uint8, or None where images are not kept."""


def write(place: Place, manifest: Manifest, condition: Condition, receipt: Receipt, found: Found) -> None:
    """Store a shard; one that is there already stays. Raises StoreError when the disk refuses."""
    sites = [name for name, _ in manifest.model(condition.role).sites] if manifest.scores(condition) else []
    about = {"run": place.run, "condition": condition.name, "role": condition.role, "block": str(receipt.block)}
    with (
        durable.disk_errors("writing a shard"),
        durable.new_folder(place.shard(condition.folder, receipt.block)) as new,
    ):
        rows.write(new / ROWS, found.rows, sites, about)
        if manifest.scores(condition):
            archive.write(new / PART, _arrays(cube.part(found.rows)))
        if found.images is not None:
            np.save(new / IMAGES, found.images, allow_pickle=False)
        hashes = {file.name: envelope.file_hash(file) for file in sorted(new.iterdir())}
        sealed = Envelope(Receipt.SCHEMA, serial.flatten(receipt).value, files=hashes)
        (new / RECEIPT).write_bytes(envelope.pack(sealed))


def require_whole(place: Place, condition: str, block: int) -> Checked:
    """Return the receipt of a shard whose every file is as it was written; raises NoShard, saying what is not."""
    folder = place.shard(condition, block)
    try:
        sealed = _sealed(folder)
        for file, expected in sealed.files.items():
            if envelope.file_hash(folder / file) != expected:
                raise NoShard(f"{file} differs from what was written")
        return _checked(sealed, (place.run, condition, block))
    except FileNotFoundError as error:
        raise NoShard(f"{Path(str(error.filename)).name} is missing") from error
    except Corrupt as error:
        raise NoShard(f"{RECEIPT} {error}") from error


def check(place: Place, condition: str, block: int) -> Checked:
    """Return the same, and take a damaged shard away, so that it is made again instead of trusted. Raises NoShard."""
    try:
        return require_whole(place, condition, block)
    except NoShard as error:
        if place.shard(condition, block).exists():
            log.warning("Discarding shard %s, block %d: %s.", condition, block, error)
            with durable.disk_errors("discarding a damaged shard"):
                durable.discard(place.shard(condition, block))
        raise


def glance(place: Place, condition: str, block: int) -> Checked:
    """Return the receipt of a shard without reading its other files; raises NoShard."""
    try:
        return _checked(_sealed(place.shard(condition, block)), (place.run, condition, block))
    except (FileNotFoundError, NotADirectoryError, Corrupt) as error:
        raise NoShard from error


def part(place: Place, condition: str, block: int) -> Part:
    """Return what a shard adds to the cube, checked against its hash; raises StoreError."""
    with durable.disk_errors("reading a shard"):
        content = (place.shard(condition, block) / PART).read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Part(arrays["cells"], arrays["n"], arrays["sums"], arrays["squares"])


def statuses(place: Place, condition: str, block: int) -> dict[str, str]:
    """Return how each sample of a shard fared, from rows that are as they were written; raises NoShard."""
    file = place.shard(condition, block) / ROWS
    if not file.is_file() or envelope.file_hash(file) != glance(place, condition, block).rows_hash:
        raise NoShard
    table = rows.read_plain(file)
    return dict(zip(table["sample"].to_pylist(), table["status"].to_pylist(), strict=True))


def images(place: Place, condition: str, block: int) -> np.ndarray:
    """Return the kept images of a shard, (images, height, width, channels) uint8, memory-mapped; raises StoreError."""
    with durable.disk_errors("reading the images of a shard"):
        return np.load(place.shard(condition, block) / IMAGES, mmap_mode="r", allow_pickle=False)


def _arrays(one: Part) -> dict[str, np.ndarray]:
    return {"cells": one.cells, "n": one.n, "sums": one.sums, "squares": one.squares}


def _sealed(folder: Path) -> Envelope:
    return envelope.unpack((folder / RECEIPT).read_bytes(), Receipt.SCHEMA)


def _checked(sealed: Envelope, expected: tuple[str, str, int]) -> Checked:
    receipt = serial.rebuild(Receipt, sealed.value)
    if (receipt.run, receipt.condition, receipt.block) != expected:
        raise Corrupt("belongs to another block or run")
    return Checked(receipt, sealed.files[ROWS])
