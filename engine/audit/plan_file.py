"""Reading a TOML file so that everything that is wrong with it is told with its line."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import tree_sitter
import tree_sitter_toml

from engine.errors import BadInput, EngineError, UnknownName

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value, for example ("thresholds", 1, "at_least")."""
T = TypeVar("T")
MOST_BYTES = 1_000_000
AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


class WrongPlan(BadInput):
    """A value of a plan cannot be used; the text names file, line and key."""

    def __init__(self, text: str, place: Place, problem: str) -> None:
        super().__init__(text)
        self.place = place
        """Where the value stands or should, for example ("thresholds", 1, "at_least")."""
        self.problem = problem
        """The same without file, line and key."""


@final
@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file. Every getter raises WrongPlan, which names file, line and key."""

    file: str
    lines: Mapping[Place, int]
    place: Place
    values: Mapping[str, Any]

    def only(self, *known: str) -> None:
        """Refuse keys that are not among `known`: a misspelt key would otherwise be ignored."""
        for key in self.values:
            if key not in known:
                raise self.wrong(str(UnknownName("key", key, known)), key)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of 1 to 200 printable characters."""
        if default is not None and key not in self.values:
            return default
        found = self._found(key, default)
        if not isinstance(found, str) or not 1 <= len(found) <= 200 or not found.isprintable():
            raise self.wrong(f"must be a text of 1 to 200 printable characters, got {_shown(found)}", key)
        return found

    def texts(self, key: str) -> list[str]:
        """Return a list of texts, empty where the key is absent."""
        found = self.values.get(key, [])
        if not isinstance(found, list):
            raise self.wrong(f"must be a list of texts, got {_shown(found)}", key)
        for index, item in enumerate(found):
            if not isinstance(item, str):
                raise self.wrong(f"must be a text, got {_shown(item)}", key, index)
        return found

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number in [low, high]."""
        found = self._found(key, default)
        if type(found) is not int or not low <= found <= high:
            raise self.wrong(f"must be a whole number from {low} to {high}, got {_shown(found)}", key)
        return found

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number in [low, high]."""
        found = self._found(key, default)
        if type(found) not in (int, float) or not math.isfinite(found) or not low <= found <= high:
            raise self.wrong(f"must be a number from {low:g} to {high:g}, got {_shown(found)}", key)
        return float(found)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        found = self._found(key, default)
        if type(found) is not bool:
            raise self.wrong(f"must be true or false, got {_shown(found)}", key)
        return found

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        """Return one of some texts."""
        found = self.text(key, default)
        if found not in known:
            raise self.wrong(str(UnknownName("choice", found, known)), key)
        return found

    def table(self, key: str) -> Table:
        """Return the table under a key, an empty one where it is absent."""
        found = self.values.get(key, {})
        if not isinstance(found, dict):
            raise self.wrong(f"must be a table [{key}], got {_shown(found)}", key)
        return Table(self.file, self.lines, (*self.place, key), found)

    def tables(self, key: str) -> list[Table]:
        """Return the tables of a [[list]], none where it is absent."""
        found = self.values.get(key, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.wrong(f"must be tables, each headed [[{key}]], got {_shown(found)}", key)
        return [Table(self.file, self.lines, (*self.place, key, index), item) for index, item in enumerate(found)]

    def checked(self, check: Callable[[], T], *below: str | int) -> T:
        """Return what `check` does; an EngineError of it is told with the line of the value it was about."""
        try:
            return check()
        except EngineError as error:
            raise self.wrong(str(error), *below) from error

    def wrong(self, problem: str, *below: str | int) -> WrongPlan:
        """Return the error that names file, line and key of a value below this table."""
        place = (*self.place, *below)
        return self._wrong(place, place, problem.rstrip("."))

    def _found(self, key: str, default: Any) -> Any:
        if key not in self.values and default is None:
            raise self._wrong(self.place, (*self.place, key), f"the key '{key}' is missing")
        return self.values.get(key, default)

    def _wrong(self, told: Place, place: Place, problem: str) -> WrongPlan:
        name = _named(told)
        text = f"{self.file} line {self._line(told)}: {name}{': ' if name else ''}{problem}."
        return WrongPlan(text, place, problem)

    def _line(self, place: Place) -> int:
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read(path: Path) -> Table:
    """Return the whole of a TOML file. Raises BadInput for what is not one, with the line."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path.name} has over {MOST_BYTES:,} bytes; a plan is far shorter.")
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read as text in UTF-8.") from error


def parse(text: str, file: str) -> Table:
    """Return the whole of a TOML text. Raises BadInput with the line."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(_syntax(str(error), file, text)) from error
    return Table(file, dict(_positions(text)), (), values)


def _syntax(message: str, file: str, text: str) -> str:
    match = AT_LINE.search(message)
    line = match[1] if match else str(text.count("\n") + 1)
    return f"{file} line {line}: this is not TOML: {AT_LINE.sub('', message)}."


def _positions(text: str) -> Iterator[tuple[Place, int]]:
    """Yield where every table and value begins; Python's own parser reads values without saying where they stand."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
    counts: dict[Place, int] = {}
    for node in parser.parse(text.encode()).root_node.named_children:
        place: Place = ()
        if node.type in ("table", "table_array_element"):
            place = _keys(node.named_children[0])
            if node.type == "table_array_element":
                counts[place] = counts.get(place, -1) + 1
                place = (*place, counts[place])
            yield place, node.start_point.row + 1
        pairs = [node] if node.type == "pair" else [one for one in node.named_children if one.type == "pair"]
        for pair in pairs:
            yield from _pair(pair, place)


def _pair(pair: tree_sitter.Node, above: Place) -> Iterator[tuple[Place, int]]:
    yield from _value(pair.named_children[1], (*above, *_keys(pair.named_children[0])))


def _value(node: tree_sitter.Node, place: Place) -> Iterator[tuple[Place, int]]:
    yield place, node.start_point.row + 1
    items = [one for one in node.named_children if one.type not in ("comment", "escape_sequence")]
    if node.type == "array":
        for index, item in enumerate(items):
            yield from _value(item, (*place, index))
    elif node.type == "inline_table":
        for item in items:
            yield from _pair(item, place)


def _keys(node: tree_sitter.Node) -> Place:
    if node.type == "dotted_key":
        return tuple(key for child in node.named_children for key in _keys(child))
    text = (node.text or b"").decode()
    return (text.strip("\"'"),)


def _named(place: Place) -> str:
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f"{'.' if name else ''}{part}"
    return name


def _shown(value: object) -> str:
    kinds: dict[type, str] = {dict: "a table", list: "a list", bool: str(value).lower()}
    return kinds.get(type(value), repr(value)[:60])
