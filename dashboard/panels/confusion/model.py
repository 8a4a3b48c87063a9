"""Confusion flows of a run as texts and rows: of how many images, with which interval, and an image to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dashboard.panels.audits import model as audits
from dashboard.panels.audits.counted import image_query
from dashboard.wording import measured
from engine import Confusion, ConfusionFlow, ModelResult, Rate, RunView, class_handles, measure_of

MOST_FLOWS: Final = 400
"""Pairs of classes that are counted out for the page: all that 20 classes have, and the most frequent of more."""
MOST_ROWS: Final = 25
MOST_CLASSES: Final = 20
"""Classes of a matrix; of more, the table alone is shown."""
UNIT: Final = (
    "The share is of the images of the class that were right without attack; an image counts once, however many of the attacks "
    "fooled it, and once for each class that it became."
)
FEW: Final = "Grey: of fewer than 30 images, not to be ranked."


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One pair of classes."""

    name: str
    images: str
    share: str
    low: float
    value: float
    high: float
    n: str
    link: str
    """Query of an image that went this way; empty where the levels cannot show it."""
    has_few: bool

    @property
    def told(self) -> str:
        """All of it in one line."""
        return f"{self.name}: {self.images} of {self.n} images, {self.share}"

    @property
    def step(self) -> int:
        """Its colour in the matrix."""
        return round(audits.STEPS * self.value)


@dataclass(frozen=True, slots=True)
class Matrix:
    """True classes by what they were fooled into."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[FlowRow | None, ...]], ...]
    """Name, number of images and cells of each true class that has an image; None where none went that way."""


@dataclass(frozen=True, slots=True)
class PointRow:
    """One strength of one attack."""

    family: str
    strength: str
    accuracy: str
    low: float
    value: float
    high: float
    n: str


@dataclass(frozen=True, slots=True)
class Described:
    """What is shown beside the chart."""

    lead: str
    notes: tuple[str, ...]
    flows: tuple[FlowRow, ...]
    """Those of the table."""
    matrix: Matrix | None
    points: tuple[PointRow, ...]
    curve: str
    """What the curve is of, or why there is none."""


def described(view: RunView, confusion: Confusion) -> Described:
    """Return what a run says of a scope, in words."""
    rows = {(one.label, one.into): row(view, confusion, one) for one in confusion.flows}
    return Described(
        lead(view, confusion),
        _notes(confusion),
        tuple(rows.values())[:MOST_ROWS],
        _matrix(view, confusion, rows),
        tuple(_points(confusion)),
        _curve(view, confusion),
    )


def lead(view: RunView, confusion: Confusion) -> str:
    """Return how many images of the scope were fooled, or that there are none."""
    model = view.manifest.model(confusion.scope.role).name
    interim = "Interim, of the images that are done: " if confusion.is_interim else ""
    where = f"{interim}{model}, {under(view, confusion)}."
    if not confusion.n:
        return f"{where} No image was right without attack and attacked, so none could be fooled."
    if not confusion.fooled:
        return f"{where} None of n = {confusion.n:,} images that were right without attack was fooled."
    return f"{where} {confusion.fooled:,} of n = {confusion.n:,} images that were right without attack were fooled."


def under(view: RunView, confusion: Confusion) -> str:
    """Return the attacks and classes of a scope in words."""
    own, names = view.manifest.of(confusion.scope.role), class_handles(view.manifest.classes)
    attacks = ", ".join(audits.short_name(own[place].name) for place in confusion.attacks)
    chosen = [names[label] for label in confusion.scope.classes]
    classes = f"class{'es' if len(chosen) > 1 else ''} {', '.join(chosen)}" if chosen else "all classes"
    return f"{attacks}; {classes}"


def _notes(confusion: Confusion) -> tuple[str, ...]:
    if not confusion.flows:
        return ()
    told = [UNIT]
    if confusion.pairs > MOST_ROWS:
        told.append(f"The {MOST_ROWS} most frequent of {confusion.pairs:,} pairs of classes; the file holds all.")
    if any(one.has_few for one in confusion.flows):
        told.append(FEW)
    if confusion.broken:
        told.append(f"Under {confusion.broken:,} images an attack broke down or left its budget, which is not counted.")
    return tuple(told)


def row(view: RunView, confusion: Confusion, one: ConfusionFlow) -> FlowRow:
    """Return one pair of classes as the page writes it."""
    names, share = class_handles(view.manifest.classes), one.share
    return FlowRow(
        f"{names[one.label]} → {names[one.into]}",
        f"{one.images:,}",
        measured(share.value, share.low, share.high),
        share.low,
        share.value,
        share.high,
        f"{share.n:,}",
        _link(view, confusion, one),
        one.has_few,
    )


def _link(view: RunView, confusion: Confusion, one: ConfusionFlow) -> str:
    role, names = confusion.scope.role, class_handles(view.manifest.classes)
    condition = view.manifest.of(role)[one.condition]
    own, label = (condition.kind, condition.name, role), names[one.label]
    where = {"label": label, "outcome": "fooled", "sample": one.sample}
    return image_query(view.manifest, view.card.run, own, where)


def _matrix(view: RunView, confusion: Confusion, rows: dict[tuple[int, int], FlowRow]) -> Matrix | None:
    names = class_handles(view.manifest.classes)
    if len(names) > MOST_CLASSES or not rows:
        return None
    every = range(len(names))
    shown = tuple(
        (names[label], f"{count:,}", tuple(rows.get((label, into)) for into in every))
        for label, count in confusion.attacked
    )
    return Matrix(tuple(names), shown)


def _points(confusion: Confusion) -> list[PointRow]:
    return [
        PointRow(
            point.family, measure_of(point.attack).text(point.epsilon), audits.rate(point.accuracy),
            point.accuracy.low or 0.0, point.accuracy.value or 0.0, point.accuracy.high or 0.0, f"{point.accuracy.n:,}",
        )
        for point in confusion.curve
    ]  # fmt: skip


def _curve(view: RunView, confusion: Confusion) -> str:
    if confusion.curve:
        families = ", ".join(dict.fromkeys(point.family for point in confusion.curve))
        return (
            f"{families}; right answers of all images of the chosen classes at every epsilon that was run, "
            "Clopper-Pearson 95 %."
        )
    own = view.manifest.of(confusion.scope.role)
    named = ", ".join(audits.short_name(own[place].name) for place in confusion.attacks)
    return f"No curve: {named} ran at one strength each. A plan's [curve] adds others."


def swept(view: RunView, confusion: Confusion) -> tuple[ModelResult, ...]:
    """Return the model of the scope with the curve of the scope, as the chart of a run's curve draws it."""
    points = tuple(point for point in confusion.curve if point.accuracy.n)
    return tuple(replace(one, curve=points) for one in view.summary.models if one.role == confusion.scope.role)


