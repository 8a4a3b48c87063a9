"""The form that plans an audit: what it offers, what it is filled with at first, and every mistake in its own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from dashboard import links
from dashboard.auditor import Auditor
from dashboard.protocol import Field
from engine import (
    METHODS,
    TIERS,
    AttackCard,
    DatasetCard,
    EngineError,
    ModelCard,
    SettingCard,
    WrongPlan,
    attack,
    attack_texts,
    attack_written,
    hits_needed,
    same_classes,
)

Values = Mapping[str, Any]
Row = dict[str, Any]
USUAL_IMAGES: Final = 1000
USUAL_STRENGTH: Final = "8/255"
CUSTOM, NONE = "custom", "none"
CONDITIONS: Final = (("worst-case", "Worst case of all attacks"), ("clean", "Without attack"))
METRICS: Final = (
    ("accuracy", "Accuracy: right of all images"),
    ("robust-on-correct", "Robust accuracy on clean-correct images (1 − attack success rate)"),
)
NORMS: Final = (("linf", "L∞: largest change of a pixel"), ("l2", "L2: length of the change"))
FIELDS: Final[dict[tuple[str, ...], str]] = {
    ("images", "count"): "count",
    ("images", "seed"): "seed",
    ("curve", "attack"): "curve_attack",
    ("curve", "epsilons"): "curve_epsilons",
}
"""By place in a plan: the field of the form it is filled from, where that has another name."""
SHARES: Final = ("at_least", "confidence")
"""Fields of a threshold that are written in per cent."""
ROWS: Final = ("attacks", "precomputed", "thresholds")
SIZES: Final = (50, 100, 200, 1000)
"""Numbers of images for which a threshold says what it needs."""
MOST_IMAGES: Final = 1_000_000
MOST_MISTAKES: Final = 30
MISFITS_SHOWN: Final = 3
OF_MODEL: Final = ("baseline", "data", "class", "condition")
"""Fields that a wrong model makes wrong."""


@dataclass(frozen=True, slots=True)
class Group:
    """Fields under one heading; `rows` names what can be added to it: attacks, precomputed sets or thresholds."""

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
class Subject:
    """What goes with one model."""

    data: tuple[tuple[str, str], ...]
    """Value and title of the data sets that fit it."""
    misfits: str
    """Why the others do not; empty where all do."""
    baselines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What the form begins with for one data set."""

    count: int
    epsilon: str


@dataclass(frozen=True, slots=True)
class Form:
    """The whole form."""

    groups: tuple[Group, ...]
    attacks: tuple[AttackChoice, ...]
    precomputed: tuple[Field, ...]
    threshold: tuple[Field, ...]
    subjects: dict[str, Subject]
    """By model."""
    sets: dict[str, ImageSet]
    """By data set."""
    rows: dict[str, tuple[Values, ...]] = field(default_factory=dict)
    """What is added already, by kind: values by field."""
    note: str = ""
    """Where its values come from."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a store and the engine offer."""

    models: Sequence[ModelCard]
    datasets: Sequence[DatasetCard]
    attacks: Sequence[AttackCard]
    methods: Sequence[str]

    @classmethod
    def of(cls, auditor: Auditor) -> Offer:
        """Return what an auditor offers."""
        return cls(auditor.models(), auditor.datasets(), auditor.attacks(), auditor.methods())

    def model(self, name: object) -> ModelCard | None:
        """Return a model by name, the first one for no name that is there; None where there is none at all."""
        return next((card for card in self.models if card.name == name), next(iter(self.models), None))

    def data(self, name: object, model: ModelCard | None) -> DatasetCard | None:
        """Return a data set by name where it fits the model, else the first that does, else none."""
        fitting = [card for card in self.datasets if model and links.fits(card, model)]
        return next((card for card in fitting if card.name == name), next(iter(fitting), None))


