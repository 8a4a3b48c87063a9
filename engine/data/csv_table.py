"""Labelled images named by a CSV file, such as the development set of the NIPS 2017 competition on adversarial attacks."""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from engine import class_names, images
from engine.data import sources
from engine.data.sources import Images
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


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table below its column names."""

    number: int
    """As an editor counts, blank lines and all; of the last line where a cell holds several."""
    cells: dict[str, str]


def read(
    path: Path, folder: Path, columns: Columns, classes: Sequence[str] | None, *, size: tuple[int, int] | None = None
) -> Images:
    """Return the pictures of `folder` that a CSV file names, with its labels: whole numbers, or names of `classes`.

    Names may lack the suffix; a column `sha256` is checked. Every picture is fitted to `size` (height, width) if one is given.
    Raises BadInput naming the line that cannot be used, and UnknownName for a class that is not there.
    """
    lines = _lines(path)
    image = _column(path, lines, columns.image, IMAGE_COLUMNS)
    label = _column(path, lines, columns.label, LABEL_COLUMNS)
    labels, names = _labels(path.name, lines, label, columns.first_label, classes)
    pictures = [_file(path, folder, line.number, line.cells[image]) for line in lines]
    for line, file in zip(lines, pictures, strict=True):
        _check_hash(path, line.number, file, line.cells.get(HASH_COLUMN))
    (often, count), *_ = Counter(pictures).most_common(1)
    if count > 1:
        raise BadInput(f"{path.name} names {often.name} {count} times.")
    samples = sources.file_names(pictures)
    opened = sources.decoded(pictures, size)
    return replace(sources.labelled(path.name, opened.pixels, labels, names, samples), remarks=opened.remarks)


def _lines(path: Path) -> list[Line]:
    """Return the lines of a table by column name, every one complete."""
    with images.opened(path, "a CSV table in UTF-8", LARGEST_FILE) as file:
        reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        rows = list(islice(((reader.line_num, cells) for cells in reader if cells), sources.MOST_IMAGES + 2))
    if not 2 <= len(rows) <= sources.MOST_IMAGES + 1:
        raise BadInput(f"{path.name} must have a line of column names and 1 to {sources.MOST_IMAGES:,} lines below it.")
    (_, columns), *below = rows
    (often, count), *_ = Counter(columns).most_common(1)
    if count > 1:
        raise BadInput(f"{path.name} has {count} columns called '{often[:80]}'; every column needs a name of its own.")
    wrong = next((number for number, cells in below if len(cells) > len(columns)), None)
    if wrong is not None:
        raise BadInput(f"Line {wrong} of {path.name} has more cells than there are column names.")
    empty = dict.fromkeys(columns, "")
    return [Line(number, empty | dict(zip(columns, cells, strict=False))) for number, cells in below]


def _column(path: Path, lines: Sequence[Line], named: str | None, usual: Sequence[str]) -> str:
    known = tuple(lines[0].cells)
    if named is not None:
        if named not in known:
            raise UnknownName(f"column of {path.name}", named, known)
        return named
    result = next((column for column in usual if column in known), None)
    if result is None:
        raise BadInput(
            f"{path.name} has none of the columns {', '.join(usual)}; name one. It has: {', '.join(known)[:200]}."
        )
    return result


def _labels(
    name: str, lines: Sequence[Line], column: str, first: int, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (images,) int64 labels and the names of the classes."""
    cells = [line.cells[column] for line in lines]
    if all(_is_whole(cell) for cell in cells):
        numbers = _indices(name, cells, first)
        if not first:
            _check_numbers(name, lines, column, classes or ())
        return numbers, tuple(classes or (str(index) for index in range(int(numbers.max()) + 1)))
    _check_texts(name, [(line.number, line.cells[column]) for line in lines], first, classes or ())
    names = sources.checked_names(name, tuple(classes or sorted(set(map(class_names.plain, cells)))))
    places = sources.indices(dict.fromkeys(cells), names)
    return np.asarray([places[cell] for cell in cells], dtype=np.int64), names


