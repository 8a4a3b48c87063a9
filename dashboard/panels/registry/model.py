"""What the store holds of models and data sets, their validation reports, and the forms that add to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dashboard import links
from dashboard.protocol import Field, Option
from dashboard.wording import percent
from engine import (
    VALIDATION_CHECKS,
    BadInput,
    DataOrder,
    DatasetCard,
    Entry,
    ModelCard,
    ModelOrder,
    RunCard,
    ValidationReport,
    bound_text,
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
    "--size": "Input size",
    "--resize": "Resize first",
    "--accuracy": "Claimed accuracy",
    "--licence": "Licence",
    "pgd-linf.epsilon": "Usual epsilon",
}
"""The field of the forms that stands for an option of the command line."""
MODEL_TEXTS = ("mean", "std", "size", "accuracy")
LONGEST = 200
HASH_SHOWN = 12
FIRST_FIELDS = 4
"""Fields of a form that are shown at first; the rest stands under More."""
FIELDS_OF: Final = {
    "model": (
        (r"No architecture", "architecture"), (r"--mean", "mean"), (r"--std", "std"), (r"--size", "size"),
        (r"--resize|shortest side", "resize"), (r"--channels", "channels"), (r"--range", "range"), (r"--accuracy", "accuracy"),
        (r"cannot name|is called|already", "name"), (r"\barchitecture\b", "architecture"),
        (r"class names|\bclasses\b|data set", "classes"), (r"", "entry"),
    ),
    "data": (
        (r"epsilon", "epsilon"), (r"--first-label|label", "first_label"), (r"--size", "size"),
        (r"cannot name|is called|already", "name"), (r"the folder in which|column|table", "images"),
        (r"class names|\bclasses\b|names file", "classes"), (r"", "entry"),
    ),
}  # fmt: skip
"""What an error of an order is about, by what it says, the first that is found; what is about nothing else is about the file."""
KINDS: Final = {
    "weights": "weights",
    "npz": "npz file",
    "csv": "table",
    "classes": "class names or text",
    "folder": "folder",
}
MISFITS_SHOWN: Final = 2
INEXACT_SHOWN = 10
"""Links that are not exact, at most, which are listed one by one."""
ANSWER = "answer"
GATES = "gate or norm on the way: "
UNEXPLAINED = "no gate or norm on the way explains it"
KIB = 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something that the store holds came from, and what it is used for."""

    source: str
    licence: str
    added: str
    """UTC, to the minute."""
    hash: str
    """In full."""
    audits: int
    """Runs that are of it."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model."""

    name: str
    architecture: str
    maps: str
    takes: str
    classes: str
    origin: Origin
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
    origin: Origin
    warnings: tuple[str, ...]
    models: tuple[str, ...]
    """Those it can be shown to."""
    misfit: str
    """Why it can be shown to none; empty where it can to some."""


class WrongField(BadInput):
    """Fields of a form that cannot be used."""

    def __init__(self, mistakes: Mapping[str, str]) -> None:
        super().__init__("Some fields are not right yet.")
        self.mistakes = dict(mistakes)
        """What is wrong, by field."""


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
    cards: Sequence[ModelCard],
    datasets: Sequence[DatasetCard],
    reports: Mapping[str, Sequence[ValidationReport]],
    runs: Sequence[RunCard] = (),
) -> tuple[ModelRow, ...]:
    """Return a row per model, with the data sets whose classes are among its own, and what its reports say."""
    return tuple(_model(card, fitting(card, datasets), reports.get(card.name, ()), runs) for card in cards)


def fitting(card: ModelCard, datasets: Sequence[DatasetCard]) -> tuple[str, ...]:
    """Return the names of the data sets that a model can be shown, each once."""
    return tuple(dataset.name for dataset in datasets if links.fits(dataset, card))


def datasets(
    cards: Sequence[DatasetCard], models: Sequence[ModelCard], runs: Sequence[RunCard] = ()
) -> tuple[DataRow, ...]:
    """Return a row per data set, with the models it fits, or why it fits none."""
    return tuple(
        DataRow(
            card.name,
            f"{card.count:,}",
            f"{card.size[0]} × {card.size[1]}, {'colour' if card.channels == 3 else 'grey'}",
            f"{len(card.classes)} ({_each(card.class_counts)} images each)",
            _origin(card, sum(run.data == card.name for run in runs)),
            card.warnings,
            tuple(model.name for model in models if links.fits(card, model)),
            misfit(card, models),
        )
        for card in cards
    )