def build(offer: Offer, first: Values | None = None) -> Form:
    """Return the form, filled at first with the model and data that one comes from, or with the values of another plan."""
    first = first or {}
    model = offer.model(first.get("model"))
    data = offer.data(first.get("data"), model)
    strength = (data.epsilon if data else "") or USUAL_STRENGTH
    choices = tuple(
        AttackChoice(card.name, card.title, tuple(_setting(setting, card, strength) for setting in card.settings))
        for card in offer.attacks
        if not card.is_control
    )
    start = {"model": model.name if model else "", "data": data.name if data else ""}
    groups = (
        _subject(offer, model, data),
        _attacks(strength),
        _curve(choices, str(first.get("curve_attack", ""))),
        Group("Precomputed sets", PRECOMPUTED_NOTE, (), "precomputed"),
        _method(offer.methods),
        Group("Thresholds", AGREED_NOTE, (), "thresholds"),
    )
    return Form(
        tuple(_filled_group(group, {**first, **start}) for group in groups),
        choices,
        _precomputed_fields(data),
        _threshold_fields(choices),
        {card.name: _goes_with(card, offer) for card in offer.models},
        {card.name: ImageSet(card.count, card.epsilon or USUAL_STRENGTH) for card in offer.datasets},
        {name: tuple(_rows(first, name)) for name in ROWS},
        str(first.get("note", "")),
    )


PRECOMPUTED_NOTE: Final = (
    "Attacked images that somebody else made: a data set of this store whose images are named as the originals are."
)
AGREED_NOTE: Final = (
    "Agreed now: once the run starts they are part of what it is, like everything above, and cannot be changed."
)


def _filled_group(group: Group, first: Values) -> Group:
    return replace(group, fields=tuple(_begun(item, first.get(item.name)) for item in group.fields))


def _begun(item: Field, value: object) -> Field:
    if item.kind == "check":
        return replace(item, value="yes" if value else "") if isinstance(value, bool) else item
    return replace(item, value=value) if isinstance(value, str) else item


def _goes_with(model: ModelCard, offer: Offer) -> Subject:
    fitting = [card for card in offer.datasets if links.fits(card, model)]
    others = [card for card in offer.datasets if card not in fitting]
    reasons = "; ".join(f"{card.name}: {links.misfit(card, model)}" for card in others[:MISFITS_SHOWN])
    more = f"; and {len(others) - MISFITS_SHOWN} more" if len(others) > MISFITS_SHOWN else ""
    same = [one.name for one in offer.models if one != model and same_classes(one.classes, model.classes)]
    return Subject(
        tuple((card.name, f"{card.name} ({card.count:,} images)") for card in fitting),
        f"Not offered, because they do not fit {model.name}: {reasons}{more}." if others else "",
        (("", "none"), *((name, name) for name in same)),
    )


def _subject(offer: Offer, model: ModelCard | None, data: DatasetCard | None) -> Group:
    names = tuple((card.name, card.name) for card in offer.models)
    own = _goes_with(model, offer) if model else Subject((), "", (("", "none"),))
    count = min(USUAL_IMAGES, data.count if data else USUAL_IMAGES)
    help = own.misfits or (
        "The images that are attacked." if own.data else "No data set of this store fits this model."
    )
    return Group(
        "What is audited",
        "",
        (
            Field("name", "Name", "text", "Audit", "Shown in the list of runs."),
            Field("model", "Candidate", "menu", "", "The model that is judged.", names),
            Field("baseline", "Baseline", "menu", "", "Compared on the same images; same classes only.", own.baselines),
            Field("data", "Data", "menu", "", help, own.data),
            Field("count", "Images", "text", str(count), "Drawn from every class in proportion."),
            Field("seed", "Seed", "text", "0", "Of the drawn images, the attacks and the references."),
        ),
    )


def _attacks(strength: str) -> Group:
    tiers = tuple((tier.name, tier.title) for tier in TIERS.values())
    note = " ".join(f"{tier.title}: {tier.help}" for tier in TIERS.values())
    options = (*tiers, (CUSTOM, "Only the attacks added below"))
    noise = "Random noise of the same size as the strongest attack, as a baseline."
    return Group(
        "Attacks",
        note,
        (
            Field("tier", "Tier", "menu", "standard", "How thoroughly it attacks.", options),
            Field("epsilon", "Epsilon of the tier", "text", strength, "Largest change of a pixel, for example 8/255."),
            Field("controls", "Noise controls", "check", "yes", noise),
        ),
        "attacks",
    )


