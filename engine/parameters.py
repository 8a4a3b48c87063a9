"""Settings of attacks and methods, their limits, and the one text that each set of settings is written as."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from engine.errors import BadSetting, UnknownName


class TextValue(ABC):
    """A value that a text says completely."""

    __slots__ = ()

    @property
    @abstractmethod
    def text(self) -> str:
        """The text; equal values have equal texts."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ReadBy:
    """Stands in the type of a field, `Annotated[Attack, ReadBy(attack)]`: what makes its value of the stored text."""

    read: Callable[[str], TextValue]
    """Raises EngineError for a text that says no value."""


Unit = Literal["", "1/255", "l1", "area"]
Value = Fraction | int | float | str
SHORT = {"epsilon": "eps"}
"""Names that ids write shorter; all others stand in the id as they are."""
LONGEST_ID = 200
FINEST = 10**12
"""Largest denominator of a fraction: finer ones say nothing of a pixel and cannot be read back."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How people read a strength."""

    scale: str
    """Strengths of one scale may be compared."""
    axis: str
    """What stands along an axis of strengths."""
    factor: int
    """What a strength is multiplied by there."""
    sign: str
    """What stands behind the product."""

    def text(self, strength: float) -> str:
        """Return a strength as people read it: `8/255`, `0.5` or `3.125 % of the area`."""
        return f"{strength * self.factor:.4g}{self.sign}"


MEASURES: dict[Unit, Measure] = {
    "1/255": Measure("pixel", "epsilon ε in 1/255", 255, "/255"),
    "": Measure("length", "epsilon ε (L2 norm)", 1, ""),
    "l1": Measure("sum", "epsilon ε (L1 norm)", 1, ""),
    "area": Measure("area", "share of the area in %", 100, " % of the area"),
}
"""Of a strength, by what its setting is counted in."""
NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
FRACTION = re.compile(rf"({NUMBER})(?:/({NUMBER}))?", re.ASCII)
INTEGER = re.compile(r"\d{1,9}", re.ASCII)
DECIMAL = re.compile(r"\d{1,12}(?:\.\d{1,24})?(?:e-?\d{1,3})?", re.ASCII)


class Spec(Protocol):
    """A frozen dataclass whose fields are all made by `setting`."""

    name: ClassVar[str]
    """What ids begin with."""
    __dataclass_fields__: ClassVar[dict[str, Any]]


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True)
class SettingCard:
    """One setting of an attack or method, as a form shows it: a number from `low` to `high` or one of the `choices`."""

    name: str
    default: str
    low: float
    high: float
    help: str
    choices: tuple[str, ...] = ()
    unit: Unit = ""
    """What a fraction is counted in; `MEASURES` has what people read."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a field declares."""

    default: Value
    low: float
    high: float
    help: str
    unit: Unit
    choices: tuple[str, ...] = ()
    """The texts one of which it must be; empty for a number."""


def setting(default: Value, low: float, high: float, help: str, *, unit: Unit = "") -> Any:
    """Return a dataclass field that must lie in [low, high]; `unit` is what a fraction is counted in when shown."""
    return field(default=default, metadata={"declared": Declared(default, low, high, help, unit)})


def choice(default: str, options: tuple[str, ...], help: str) -> Any:
    """Return a dataclass field that must be one of `options`. At its default it is left out of ids."""
    return field(default=default, metadata={"declared": Declared(default, 0.0, 0.0, help, "", options)})


def check(spec: Spec) -> None:
    """Raise BadSetting unless every setting of `spec` has the type of its default and lies in its range or choices."""
    for declared_field in fields(spec):
        value = getattr(spec, declared_field.name)
        name = f"{spec.name}.{declared_field.name}"
        declared = _declared(declared_field)
        _check_type(name, value, type(declared.default))
        if declared.choices and value not in declared.choices:
            raise BadSetting(f"{name} must be one of {', '.join(declared.choices)}; got '{value[:40]}'.")
        if not declared.choices and not declared.low <= value <= declared.high:
            raise BadSetting(f"{name} must lie in [{declared.low:g}, {declared.high:g}], got {float(value):g}.")


