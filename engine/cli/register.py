"""The subcommands `model add`, `model check` and `data add`: files in, cards and a validation report out."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import serialization
from engine.cli.command import DONE, FAILED, Reply
from engine.errors import BadInput
from engine.service import answers as at_once
from engine.service import tasks
from engine.store import Store
from engine.types import checks as validation_records
from engine.types.checks import EQUALITY_CHECKS, ValidationReport
from engine.types.core import ModelCard, bound_text
from engine.types.requests import Place

if TYPE_CHECKING:
    from engine.data.sources import Images


def demo(options: argparse.Namespace) -> Reply:
    """Put the embedded demo into a store."""
    from engine import demo as embedded

    store = Store(options.store)
    embedded.install(store)
    models = [f"{card.name} ({sum(site.channels for site in card.sites)} feature maps)" for card in store.models()]
    results = {"models": [card.name for card in store.models()], "data": embedded.DATA}
    return Reply(f"The store holds {', '.join(models)} and the data set {embedded.DATA}.", results)


def add_model(options: argparse.Namespace) -> Reply:
    """Add a model and make its validation report; a model that fails a check is stored, and said to fail (exit code 1).

    Nothing is stored, and no store made, before everything that was handed in was checked and the network proved to be the
    one handed in.
    """
    from engine.checks import model
    from engine.data import sources
    from engine.models import register

    dataset = Store(options.store, create=False).dataset(options.data) if options.data else None
    classes, declared = sources.read_classes(options.classes), register.declared(options)
    with (
        _weights(options) as file,
        register.checked(
            register.Submission(
                options.name, options.architecture, file, classes, declared, options.weights.name, options.licence
            )
        ) as result,
    ):
        if dataset is not None:
            register.require_fit(result.card, dataset)
        agreed = register.agreement(result, None if dataset is None else model.some(result.bundle, dataset))
        subject = model.Subject(result.card, result.bundle, result.network, result.card.content_hash, agreed)
        report = model.check(subject, dataset, silent)
        store = Store(options.store)
        added = register.put(store, result, agreed)
    _keep(store, report, options.data)
    text = "\n".join((_sentence(added.card), *added.notes, *validation_records.lines(report)))
    results = dataclasses.asdict(added.card) | {"notes": added.notes, "intake": _as_json(report)}
    return Reply(text, results, _code(report))


def silent(_done: int, _total: int, _message: str) -> None:
    """Report progress to nobody."""


def _keep(store: Store, report: ValidationReport, data: str) -> None:
    key = tasks.VALIDATION.key(store, Place(report.model, data or ""))
    store.records.write(tasks.VALIDATION.shelf, key, report)


def _weights(options: argparse.Namespace) -> AbstractContextManager[Path]:
    """The weights file, fetched first where the word `hub` stands in its place."""
    from engine.models import architectures as hub

    if str(options.weights) != hub.WORD:
        return nullcontext(options.weights)
    return hub.fetched(options.architecture, _tell)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def architectures(options: argparse.Namespace) -> Reply:
    """Survey torchvision's classifiers."""
    from engine.models import architectures as survey

    rows = [survey.row(name) for name in options.only or survey.surveyed_names()]
    return Reply(survey.markdown(rows), {"architectures": [dataclasses.asdict(row) for row in rows]})


def check_model(options: argparse.Namespace) -> Reply:
    """Make the validation report of a stored model, or tell the stored one."""
    answers = at_once.answers(Store(options.store, create=False), silent)
    report = at_once.result(answers, tasks.VALIDATION, Place(options.name, options.data or ""))
    text = "\n".join((f"{report.model}: {report.verdict}", *validation_records.lines(report)))
    return Reply(text, _as_json(report), _code(report))


def add_data(options: argparse.Namespace) -> Reply:
    """Add a data set."""
    from engine.data import register as catalogue
    from engine.data import sources
    from engine.specs import catalogue as attacks
    from engine.store import files

    files.require_name("data set", options.name)
    if options.epsilon:
        attacks.attack_at("pgd-linf", options.epsilon)
    classes = sources.read_classes(options.classes) if options.classes else None
    result, source = _images(options, classes)
    # No store is made before everything that was handed in is known to be usable.
    described = catalogue.card(options.name, result, source=source, epsilon=options.epsilon, licence=options.licence)
    card = catalogue.put(Store(options.store), described, result)
    per_class = f"{len(card.classes)} classes, {min(card.class_counts)} to {max(card.class_counts)} images each"
    text = f"Added {card.name}: {card.count} images of {card.size[0]} x {card.size[1]} pixels, {per_class}."
    return Reply("\n".join((text, *card.warnings)), dataclasses.asdict(card))


def _images(options: argparse.Namespace, classes: tuple[str, ...] | None) -> tuple[Images, str]:
    """The labelled images that the options name, and what kind of source they come from."""
    from engine.data import csv_table, sources
    from engine.models import register

    size = register.size(options.size)
    kind = next((kind for kind in ("csv", "folder", "npz") if getattr(options, kind)), "torchvision")
    sources.check_options(kind, size, options.first_label)
    if kind == "csv":
        image, label = options.columns
        columns = csv_table.Columns(image, label, options.first_label)
        return csv_table.read(options.csv, _needed("--images", options.images), columns, classes, size=size), kind
    if kind == "folder":
        return sources.read_folder(options.folder, classes, size=size), kind
    if kind == "npz":
        return sources.read_npz(options.npz, classes, first_label=options.first_label), kind
    from engine.data import torchvision_sets

    root = _needed("--root", options.root)
    result = torchvision_sets.read(options.torchvision, root, options.split, size=size)
    source = f"torchvision {options.torchvision} {options.split}"
    return (result if classes is None else sources.with_classes(result, classes)), source


def _needed(option: str, folder: Path | None) -> Path:
    if folder is None or not folder.is_dir():
        raise BadInput(f"{option} must name a folder, got {folder.name if folder else 'nothing'}.")
    return folder


def _code(report: ValidationReport) -> int:
    """A report with a check that was not run fails: nothing is claimed of a network on trust."""
    unchecked = any(result.check in EQUALITY_CHECKS and result.outcome != "pass" for result in report.results)
    return FAILED if report.verdict == "fail" or unchecked else DONE


def _as_json(report: ValidationReport) -> dict[str, Any]:
    return serialization.flatten(report).value | {"verdict": report.verdict}


def _sentence(card: ModelCard) -> str:
    maps = sum(site.channels for site in card.sites)
    size = f"{card.parameters:,} parameters, {len(card.sites)} layers, {maps} feature maps"
    cut = "x".join(map(str, card.size))
    resized = "" if card.resize is None else f"shortest side {card.resize}, "
    taken = f"{resized}centre {cut}, {card.order.upper() if card.channels == 3 else 'grey'}"
    return f"Added {card.name}: {card.architecture}, {size}; takes {taken}.\n{bound_text(card.sites)}"
