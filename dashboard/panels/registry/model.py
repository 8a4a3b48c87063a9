"""What the store holds of models and data sets, their validation reports, and the forms that add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.protocol import Field, Option
from dashboard.wording import percent
from engine import (
    LACKING,
    VALIDATION_CHECKS,
    BadInput,
    DataOrder,
    DatasetCard,
    Entry,
    ModelCard,
    ModelOrder,
    ValidationReport,
    bound_text,
    class_places,
)

NO_DATA = "noise, without images"
VERDICTS = {"pass": "✔ passed", "fail": "✘ failed", "incomplete": "– not everything could be checked"}
SHORT_VERDICTS = {"pass": "✔ passed", "fail": "✘ failed", "incomplete": "– in part"}
UNCHECKED = "– not checked"
OPTIONS = {
    "--mean": "Mean",
    "--std": "Standard deviation",
    "--range": "White is",
    "--channels": "Channel order",
    "--first-label": "First label is",
}
"""The field of the forms that stands for an option of the command line."""
MODEL_TEXTS = ("mean", "std", "size", "accuracy")
LONGEST = 200
HASH_SHOWN = 12
INEXACT_SHOWN = 10
"""Links that are not exact, at most, which are listed one by one."""
ANSWER = "answer"
GATES = "gate or norm on the way: "
UNEXPLAINED = "no gate or norm on the way explains it"
KIB = 1024


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model."""

    name: str
    architecture: str
    maps: str
    takes: str
    classes: str
    hash: str
    fitting: tuple[Option, ...]
    """Data sets it can be checked on, as value and title."""
    status: tuple[str, ...]
    """What the validation reports made so far say, one line each."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """One data set."""

    name: str
    count: str
    size: str
    classes: str
    source: str
    hash: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One intake check."""

    title: str
    outcome: str
    sentence: str
    help: str


@dataclass(frozen=True, slots=True)
class InexactRow:
    """One link whose connections are not exact."""

    source: str
    target: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """A finished validation report."""

    title: str
    verdict: str
    checks: tuple[CheckRow, ...]
    suspicions: tuple[str, ...]
    inexact: tuple[InexactRow, ...] = ()
    """The worst first."""
    others: str = ""
    """How many more links are not exact, and by how much at most."""
    bound: str = ""
    """The trivial bound of the network; empty where its card is gone."""


def models(
    cards: Sequence[ModelCard], datasets: Sequence[DatasetCard], reports: Mapping[str, Sequence[ValidationReport]]
) -> tuple[ModelRow, ...]:
    """Return a row per model, with the data sets whose classes are among its own, and what its reports say."""
    return tuple(_model(card, fitting(card, datasets), reports.get(card.name, ())) for card in cards)


def fitting(card: ModelCard, datasets: Sequence[DatasetCard]) -> tuple[str, ...]:
    """Return the names of the data sets whose classes are among a model's, each once."""
    return tuple(dataset.name for dataset in datasets if LACKING not in class_places(dataset.classes, card.classes))


def datasets(cards: Sequence[DatasetCard]) -> tuple[DataRow, ...]:
    """Return a row per data set."""
    return tuple(
        DataRow(
            card.name,
            f"{card.count:,}",
            f"{card.size[0]} × {card.size[1]}, {'colour' if card.channels == 3 else 'grey'}",
            f"{len(card.classes)} ({_each(card.class_counts)} images each)",
            card.source,
            card.content_hash[:HASH_SHOWN],
            card.warnings,
        )
        for card in cards
    )