def _check_type(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        example = ", for example Fraction(8, 255)" if kind is Fraction else ""
        raise BadSetting(f"{name} must be of type {kind.__name__}{example}; got {value!r} ({type(value).__name__}).")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadSetting(f"{name} must be a finite number, got {value}.")
    if isinstance(value, Fraction) and value.denominator > FINEST:
        raise BadSetting(f"{name} must be a fraction with a denominator of at most {FINEST}, got {value}.")


def identifier(spec: Spec, *, but: str = "") -> str:
    """Return the full id with every setting, for example `pgd-linf:eps=8/255,steps=10`; `parse` reads it back.

    A choice at its default is left out: an id written before the choice existed then still means the same.
    but: name of a setting that is to be left out.
    """
    results = [f for f in fields(spec) if not _declared(f).choices or getattr(spec, f.name) != _declared(f).default]
    parts = [f"{_key(f.name)}={_text(getattr(spec, f.name), _declared(f).unit)}" for f in results if f.name != but]
    return f"{spec.name}:{','.join(parts)}" if parts else spec.name


def parse(identifier: str, catalogue: Mapping[str, type[S]], *, kind: str = "attack") -> S:
    """Return the spec an id stands for; settings that it leaves out keep their defaults.

    Raises UnknownName for a name outside `catalogue` and BadSetting for a setting that is unknown, repeated, malformed
    or out of range.
    """
    name, colon, rest = identifier.strip()[: LONGEST_ID + 1].partition(":")
    if name not in catalogue:
        raise UnknownName(kind, name, catalogue)
    if len(identifier) > LONGEST_ID:
        raise BadSetting(f"An id has at most {LONGEST_ID} characters, got {len(identifier)}.")
    cls = catalogue[name]
    return cls(**_values(cls, rest)) if colon else cls()


def written(name: str, texts: Mapping[str, str]) -> str:
    """Return the id that says these texts of settings, checked by nothing: what a form was given, for `parse` to read."""
    return f"{name}:{','.join(f'{_key(key)}={text}' for key, text in texts.items())}" if texts else name


def texts(spec: Spec) -> dict[str, str]:
    """Return every setting of `spec` as a form shows it; `written` makes the id of them again."""
    return {field.name: value_text(spec, field.name) for field in fields(spec)}


def value_text(spec: Spec, name: str) -> str:
    """Return a setting of `spec` as ids write it, for example `8/255`."""
    (own,) = [field for field in fields(spec) if field.name == name]
    return _text(getattr(spec, name), _declared(own).unit)


def measure(spec: Spec, name: str) -> Measure:
    """Return how people read a setting of `spec`."""
    (own,) = [field for field in fields(spec) if field.name == name]
    return MEASURES[_declared(own).unit]


def read_fraction(name: str, text: str) -> Fraction:
    """Return the exact value of `8/255`, `0.05` or `0.5/255`; raises BadSetting, naming the setting."""
    match = FRACTION.fullmatch(text.strip())
    if not match or (match[2] and not Fraction(match[2])):
        raise BadSetting(f"{name} must be a number such as 8/255 or 0.05, got '{text[:40]}'.")
    return Fraction(match[1]) / Fraction(match[2] or 1)


def cards(cls: type[Spec]) -> tuple[SettingCard, ...]:
    """Return what a form shows of each setting of a spec class, in the order of its fields."""
    results = []
    for declared_field in fields(cls):
        declared = _declared(declared_field)
        default = _text(declared.default, declared.unit)
        limits = declared.low, declared.high, declared.help, declared.choices, declared.unit
        results.append(SettingCard(declared_field.name, default, *limits))
    return tuple(results)


def _values(cls: type[Spec], rest: str) -> dict[str, Value]:
    """Read `eps=8/255,steps=10` into keyword arguments of `cls`."""
    known = {_key(declared_field.name): declared_field for declared_field in fields(cls)}
    values: dict[str, Value] = {}
    for part in rest.split(","):
        key, equals, text = part.partition("=")
        if not equals or key not in known:
            raise BadSetting(f"{cls.name} has no setting '{part[:40]}'. Known: {', '.join(known) or 'none'}.")
        result = known[key]
        if result.name in values:
            raise BadSetting(f"{cls.name}.{result.name} is given twice.")
        values[result.name] = _read(f"{cls.name}.{result.name}", text, type(_declared(result).default))
    return values


def _read(name: str, text: str, kind: type) -> Value:
    if kind is str:
        return text
    if kind is Fraction:
        return read_fraction(name, text)
    if kind is int and INTEGER.fullmatch(text):
        return int(text)
    if kind is float and DECIMAL.fullmatch(text):
        return float(text)
    wanted = "a whole number such as 10" if kind is int else "a number such as 0.5"
    raise BadSetting(f"{name} must be {wanted}, got '{text[:40]}'.")


def _declared(declared_field: Field) -> Declared:
    return declared_field.metadata["declared"]


def _key(name: str) -> str:
    return SHORT.get(name, name)


def _text(value: Value, unit: Unit) -> str:
    """Return the shortest text that reads back to exactly `value`."""
    if isinstance(value, Fraction):
        return fraction_text(value, unit)
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def fraction_text(value: Fraction, unit: Unit) -> str:
    """Return `n/255` when n has at most two decimals and the unit is 1/255, else a decimal, else `p/q`."""
    if unit == "1/255" and (value * 255 * 100).denominator == 1:
        return f"{_decimal_text(value * 255)}/255"
    return _decimal_text(value) if (value * FINEST).denominator == 1 else f"{value.numerator}/{value.denominator}"


def _decimal_text(value: Fraction) -> str:
    whole, rest = divmod(int(value * FINEST), FINEST)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