def _check_texts(name: str, cells: Sequence[tuple[int, str]], first: int, classes: Sequence[str]) -> None:
    """Refuse labels of which some are numbers, unless the list of classes has those; raises BadInput."""
    named = frozenset(map(class_names.plain, classes))
    numbers = [(number, cell) for number, cell in cells if _is_number(cell) and class_names.plain(cell) not in named]
    if numbers:
        number, cell = next((item for item in numbers if not _is_whole(item[1])), numbers[0])
        raise BadInput(
            f"Line {number} of {name} has the label '{cell[:80]}'; labels must all be whole numbers from {first}, or all "
            "be names of classes."
        )


def _check_numbers(name: str, lines: Sequence[Line], column: str, classes: Sequence[str]) -> None:
    """Refuse a label that is the number of one class and the name of another; raises BadInput.

    A first label that is said makes numbers of all of them.
    """
    places = {class_names.plain(one): place for place, one in enumerate(classes)}
    for line in lines:
        cell = line.cells[column].strip()
        if places.get(cell, int(cell)) != int(cell):
            raise BadInput(
                f"Line {line.number} of {name} has the label '{cell}', which is the number of one class and the name of "
                "another; use labels or a list of classes that can be told apart."
            )


def _indices(name: str, cells: Sequence[str], first: int) -> np.ndarray:
    numbers = np.asarray([int(cell) for cell in cells], dtype=np.int64) - first
    if int(numbers.min()) < 0:
        raise BadInput(f"{name} has the label {int(numbers.min()) + first}, but counts classes from {first}.")
    if int(numbers.max()) >= sources.MOST_CLASSES:
        raise BadInput(f"{name} has the label {int(numbers.max()) + first}; at most {sources.MOST_CLASSES} are read.")
    return numbers


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.strip().isdecimal() and len(cell) < 10


def _is_number(cell: str) -> bool:
    """Whether a cell can be read as a number at all, also as a fraction, a negative one, or none (`nan`)."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _file(path: Path, folder: Path, number: int, name: str) -> Path:
    """Return the picture that a line names; only what lies in the folder itself is ever opened."""
    root = folder.resolve()
    if not 1 <= len(name) <= LONGEST_CELL or not name.isprintable():
        raise BadInput(f"Line {number} of {path.name} names no picture.")
    try:
        # As it is written first: two files may differ in nothing but how their letters are composed.
        results = next(filter(None, (_with_suffix(root, written) for written in _forms(name))), [])
    except (OSError, RuntimeError):
        # A name that is too long, or links that lead round in a circle.
        results = []
    if len(results) != 1:
        problem = "no picture" if not results else f"{len(results)} pictures"
        raise BadInput(
            f"Line {number} of {path.name} names '{name[:80]}', and {folder.name} holds {problem} of that name."
        )
    return results[0]


def _forms(name: str) -> Iterator[str]:
    """Yield a file's name as it is written, composed, and decomposed, as Macs write it."""
    yield from dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))


def _with_suffix(root: Path, name: str) -> list[Path]:
    """Return the files of that name, as it stands or with a suffix, that lie in the folder itself."""
    tried = [(root / name).resolve(), *((root / f"{name}{suffix}").resolve() for suffix in SUFFIXES)]
    return [item for item in tried if item.is_relative_to(root) and item.is_file()]


def _check_hash(path: Path, number: int, file: Path, wanted: str | None) -> None:
    if not wanted:
        return
    with images.opened(file, "a picture", images.LIMITS.file_bytes) as content:
        hexdigest = hashlib.file_digest(content, HASH_COLUMN).hexdigest()
    if hexdigest != wanted.strip().lower():
        raise BadInput(f"{file.name} is not the picture whose {HASH_COLUMN} stands in line {number} of {path.name}.")