def report(validation_report: ValidationReport, card: ModelCard | None = None) -> Report:
    """Return a validation report as it is shown; card: of its model, which names the layers."""
    by_name = {result.check: result for result in validation_report.results}
    checks = tuple(
        CheckRow(check.title, by_name[check.name].outcome, by_name[check.name].sentence, check.fails_when)
        for check in VALIDATION_CHECKS
        if check.name in by_name
    )
    on = "on noise, without images"
    if validation_report.data:
        on = f"on {validation_report.images} images of {validation_report.data}"
    suspicions = tuple(
        f"{suspicion.mistake} With '{_remedy(suspicion.remedy)}' {percent(suspicion.after.value)} instead of "
        f"{percent(suspicion.before.value)} of "
        f"{suspicion.after.n} images are right."
        for suspicion in validation_report.suspicions
    )
    worst = sorted(validation_report.inexact, key=lambda link: -link.error)
    gated = {(link.source, link.target) for link in (card.links if card else ()) if link.through}
    inexact = tuple(
        InexactRow(
            _layer(link.source, card),
            _layer(link.target, card),
            percent(link.error),
            _reason(link.reason, is_gated=(link.source, link.target) in gated),
        )
        for link in worst[:INEXACT_SHOWN]
    )
    others = _others([link.error for link in worst[INEXACT_SHOWN:]])
    title = f"{validation_report.model}, checked {on}"
    bound = bound_text(card.sites) if card else ""
    return Report(title, VERDICTS[validation_report.verdict], checks, suspicions, inexact, others, bound)


def _reason(reason: str, *, is_gated: bool) -> str:
    """Return why a link is not exact; of one that passes gates or norms the reason is their names."""
    if not reason:
        return UNEXPLAINED
    return f"{GATES}{reason}" if is_gated else reason


def _layer(site: int, card: ModelCard | None) -> str:
    names = () if card is None else (*(item.name for item in card.sites), ANSWER)
    return names[site] if site < len(names) else f"layer {site + 1}"


def _others(errors: Sequence[float]) -> str:
    """Return how many links are not listed, and by how much they are off at most."""
    if not errors:
        return ""
    are = "1 other is" if len(errors) == 1 else f"{len(errors):,} others are"
    largest = percent(max(errors))
    return f"{are} off by {largest if largest.startswith('<') else f'at most {largest}'}."


def model_form(
    entries: Sequence[Entry], cards: Sequence[DatasetCard], architectures: Sequence[str]
) -> tuple[Field, ...]:
    """Return the fields that add a model; empty where the import folder holds no weights. `architectures` are suggested."""
    names = tuple((name, name) for name in architectures)
    weights = tuple((entry.key, _titled(entry)) for entry in entries if entry.kind == "weights")
    if not weights:
        return ()
    return (
        Field("entry", "Weights", "menu", weights[0][0], "A safetensors file or a state_dict.", weights),
        Field("name", "Name", "text", "", "Letters, digits, '.', '_' and '-'."),
        Field("architecture", "Architecture", "text", "", "For example cifar_resnet20, mobilenet_v2, resnet50.", names),
        Field("classes", "Class names", "menu", "", "In the order of the logits.", _class_sources(entries, cards)),
        Field("mean", "Mean", "text", "", "Of each channel; empty for the architecture's usual one."),
        Field("std", "Standard deviation", "text", "", "Of each channel; empty for the usual one."),
        Field("size", "Input size", "text", "", "Pixels, such as 224; empty for the usual one."),
        Field("resize", "Resize first", "text", "", "Shortest side before the centre is cut out, such as 256."),
        Field("channels", "Channel order", "menu", "rgb", "", (("rgb", "RGB"), ("bgr", "BGR"))),
        Field("range", "White is", "menu", "1", "On this scale mean and deviation are given.", (("1", "1"), ("255", "255"))),
        Field("accuracy", "Claimed accuracy", "text", "", "Such as 0.915; it is checked."),
    )  # fmt: skip