def misfit(card: DatasetCard, models: Sequence[ModelCard]) -> str:
    """Return why a data set can be shown to no model, and what to do; empty where it can be shown to one."""
    reasons = [(model.name, links.misfit(card, model)) for model in models]
    if not reasons:
        return ""
    if not all(why for _, why in reasons):
        return ""
    shown = "; ".join(f"{name}: {why}" for name, why in reasons[:MISFITS_SHOWN])
    more = f"; and {len(reasons) - MISFITS_SHOWN} more" if len(reasons) > MISFITS_SHOWN else ""
    is_numbered = card.classes == tuple(map(str, range(len(card.classes))))
    advice = (
        " Its classes have numbers for names: add it again with the class names of the model." if is_numbered else ""
    )
    return f"Fits no model here. {shown}{more}.{advice}"


def _origin(card: ModelCard | DatasetCard, audits: int) -> Origin:
    return Origin(
        card.source or "not known",
        card.licence or "not stated",
        card.added[:16].replace("T", " "),
        card.content_hash,
        audits,
    )


def files(entries: Sequence[Entry]) -> tuple[tuple[str, str, str, str], ...]:
    """Return what lies in the import folder: name, kind, size and when it was written, the latest first."""
    ordered = sorted(entries, key=lambda entry: entry.modified, reverse=True)
    return tuple(
        (
            f"{entry.name}{'/' if entry.kind == 'folder' else ''}",
            KINDS[entry.kind],
            "" if entry.kind == "folder" else _bytes(entry.bytes),
            entry.modified[:16].replace("T", " "),
        )
        for entry in ordered
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
    classes = (("", "choose …"), *_class_sources(entries, cards))
    return (
        Field("entry", "Weights", "menu", weights[0][0], "A safetensors file or a state_dict.", weights),
        Field("name", "Name", "text", "", "Letters, digits, '.', '_' and '-'."),
        Field("architecture", "Architecture", "text", "", "For example cifar_resnet20, mobilenet_v2, resnet50.", names),
        Field("classes", "Class names", "menu", "", "In the order of the logits.", classes),
        Field("mean", "Mean", "text", "", "Of each channel; empty for the architecture's usual one."),
        Field("std", "Standard deviation", "text", "", "Of each channel; empty for the usual one."),
        Field("size", "Input size", "text", "", "Pixels, such as 224; empty for the usual one."),
        Field("resize", "Resize first", "text", "", "Shortest side before the centre is cut out, such as 256."),
        Field("channels", "Channel order", "menu", "rgb", "In which the network takes colours.", (("rgb", "RGB"), ("bgr", "BGR"))),
        Field("range", "White is", "menu", "1", "On this scale mean and deviation are given.", (("1", "1"), ("255", "255"))),
        Field("accuracy", "Claimed accuracy", "text", "", "Such as 0.915; it is checked."),
        Field("licence", "Licence", "text", "", LICENCE_HELP),
    )  # fmt: skip


LICENCE_HELP: Final = "It came under, such as Apache-2.0; shown beside it."


def data_form(entries: Sequence[Entry], cards: Sequence[DatasetCard]) -> tuple[Field, ...]:
    """Return the fields that add a data set; empty where the import folder holds none."""
    sources = tuple((entry.key, _titled(entry)) for entry in entries if entry.kind in ("npz", "folder", "csv"))
    folders = tuple((entry.key, _titled(entry)) for entry in entries if entry.kind == "folder")
    if not sources:
        return ()
    classes = (("", "as the source names them"), *_class_sources(entries, cards))
    help = "An npz, a folder with one folder per class, or a CSV table that lies beside the folder of its pictures."
    return (
        Field("entry", "Images", "menu", sources[0][0], help, sources),
        Field("name", "Name", "text", "", "Letters, digits, '.', '_' and '-'."),
        Field("classes", "Class names", "menu", "", "In the order of the labels; those of the model, else it fits none.", classes),
        Field("epsilon", "Usual epsilon", "text", "", "That menus start with, such as 8/255."),
        Field("images", "Pictures of the table", "menu", "", "The folder whose pictures a table names.", (("", "none"), *folders)),
        Field("first_label", "First label is", "menu", "0", "Of a table or an npz file.", (("0", "0"), ("1", "1"))),
        Field("size", "Fit to size", "text", "", "Pixels, for pictures of other sizes."),
        Field("licence", "Licence", "text", "", LICENCE_HELP),
    )  # fmt: skip


def order(kind: str, values: object) -> ModelOrder | DataOrder:
    """Return what a form was filled with; raises WrongField for what a form cannot hold, all fields at once."""
    given = values if isinstance(values, Mapping) else {}
    texts = {name: str(value).strip()[:LONGEST] for name, value in given.items() if isinstance(value, str)}
    _require(kind, texts)
    if kind == "data":
        return DataOrder(
            texts["entry"],
            texts["name"],
            texts.get("classes") or None,
            texts.get("size") or None,
            texts.get("epsilon", ""),
            texts.get("images") or None,
            1 if texts.get("first_label") == "1" else 0,
            texts.get("licence", ""),
        )
    optional: dict[str, Any] = {name: texts.get(name) or None for name in MODEL_TEXTS}
    return ModelOrder(
        texts["entry"],
        texts["name"],
        texts["architecture"],
        texts["classes"],
        resize=int(texts["resize"]) if texts.get("resize") else None,
        channels=texts.get("channels", "rgb"),
        range=texts.get("range", "1"),
        licence=texts.get("licence", ""),
        **optional,
    )


NEEDED: Final = {
    "entry": "Choose a file of the import folder.",
    "name": "Give it a name.",
    "architecture": "Say which network the weights are of.",
    "classes": "Choose a text file with one class name per line, or a data set that has the same classes.",
}


def _require(kind: str, texts: Mapping[str, str]) -> None:
    """Raise WrongField with everything that the form itself can tell."""
    needed = ("entry", "name") if kind == "data" else tuple(NEEDED)
    mistakes = {name: NEEDED[name] for name in needed if not texts.get(name)}
    if texts.get("name") and not NAME.fullmatch(texts["name"]):
        mistakes["name"] = "Use 1 to 64 letters, digits, '.', '_' and '-', and begin with a letter or digit."
    if texts.get("resize") and not WHOLE.fullmatch(texts["resize"]):
        mistakes["resize"] = f"Write a whole number of pixels, such as 256, not '{texts['resize'][:20]}'."
    for name in ("mean", "std") if kind == "model" else ():
        if texts.get(name) and not NUMBERS.fullmatch(texts[name]):
            mistakes[name] = f"Write a number for each channel, such as 0.485, 0.456, 0.406, not '{texts[name][:20]}'."
    if texts.get("epsilon") and not STRENGTH.fullmatch(texts["epsilon"]):
        mistakes["epsilon"] = f"Write a number such as 8/255 or 0.05, not '{texts['epsilon'][:20]}'."
    if mistakes:
        raise WrongField(mistakes)


NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WHOLE: Final = re.compile(r"[0-9]{1,5}")
NUMBERS: Final = re.compile(r"\s*-?[0-9.]+(?:[\s,]+-?[0-9.]+)*\s*")
STRENGTH: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?(?:/[0-9]{1,12}(?:\.[0-9]{1,12})?)?")


def mistake(kind: str, text: str) -> tuple[str, str]:
    """Return the field that an error of an order is about, and the error in the words of the form."""
    field = next(name for pattern, name in FIELDS_OF.get(kind, (("", ""),)) if re.search(pattern, text))
    return field, _remedy(text)


def _remedy(text: str) -> str:
    """Return a remedy in the words of the forms, where the command line has options."""
    for option, label in OPTIONS.items():
        text = text.replace(option, label)
    return text


def _each(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _model(
    card: ModelCard, names: Sequence[str], reports: Sequence[ValidationReport], runs: Sequence[RunCard]
) -> ModelRow:
    sites, maps = len(card.sites), sum(site.channels for site in card.sites)
    said = tuple(f"{SHORT_VERDICTS[report.verdict]}, on {report.data or 'noise'}" for report in reports)
    return ModelRow(
        card.name,
        card.architecture,
        f"{maps:,} in {sites} layers, {card.parameters:,} parameters",
        f"{card.size[0]} × {card.size[1]}, {card.order.upper() if card.channels == 3 else 'grey'}",
        f"{len(card.classes):,}",
        _origin(card, sum(card.name in (run.model, run.baseline) for run in runs)),
        (*((name, name) for name in names), ("", NO_DATA)),
        said or (UNCHECKED,),
    )


def _titled(entry: Entry) -> str:
    return f"{entry.name}/" if entry.kind == "folder" else f"{entry.name} ({_bytes(entry.bytes)})"


def _bytes(count: int) -> str:
    if count < KIB:
        return f"{count} bytes"
    size = count / KIB
    return f"{size / KIB:.1f} MiB" if size >= KIB else f"{size:.0f} KiB"


def _class_sources(entries: Sequence[Entry], cards: Sequence[DatasetCard]) -> tuple[Option, ...]:
    stored = tuple((f"data:{card.name}", f"those of data set {card.name}") for card in cards)
    return (*((entry.key, entry.name) for entry in entries if entry.kind == "classes"), *stored)