def _curve(attacks: Sequence[AttackChoice], begun: str) -> Group:
    known = [(one.name, one.title) for one in attacks if any(item.name == "epsilon" for item in one.fields)]
    # A curve of an earlier run may be of an attack with settings of its own: its id then stands among the choices.
    own = [(begun, begun)] if begun and begun not in dict(known) else []
    return Group(
        "Epsilon curve",
        "One attack at several epsilons, on every image: how accuracy falls. It does not count for the worst case.",
        (
            Field(
                "curve_attack",
                "Attack",
                "menu",
                "",
                "With its usual settings otherwise.",
                (("", "none"), *own, *known),
            ),
            Field("curve_epsilons", "Epsilons", "text", "1/255, 2/255, 4/255, 8/255", "Separated by commas."),
        ),
    )


def _method(methods: Sequence[str]) -> Group:
    options = tuple((name, METHODS[name].title) for name in methods)
    choices = (*options, (NONE, "Not scored: answers alone"))
    help = "How a channel's part in each answer is measured; without scores a run is several times faster."
    return Group("Feature maps", "", (Field("method", "Attribution method", "menu", choices[0][0], help, choices),))


def _precomputed_fields(data: DatasetCard | None) -> tuple[Field, ...]:
    strength = (data.epsilon if data else "") or USUAL_STRENGTH
    return (
        Field("name", "Name", "text", "precomputed", "Letters, digits, '.', '_' and '-'."),
        Field("data", "Attacked images", "menu", "", "Only sets that fit the candidate are offered."),
        Field("norm", "Norm", "menu", "linf", "In which their budget is counted.", NORMS),
        Field("epsilon", "Epsilon", "text", strength, "Budget they should keep; images beyond it are left out."),
    )


def _threshold_fields(attacks: Sequence[AttackChoice]) -> tuple[Field, ...]:
    conditions = (*CONDITIONS, *((attack.name, f"{attack.title} ({attack.name})") for attack in attacks))
    return (
        Field("name", "Name", "text", "withstands the agreed attacks", "Stands in the result."),
        Field("condition", "Under", "menu", CONDITIONS[0][0], "The attack it must hold under.", conditions),
        Field("metric", "Measured as", "menu", METRICS[0][0], "Which images count.", METRICS),
        Field("at_least", "At least", "text", "50 %", "The share that must be right, such as 90 % or 0.9."),
        Field("confidence", "Confidence", "text", "95 %", "Of the Clopper-Pearson interval that decides."),
        Field("class", "Class", "text", "", "Empty for all."),
    )


def _setting(card: SettingCard, attack: AttackCard, strength: str) -> Field:
    """Return the field of an attack's setting; the strength of an Linf attack begins as that of the tier does."""
    label = card.name.replace("_", " ").capitalize()
    if card.choices:
        return Field(card.name, label, "menu", card.default, card.help, tuple((one, one) for one in card.choices))
    value = strength if card.name == "epsilon" and attack.norm == "linf" else card.default
    return Field(card.name, label, "text", value, f"{card.help} {card.low:g} to {card.high:g}.")


def plan(values: object) -> dict[str, Any]:
    """Return what was filled in as the table of a plan; what is empty is left out, what is no form stays out.

    Texts that should be numbers and are not stay texts, so that the plan's own check tells what is wrong with them.
    """
    given: Values = values if isinstance(values, Mapping) else {}
    results: dict[str, Any] = {name: _text(given, name) for name in ("name", "model", "baseline", "data", "method")}
    if _text(given, "tier") != CUSTOM:
        results |= {name: _text(given, name) for name in ("tier", "epsilon")}
    results["seed"] = _whole(_text(given, "seed"))
    results["images"] = _filled({"count": _whole(_text(given, "count")), "seed": results["seed"]})
    results["attacks"] = [_attack(row) for row in _rows(given, "attacks")]
    results["controls"] = given.get("controls") is True
    if _text(given, "curve_attack"):
        epsilons = [part.strip() for part in _text(given, "curve_epsilons").split(",") if part.strip()]
        results["curve"] = _filled({"attack": _text(given, "curve_attack"), "epsilons": epsilons})
    results["precomputed"] = [
        _filled({name: _text(row, name) for name in ("name", "data", "norm", "epsilon")})
        for row in _rows(given, "precomputed")
    ]
    results["thresholds"] = [_agreed(row) for row in _rows(given, "thresholds")]
    return _filled(results)


