"""The subcommands `model add`, `model check` and `data add`: files in, cards and an intake report out."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any, Final

from engine import intake_records, serial
from engine.errors import BadInput
from engine.intake_records import IntakeReport
from engine.records import ModelCard
from engine.store import Store
from engine.told import DONE, FAILED, Told

if TYPE_CHECKING:
    from engine.data.intake import Images
    from engine.models.load import Declared

SMALLEST, LARGEST = 8, 1024
"""Pixels of an input's side."""
WHITES: Final = {"1": 1, "255": 255}


def add_model(options: argparse.Namespace) -> Told:
    """Add a model and make its intake report; a model that fails a check is stored, and said to fail."""
    from engine.data import intake
    from engine.models import load

    store = Store(options.store)
    classes = intake.read_classes(options.classes)
    submission = load.Submission(options.name, options.architecture, options.weights, classes, _declared(options))
    added = load.add(store, submission)
    report = _report(store, options.name, options.data)
    text = "\n".join((_sentence(added.card), *added.notes, *intake_records.lines(report)))
    return Told(text, dataclasses.asdict(added.card) | {"notes": added.notes, "intake": _as_json(report)})


def check_model(options: argparse.Namespace) -> Told:
    """Make the intake report of a stored model, or tell the stored one."""
    report = _report(Store(options.store, create=False), options.name, options.data)
    text = "\n".join((f"{report.model}: {report.verdict}", *intake_records.lines(report)))
    return Told(text, _as_json(report), FAILED if report.verdict == "fail" else DONE)


def add_data(options: argparse.Namespace) -> Told:
    """Add a data set."""
    from engine.attacks import catalogue as attacks
    from engine.data import catalogue, intake

    if options.epsilon:
        attacks.attack_at("pgd-linf", options.epsilon)
    classes = intake.read_classes(options.classes) if options.classes else None
    found, source = _images(options, classes)
    card = catalogue.add(Store(options.store), options.name, found, source=source, epsilon=options.epsilon)
    per_class = f"{len(card.classes)} classes, {min(card.class_counts)} to {max(card.class_counts)} images each"
    text = f"Added {card.name}: {card.count} images of {card.size[0]} x {card.size[1]} pixels, {per_class}."
    return Told("\n".join((text, *card.warnings)), dataclasses.asdict(card))


def _images(options: argparse.Namespace, classes: tuple[str, ...] | None) -> tuple[Images, str]:
    """The labelled images that the options name, and what kind of source they come from."""
    from engine.data import intake

    if options.npz:
        found = intake.read_npz(options.npz)
        return (found if classes is None else intake.with_classes(found, classes)), "npz"
    return intake.read_folder(options.folder, classes, size=_size(options.size)), "folder"


def _report(store: Store, model: str, data: str) -> IntakeReport:
    from engine import work

    place = work.Place(model, data)
    key = work.intake_key(store, place)
    work.perform(work.task("intake", key, place), str(store.root))
    return store.records.read("intake", key, IntakeReport)


def _as_json(report: IntakeReport) -> dict[str, Any]:
    return serial.flatten(report).value | {"verdict": report.verdict}


def _sentence(card: ModelCard) -> str:
    maps = sum(site.channels for site in card.sites)
    size = f"{card.parameters:,} parameters, {len(card.sites)} sites, {maps} feature maps"
    cut = "x".join(map(str, card.size))
    resized = "" if card.resize is None else f"shortest side {card.resize}, "
    taken = f"{resized}centre {cut}, {card.order.upper() if card.channels == 3 else 'grey'}"
    return f"Added {card.name}: {card.architecture}, {size}; takes {taken}."


def _declared(options: argparse.Namespace) -> Declared:
    from engine.models.load import Declared

    return Declared(
        mean=_numbers("--mean", options.mean),
        std=_numbers("--std", options.std),
        size=_size(options.size),
        resize=options.resize,
        order=options.channels,
        brightest=WHITES[options.range],
        accuracy=_share(options.accuracy),
    )


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split()) if text else None
    except ValueError as error:
        raise BadInput(f"{option} must be numbers such as 0.485,0.456,0.406, got '{text}'.") from error


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise BadInput(f"--accuracy must lie between 0 and 1, got '{text[:80]}'.")
    return share


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() and SMALLEST <= int(part) <= LARGEST for part in parts) or len(parts) > 2:
        raise BadInput(f"--size must be pixels such as 224 or 224x224, {SMALLEST} to {LARGEST}, got '{text}'.")
    return int(parts[0]), int(parts[-1])
