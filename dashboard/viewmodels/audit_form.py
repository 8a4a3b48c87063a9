"""The form that plans an audit: its fields, made from what the store and the catalogue declare, and what it was filled with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from engine import METHODS, TIERS, AttackCard, DatasetCard, ModelCard, SettingCard, attack_written

USUAL_IMAGES: Final = 1000
USUAL_STRENGTH: Final = "8/255"
CUSTOM, NONE = "custom", "none"
CONDITIONS: Final = (("worst-case", "Worst case of all attacks"), ("clean", "Without attack"))
METRICS: Final = (
    ("accuracy", "Accuracy: right of all images"),
    ("resistance", "Resistance: still right of those right without attack"),
)
"""Settings that ids write shorter."""
FIELDS: Final[dict[tuple[str, ...], str]] = {("images", "count"): "count", ("images", "seed"): "seed"}
"""By place in a plan: the field of the form it is filled from, where that has another name."""
NUMBERS: Final = ("at_least", "confidence")
Option = tuple[str, str]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what it is called, how it is filled, and what it holds at first."""

    name: str
    label: str
    kind: Literal["text", "menu", "check"]
    value: str
    help: str = ""
    options: tuple[Option, ...] = ()
    """Value and title of each, for a menu."""


@dataclass(frozen=True, slots=True)
class Group:
    """Fields under one heading; `rows` names what can be added to it: attacks or thresholds."""

    title: str
    note: str
    fields: tuple[Field, ...]
    rows: str = ""


@dataclass(frozen=True, slots=True)
class AttackChoice:
    """An attack that can be added, with its declared settings."""

    name: str
    title: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """The whole form."""

    groups: tuple[Group, ...]
    attacks: tuple[AttackChoice, ...]
    threshold: tuple[Field, ...]


def build(
    models: Sequence[ModelCard], datasets: Sequence[DatasetCard], attacks: Sequence[AttackCard], methods: Sequence[str]
) -> Form:
    """Return the form for what a store holds and the engine offers."""
    strength = next((card.epsilon for card in datasets if card.epsilon), USUAL_STRENGTH)
    choices = tuple(
        AttackChoice(card.name, card.title, tuple(_setting(one, card, strength) for one in card.settings))
        for card in attacks
        if not card.is_control
    )
    return Form(
        (_subject(models, datasets), _attacks(strength), _method(methods), _thresholds()), choices, _threshold(choices)
    )


def plan(values: object) -> dict[str, Any]:
    """Return what was filled in as the table of a plan; what is empty is left out, what is no form stays out.

    Texts that should be numbers and are not stay texts, so that the plan's own check tells what is wrong with them.
    """
    given: Values = values if isinstance(values, Mapping) else {}
    found: dict[str, Any] = {name: _text(given, name) for name in ("name", "model", "baseline", "data", "method")}
    if _text(given, "tier") != CUSTOM:
        found |= {name: _text(given, name) for name in ("tier", "epsilon")}
    found["seed"] = _whole(_text(given, "seed"))
    found["images"] = _filled({"count": _whole(_text(given, "count")), "seed": found["seed"]})
    found["attacks"] = [_attack(one) for one in _rows(given, "attacks")]
    found["controls"] = given.get("controls") is True
    found["thresholds"] = [_agreed(one) for one in _rows(given, "thresholds")]
    return _filled(found)


def field_of(place: Sequence[str | int]) -> str:
    """Return the field that a place in a plan was filled from, for example `count` or `thresholds-0-at_least`."""
    return FIELDS.get(tuple(map(str, place)), "-".join(map(str, place[:2] if place[:1] == ("attacks",) else place)))


def _subject(models: Sequence[ModelCard], datasets: Sequence[DatasetCard]) -> Group:
    names = tuple((card.name, card.name) for card in models)
    data = tuple((card.name, f"{card.name} ({card.count:,} images)") for card in datasets)
    count = min(USUAL_IMAGES, max((card.count for card in datasets), default=USUAL_IMAGES))
    return Group(
        "What is audited",
        "",
        (
            Field("name", "Name", "text", "Audit"),
            Field("model", "Candidate", "menu", names[0][0] if names else "", options=names),
            Field("baseline", "Baseline", "menu", "", "Compared on the same images.", (("", "none"), *names)),
            Field("data", "Data", "menu", data[0][0] if data else "", options=data),
            Field("count", "Images", "text", str(count), "Drawn from every class in proportion."),
            Field("seed", "Seed", "text", "0", "Of the drawn images, the attacks and the references."),
        ),
    )


def _attacks(strength: str) -> Group:
    tiers = tuple((one.name, one.title) for one in TIERS.values())
    told = " ".join(f"{one.title}: {one.help}" for one in TIERS.values())
    return Group(
        "Attacks",
        told,
        (
            Field("tier", "Tier", "menu", "standard", options=(*tiers, (CUSTOM, "Only the attacks added below"))),
            Field("epsilon", "Strength of the tier", "text", strength, "Largest change of a pixel, for example 8/255."),
            Field("controls", "Noise controls", "check", "yes", "Noise as strong as the strongest attack, beside it."),
        ),
        "attacks",
    )


def _method(methods: Sequence[str]) -> Group:
    options = tuple((name, METHODS[name].title) for name in methods)
    return Group(
        "Feature maps",
        "",
        (Field("method", "Scored by", "menu", options[0][0], options=(*options, (NONE, "Not scored: answers alone"))),),
    )


def _thresholds() -> Group:
    note = "Agreed now: once the run starts they are part of what it is, like everything above, and cannot be changed."
    return Group("Thresholds", note, (), "thresholds")


def _threshold(attacks: Sequence[AttackChoice]) -> tuple[Field, ...]:
    conditions = (*CONDITIONS, *((one.name, f"{one.title} ({one.name})") for one in attacks))
    return (
        Field("name", "Name", "text", "withstands the agreed attacks"),
        Field("condition", "Under", "menu", CONDITIONS[0][0], options=conditions),
        Field("metric", "Measured as", "menu", METRICS[0][0], options=METRICS),
        Field("at_least", "At least (0 to 1)", "text", "0.5"),
        Field("confidence", "Confidence (0 to 1)", "text", "0.95", "Of the Clopper-Pearson interval that decides."),
        Field("class", "Class", "text", "", "Empty for all."),
    )


def _setting(card: SettingCard, attack: AttackCard, strength: str) -> Field:
    """Return the field of an attack's setting; the strength of an Linf attack begins as that of the tier does."""
    label = card.name.replace("_", " ").capitalize()
    if card.choices:
        return Field(card.name, label, "menu", card.default, card.help, tuple((one, one) for one in card.choices))
    value = strength if card.name == "epsilon" and attack.norm == "linf" else card.default
    return Field(card.name, label, "text", value, f"{card.help} {card.low:g} to {card.high:g}.")


def _attack(row: Values) -> str:
    settings = row.get("settings")
    given = settings if isinstance(settings, Mapping) else {}
    return attack_written(_text(row, "name"), {str(name): _text(given, name) for name in given})


def _agreed(row: Values) -> dict[str, Any]:
    found: dict[str, Any] = {name: _text(row, name) for name in ("name", "condition", "metric", "class")}
    return _filled(found | {name: _number(_text(row, name)) for name in NUMBERS})


def _rows(values: Values, name: str) -> list[Values]:
    found = values.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _text(values: Values, name: str) -> str:
    found = values.get(name)
    return found.strip() if isinstance(found, str) else ""


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", [])}


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