def values_of(plan: Values) -> dict[str, Any]:
    """Return what the form is filled with to say the same as a plan's values do, under another name."""
    images, curve = plan.get("images", {}), plan.get("curve", {})
    results: dict[str, Any] = {
        name: str(plan.get(name, "")) for name in ("model", "baseline", "data", "method", "seed")
    }
    results |= {"tier": str(plan.get("tier", CUSTOM)), "controls": bool(plan.get("controls", True))}
    results |= {"epsilon": str(plan["epsilon"])} if "epsilon" in plan else {}
    results |= {"name": f"{plan['name']} (again)", "count": str(images.get("count", ""))}
    if curve:
        spec = attack(curve["attack"])
        results["curve_attack"] = spec.name if spec.is_standard else spec.without_epsilon
        results["curve_epsilons"] = ", ".join(curve["epsilons"])
    results["attacks"] = [
        {"name": spec.name, "settings": attack_texts(spec)} for spec in map(attack, plan.get("attacks", ()))
    ]
    results["precomputed"] = [dict(row) for row in plan.get("precomputed", ())]
    results["thresholds"] = [
        {**row, **{name: _percent(row[name]) for name in SHARES if name in row}} for row in plan.get("thresholds", ())
    ]
    return results


def _percent(share: float) -> str:
    return f"{(Decimal(str(share)) * 100).normalize():f} %"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with one field: `count`, `attacks-1`, `thresholds-0-at_least`; empty for the whole."""

    field: str
    text: str


def mistakes(values: object, offer: Offer, check: Callable[[dict[str, Any]], object]) -> tuple[Mistake, ...]:
    """Return everything that is wrong with what was filled in, each once.

    check: raises WrongPlan or BadInput for the first thing that is wrong with a plan. What it names is put right with what
    the form begins with, or taken out, and checked again, until nothing more is found.
    """
    given: Row = dict(values) if isinstance(values, Mapping) else {}
    given |= {name: list(_rows_or_gaps(given, name)) for name in ROWS}
    results: list[Mistake] = []
    form = build(offer)
    while len(results) < MOST_MISTAKES:
        found = _first_mistake(given, offer, check)
        if found is None:
            break
        is_known = any(item.field == found.field for item in results)
        results += [] if is_known or _is_echo(found, results) else [found]
        if not found.field or not _put_right(given, found.field, form, is_known=is_known):
            break
    return tuple(results)


def _is_echo(found: Mistake, results: Sequence[Mistake]) -> bool:
    """Tell whether something is only wrong because what was named before was put right or taken out."""
    known = [item.field for item in results]
    if found.field == "attacks":
        return any(name.startswith("attacks-") for name in known)
    return "model" in known and found.field.rpartition("-")[2] in OF_MODEL


def _first_mistake(given: Row, offer: Offer, check: Callable[[dict[str, Any]], object]) -> Mistake | None:
    model = next((card for card in offer.models if card.name == _text(given, "model")), None)
    data = next((card for card in offer.datasets if card.name == _text(given, "data")), None)
    if model and data and (why := links.misfit(data, model)):
        return Mistake("data", f"{data.name} does not fit {model.name}: {why}.")
    try:
        check(plan(given))
    except WrongPlan as error:
        return _mistake(given, error, data)
    except EngineError as error:
        text = str(error)
        available = AVAILABLE.search(text)
        return (
            Mistake("count", f"Only {int(available[1]):,} images are there.")
            if available
            else Mistake("", worded(text))
        )
    return None


AVAILABLE: Final = re.compile(r"only (\d+) are there")
OF_SETTING: Final = re.compile(r"([a-z0-9-]+)\.(\w+) (.+)", re.DOTALL)


def _mistake(given: Row, error: WrongPlan, data: DatasetCard | None) -> Mistake:
    place = field_of(_in_form(given, error.place))
    last = place.rpartition("-")[2]
    if last in SENTENCES:
        return Mistake(place, SENTENCES[last])
    if place == "count":
        return Mistake(place, f"Write a whole number from 1 to {data.count if data else MOST_IMAGES:,}.")
    if place.startswith("attacks-") and (match := OF_SETTING.fullmatch(error.problem)):
        return Mistake(f"{place}-{match[2]}", worded(match[3]))
    return Mistake(place, worded(error.problem))


SENTENCES: Final = {
    "at_least": "Write a share above 0 % and up to 100 %, such as 90 %; every model reaches 0 %.",
    "confidence": "Write a confidence from 50 % to 99.99 %, such as 95 %.",
}
WORDS: Final = (
    (re.compile(r"^the key '\w+' is missing$"), "Fill this in"),
    (re.compile(r"^must be a text of 1 to 200.*$", re.DOTALL), "Write 1 to 200 printable characters"),
    (re.compile(r"^a plan needs attacks.*$", re.DOTALL),
     "Nothing attacks yet: choose a tier, or add an attack, an epsilon curve or a precomputed set"),
    (re.compile(r"^a curve needs epsilons.*$", re.DOTALL), "Write at least one epsilon, such as 1/255, 2/255"),
    (re.compile(r"^must be another model than 'model'$"), "Choose another model than the candidate"),
    (re.compile(r"^the plan has no attack and no precomputed set, so it has no worst case$"),
     "Nothing attacks, so there is no worst case: choose 'Without attack', or add an attack"),
    (re.compile(r"^'\S+' compares with the images without attack.*$"), "Without attack, choose 'Accuracy'"),
    (re.compile(r"^the plan has no attack '(.+?)'\. It has: .*$", re.DOTALL),
     r"This audit does not run \1: add it above, or choose another"),
    (re.compile(r"condition of this plan"), "condition of this audit"),
    (re.compile(r"\bthe plan\b"), "the audit"),
)  # fmt: skip
"""What a plan's file is told, and what the form says instead."""


