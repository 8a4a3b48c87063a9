"""Adding what lies in the inbox to the store, in a worker: the same steps as the commands, and nothing half-added."""

from __future__ import annotations

from engine.attacks import catalogue as attacks
from engine.data import catalogue, intake, manifest
from engine.intake import inbox
from engine.models import load, written
from engine.records.imports import DataTask, ModelTask, Taken
from engine.store import Store


def model(store: Store, task: ModelTask) -> Taken:
    """Add a model; raises BadInput, UnknownName and Unsupported, and then nothing is stored."""
    order = task.order
    weights = inbox.unchanged(task.weights, order.entry)
    classes = _classes(store, order.classes, task.classes)
    declared = written.declared(order)
    added = load.add(store, load.Submission(order.name, order.architecture, weights, classes, declared))
    return Taken(added.card.name, added.notes)


def data(store: Store, task: DataTask) -> Taken:
    """Add a data set; raises BadInput, and then nothing is stored."""
    order = task.order
    if order.epsilon:
        attacks.attack_at("pgd-linf", order.epsilon)
    classes = _classes(store, order.classes, task.classes) if order.classes else None
    found = _images(task, classes)
    card = catalogue.add(store, order.name, found, source=task.kind, epsilon=order.epsilon)
    return Taken(card.name, card.warnings)


def _images(task: DataTask, classes: tuple[str, ...] | None) -> intake.Images:
    order = task.order
    source, size = inbox.unchanged(task.source, order.entry), written.size(order.size)
    intake.check_options(task.kind, size, order.first_label)
    if task.kind == "npz":
        return intake.read_npz(source, classes, first_label=order.first_label)
    if task.images is not None:
        columns = manifest.Columns(first_label=order.first_label)
        return manifest.read(source, inbox.unchanged(task.images, order.images or ""), columns, classes, size=size)
    return intake.read_folder(source, classes, size=size)


def _classes(store: Store, named: str, path: str | None) -> tuple[str, ...]:
    """Return the class names of a text file, or of a stored data set named as `data:NAME`."""
    if path is not None:
        return intake.read_classes(inbox.unchanged(path, named))
    return store.data_card(named.removeprefix("data:")).classes