def data_form(entries: Sequence[Entry], cards: Sequence[DatasetCard]) -> tuple[Field, ...]:
    """Return the fields that add a data set; empty where the import folder holds none."""
    sources = tuple((entry.key, _titled(entry)) for entry in entries if entry.kind in ("npz", "folder", "csv"))
    folders = tuple((entry.key, _titled(entry)) for entry in entries if entry.kind == "folder")
    if not sources:
        return ()
    classes = (("", "as the source names them"), *_class_sources(entries, cards))
    return (
        Field("entry", "Images", "menu", sources[0][0], "An npz, a folder with one folder per class, or a CSV table.", sources),
        Field("name", "Name", "text", "", "Letters, digits, '.', '_' and '-'."),
        Field("classes", "Class names", "menu", "", "In the order of the labels.", classes),
        Field("images", "Pictures of the table", "menu", "", "The folder whose pictures a table names.", (("", "none"), *folders)),
        Field("first_label", "First label is", "menu", "0", "Of a table or an npz file.", (("0", "0"), ("1", "1"))),
        Field("size", "Fit to size", "text", "", "Pixels, for pictures of other sizes."),
        Field("epsilon", "Usual epsilon", "text", "", "That menus start with, such as 8/255."),
    )  # fmt: skip


def order(kind: str, values: object) -> ModelOrder | DataOrder:
    """Return what a form was filled with; raises BadInput for what a form cannot hold."""
    given = values if isinstance(values, Mapping) else {}
    texts = {name: str(value).strip()[:LONGEST] for name, value in given.items() if isinstance(value, str)}
    missing = [name for name in ("entry", "name") if not texts.get(name)]
    if missing:
        raise BadInput(f"The field '{missing[0]}' is empty.")
    if kind == "data":
        return DataOrder(
            texts["entry"],
            texts["name"],
            texts.get("classes") or None,
            texts.get("size") or None,
            texts.get("epsilon", ""),
            texts.get("images") or None,
            1 if texts.get("first_label") == "1" else 0,
        )
    if not texts.get("architecture") or not texts.get("classes"):
        raise BadInput("A model needs an architecture and class names.")
    optional: dict[str, Any] = {name: texts.get(name) or None for name in MODEL_TEXTS}
    return ModelOrder(
        texts["entry"],
        texts["name"],
        texts["architecture"],
        texts["classes"],
        resize=_whole(texts.get("resize", "")),
        channels=texts.get("channels", "rgb"),
        range=texts.get("range", "1"),
        **optional,
    )


def _whole(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise BadInput(f"The shortest side must be a whole number of pixels, got '{text[:20]}'.")
    return int(text)


def _remedy(text: str) -> str:
    """Return a remedy in the words of the forms, where the command line has options."""
    for option, label in OPTIONS.items():
        text = text.replace(option, label)
    return text


def _each(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _model(card: ModelCard, names: Sequence[str], reports: Sequence[ValidationReport]) -> ModelRow:
    sites, maps = len(card.sites), sum(site.channels for site in card.sites)
    said = tuple(f"{SHORT_VERDICTS[report.verdict]}, on {report.data or 'noise'}" for report in reports)
    return ModelRow(
        card.name,
        card.architecture,
        f"{maps:,} in {sites} layers, {card.parameters:,} parameters",
        f"{card.size[0]} × {card.size[1]}, {card.order.upper() if card.channels == 3 else 'grey'}",
        f"{len(card.classes):,}",
        card.content_hash[:HASH_SHOWN],
        (*((name, name) for name in names), ("", NO_DATA)),
        said or (UNCHECKED,),
    )


def _titled(entry: Entry) -> str:
    if entry.kind == "folder":
        return f"{entry.name}/"
    size = entry.bytes / KIB
    return f"{entry.name} ({size / KIB:.1f} MiB)" if size >= KIB else f"{entry.name} ({size:.0f} KiB)"


def _class_sources(entries: Sequence[Entry], cards: Sequence[DatasetCard]) -> tuple[Option, ...]:
    stored = tuple((f"data:{card.name}", f"those of data set {card.name}") for card in cards)
    return (*((entry.key, entry.name) for entry in entries if entry.kind == "classes"), *stored)