def worded(problem: str) -> str:
    """Return what is wrong in the words of the form, as a sentence."""
    for pattern, words in WORDS:
        problem = pattern.sub(words, problem)
    sentence = problem.rstrip(".")
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _in_form(given: Row, place: Sequence[str | int]) -> Sequence[str | int]:
    """Return a place in a plan as one in the form, where rows that were taken out still count."""
    if len(place) < 2 or place[0] not in ROWS or not isinstance(place[1], int):
        return place
    kept = [index for index, row in enumerate(given[str(place[0])]) if row is not None]
    return (place[0], kept[place[1]], *place[2:])


def field_of(place: Sequence[str | int]) -> str:
    """Return the field that a place in a plan was filled from, for example `count` or `thresholds-0-at_least`."""
    named = tuple(map(str, place))
    return FIELDS.get(named[:2], "-".join(named[:2] if named[:1] == ("attacks",) else named))


def _put_right(given: Row, name: str, form: Form, *, is_known: bool) -> bool:
    """Give a field what the form begins with, or take its row out; tell whether anything was changed."""
    kind, _, rest = name.partition("-")
    if kind not in ROWS:
        begins = {item.name: item.value for group in form.groups for item in group.fields}
        if is_known or kind not in begins:
            return False
        given[kind] = begins[kind] == "yes" if kind == "controls" else begins[kind]
        return True
    index, _, setting = rest.partition("-")
    if not index.isdigit():
        return False
    row = given[kind][int(index)]
    begins = {**_row_begins(kind, row, form), "name": f"row-{index}"}
    if is_known or setting not in begins or row is None or (kind == "attacks" and setting == "name"):
        given[kind][int(index)] = None
    elif kind == "attacks":
        given[kind][int(index)] = {**row, "settings": {**row["settings"], setting: begins[setting]}}
    else:
        given[kind][int(index)] = {
            **row,
            setting: begins[setting] or (given.get("data", "") if setting == "data" else ""),
        }
    return row is not None