Table = tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]
"""Heads and rows of a file."""


def flows_table(view: RunView, confusion: Confusion) -> Table:
    """Return every pair of classes that occurred, in full."""
    names, own = class_handles(view.manifest.classes), view.manifest.of(confusion.scope.role)
    heads = ("role", "model", "attacks", "true_class", "fooled_into", "images", "n", "share", "low", "high", "interval", "has_few",
             "example", "example_attack", "is_interim")  # fmt: skip
    attacks = " + ".join(own[place].name for place in confusion.attacks)
    rows = tuple(
        (
            confusion.scope.role, view.manifest.model(confusion.scope.role).name, attacks, names[one.label], names[one.into],
            one.images, one.share.n, one.share.value, one.share.low, one.share.high, audits.INTERVAL, one.has_few, one.sample,
            own[one.condition].name, confusion.is_interim,
        )
        for one in confusion.flows
    )  # fmt: skip
    return heads, rows


def curve_table(view: RunView, confusion: Confusion) -> Table:
    """Return every strength of the chosen attacks in full."""
    names = class_handles(view.manifest.classes)
    heads = ("role", "model", "classes", "attack", "epsilon", "n", "accuracy", "low", "high", "interval", "is_interim")
    classes = " + ".join(names[label] for label in confusion.scope.classes) or "all"
    rows = tuple(
        (
            confusion.scope.role, view.manifest.model(confusion.scope.role).name, classes, point.attack, point.epsilon,
            *_ends(point.accuracy), audits.INTERVAL, confusion.is_interim,
        )
        for point in confusion.curve
    )  # fmt: skip
    return heads, rows


def _ends(rate: Rate) -> tuple[float | None, ...]:
    return rate.n, rate.value, rate.low, rate.high


TABLES: Final = {"confusion": flows_table, "confusion-curve": curve_table}
"""By the name of the file."""
