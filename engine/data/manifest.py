"""Labelled images named by a CSV file, such as the development set of the NIPS 2017 competition on adversarial attacks."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.data import intake
from engine.data.intake import Images
from engine.errors import BadInput, UnknownName

IMAGE_COLUMNS: Final = ("file", "filename", "image", "path", "ImageId")
LABEL_COLUMNS: Final = ("class_index", "label", "TrueLabel", "class")
"""Looked for in this order where no column is named."""
HASH_COLUMN: Final = "sha256"
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".JPEG", ".webp", ".bmp")
"""Tried where a table names pictures without one."""
LARGEST_FILE: Final = 64 * 2**20
LONGEST_CELL: Final = 10_000


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the table hold what; None where the usual names are looked for."""

    image: str | None = None
    label: str | None = None
    first_label: int = 0
    """What the table calls the first class."""


def read(
    path: Path, folder: Path, columns: Columns, classes: Sequence[str] | None, *, size: tuple[int, int] | None = None
) -> Images:
    """Return the pictures of `folder` that a CSV file names, with its labels: whole numbers, or names of `classes`.

    Names may lack the suffix; a column `sha256` is checked. Every picture is fitted to `size` (height, width) if one is given.
    Raises BadInput naming the line that cannot be used, and UnknownName for a class that is not there.
    """
    rows = _rows(path)
    image = _column(path, rows, columns.image, IMAGE_COLUMNS)
    label = _column(path, rows, columns.label, LABEL_COLUMNS)
    labels, names = _labels(path, [row[label] for row in rows], columns.first_label, classes)
    files = [_file(path, folder, number, row[image]) for number, row in enumerate(rows, start=2)]
    for number, (row, file) in enumerate(zip(rows, files, strict=True), start=2):
        _check_hash(path, number, file, row.get(HASH_COLUMN))
    (often, count), *_ = Counter(files).most_common(1)
    if count > 1:
        raise BadInput(f"{path.name} names {often.name} {count} times.")
    return intake.labelled(path.name, intake.decoded(files, size), labels, names, intake.file_names(files))


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a table by column name, every one complete."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{path.name} has {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,} are read.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            rows = [row for _, row in zip(range(intake.MOST_IMAGES + 1), reader, strict=False)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path.name} cannot be read as a CSV table in UTF-8.") from error
    if not rows or len(rows) > intake.MOST_IMAGES:
        raise BadInput(f"{path.name} must have a line of column names and 1 to {intake.MOST_IMAGES:,} lines below it.")
    wrong = next((number for number, row in enumerate(rows, start=2) if None in row), None)
    if wrong is not None:
        raise BadInput(f"Line {wrong} of {path.name} has more cells than there are column names.")
    return rows


def _column(path: Path, rows: Sequence[Mapping[str, str]], named: str | None, usual: Sequence[str]) -> str:
    known = tuple(rows[0])
    if named is not None:
        if named not in known:
            raise UnknownName(f"column of {path.name}", named, known)
        return named
    found = next((column for column in usual if column in known), None)
    if found is None:
        raise BadInput(
            f"{path.name} has none of the columns {', '.join(usual)}; name one. It has: {', '.join(known)[:200]}."
        )
    return found


def _labels(
    path: Path, cells: Sequence[str], first: int, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (images,) int64 labels and the names of the classes."""
    if all(cell.strip().isdecimal() and len(cell) < 10 for cell in cells):
        numbers = np.asarray([int(cell) for cell in cells], dtype=np.int64) - first
        if int(numbers.min()) < 0:
            raise BadInput(f"{path.name} has the label {int(numbers.min()) + first}, but counts classes from {first}.")
        if int(numbers.max()) >= intake.MOST_CLASSES:
            raise BadInput(
                f"{path.name} has the label {int(numbers.max()) + first}; at most {intake.MOST_CLASSES} are read."
            )
        return numbers, tuple(classes or (str(index) for index in range(int(numbers.max()) + 1)))
    names = tuple(classes or sorted(set(cells)))
    places = {name: index for index, name in enumerate(names)}
    unknown = next((cell for cell in cells if cell not in places or names.count(cell) > 1), None)
    if unknown is not None:
        raise UnknownName("class", unknown, names)
    return np.asarray([places[cell] for cell in cells], dtype=np.int64), intake.checked_names(path.name, names)


def _file(path: Path, folder: Path, number: int, name: str) -> Path:
    """Return the picture that a line names; only what lies in the folder itself is ever opened."""
    root = folder.resolve()
    if not 1 <= len(name) <= LONGEST_CELL or not name.isprintable():
        raise BadInput(f"Line {number} of {path.name} names no picture.")
    try:
        tried = [(root / name).resolve(), *((root / f"{name}{suffix}").resolve() for suffix in SUFFIXES)]
        found = [one for one in tried if one.is_relative_to(root) and one.is_file()]
    except OSError:
        found = []
    if len(found) != 1:
        problem = "no picture" if not found else f"{len(found)} pictures"
        raise BadInput(
            f"Line {number} of {path.name} names '{name[:80]}', and {folder.name} holds {problem} of that name."
        )
    return found[0]


def _check_hash(path: Path, number: int, file: Path, wanted: str | None) -> None:
    if wanted and hashlib.sha256(file.read_bytes()).hexdigest() != wanted.strip().lower():
        raise BadInput(f"{file.name} is not the picture whose {HASH_COLUMN} stands in line {number} of {path.name}.")