def _row_begins(kind: str, row: Values | None, form: Form) -> dict[str, str]:
    if kind == "attacks":
        fields = next((one.fields for one in form.attacks if row and one.name == row.get("name")), ())
    else:
        fields = form.threshold if kind == "thresholds" else form.precomputed
    return {item.name: item.value for item in fields}


def needed(values: object, offer: Offer) -> list[str]:
    """Return for each threshold how many right answers it needs, empty where its numbers are none."""
    given: Values = values if isinstance(values, Mapping) else {}
    return [_needed(row, given, offer) for row in _rows(given, "thresholds")]


def _needed(row: Values, given: Values, offer: Offer) -> str:
    at_least, confidence = (_share(_text(row, name)) for name in SHARES)
    if not isinstance(at_least, float) or not isinstance(confidence, float):
        return ""
    if not (0 < at_least <= 1 and 0.5 <= confidence <= 0.9999):
        return ""
    fewest = _fewest(at_least, confidence)
    if fewest is None:
        return f"No number of images can show {_percent(at_least)}: the interval never reaches it."
    usual = [(n, hits_needed(n, at_least, confidence)) for n in SIZES]
    said = [f"{hits:,} of {n:,}" for n, hits in usual if hits is not None] or [f"{fewest:,} of {fewest:,}"]
    text = f"To pass: {', '.join(said[:-1])}{' or ' if said[:-1] else ''}{said[-1]}"
    of = " of the images that are right without attack" if row.get("metric") == "robust-on-correct" else ""
    return f"{text}{of}. {_here(row, given, offer, (at_least, confidence, fewest))}".rstrip()


def _here(row: Values, given: Values, offer: Offer, asked: tuple[float, float, int]) -> str:
    """Return what a threshold needs with the number of images that the form asks for."""
    at_least, confidence, fewest = asked
    count = _whole(_text(given, "count"))
    data = next((card for card in offer.datasets if card.name == _text(given, "data")), None)
    if not isinstance(count, int) or not 0 < count <= MOST_IMAGES:
        return ""
    label, what = _text(row, "class"), "images"
    if label and data and label in data.classes:
        count = round(count * data.class_counts[data.classes.index(label)] / max(1, data.count))
        what = f"images of class '{label[:40]}'"
    hits = hits_needed(count, at_least, confidence) if count else None
    if hits is None:
        return f"With these {count:,} {what} it cannot pass: at least {fewest:,} are needed, all of them right."
    return f"With these {count:,} {what}: {hits:,}."


def _fewest(at_least: float, confidence: float) -> int | None:
    """Return the least number of images of which all right pass a threshold; None where a million do not."""
    low, high = 1, MOST_IMAGES
    if hits_needed(high, at_least, confidence) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if hits_needed(middle, at_least, confidence) is not None else (middle + 1, high)
    return low


def _attack(row: Values) -> str:
    settings = row.get("settings")
    given = settings if isinstance(settings, Mapping) else {}
    return attack_written(_text(row, "name"), {str(name): _text(given, name) for name in given})


def _agreed(row: Values) -> dict[str, Any]:
    results: dict[str, Any] = {name: _text(row, name) for name in ("name", "condition", "metric", "class")}
    return _filled(results | {name: _share(_text(row, name)) for name in SHARES})


def _rows(values: Values, name: str) -> list[Values]:
    return [item for item in _rows_or_gaps(values, name) if item is not None]


def _rows_or_gaps(values: Values, name: str) -> list[Values | None]:
    """Return the rows of a form; None for what is none, or was taken out."""
    result = values.get(name)
    return [item if isinstance(item, Mapping) else None for item in result] if isinstance(result, list | tuple) else []


def _text(values: Values, name: str) -> str:
    result = values.get(name)
    return result.strip() if isinstance(result, str) else ""


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", [])}


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _share(text: str) -> float | str:
    """Return a share as it is written: `90 %` and `90` are 0.9, as `0.9` is; what is no number stays a text."""
    number = text.removesuffix("%").strip()
    try:
        value = Decimal(number)
    except InvalidOperation:
        return text
    if not value.is_finite():
        return text
    return float(value / 100 if text.endswith("%") or value > 1 else value)
