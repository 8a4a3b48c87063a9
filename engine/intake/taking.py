"""Adding what lies in the inbox to the store, in a worker: the same steps as the commands, and nothing half-added."""

from __future__ import annotations

from pathlib import Path

from engine.attacks import catalogue as attacks
from engine.data import catalogue, intake, manifest
from engine.intake.inbox import DataTask, ModelTask, Taken
from engine.models import load, written
from engine.store import Store


def model(store: Store, task: ModelTask) -> Taken:
    """Add a model; raises BadInput, UnknownName and Unsupported, and then nothing is stored."""
    order = task.order
    classes = _classes(store, order.classes, task.classes)
    declared = written.declared(order)
    added = load.add(store, load.Submission(order.name, order.architecture, Path(task.weights), classes, declared))
    return Taken(added.card.name, added.notes)


def data(store: Store, task: DataTask) -> Taken:
    """Add a data set; raises BadInput, and then nothing is stored."""
    order = task.order
    if order.epsilon:
        attacks.attack_at("pgd-linf", order.epsilon)
    classes = _classes(store, order.classes, task.classes) if order.classes else None
    source, size = Path(task.source), written.size(order.size)
    if task.kind == "npz":
        found = intake.read_npz(source, classes, first_label=order.first_label)
    elif task.images is not None:
        columns = manifest.Columns(first_label=order.first_label)
        found = manifest.read(source, Path(task.images), columns, classes, size=size)
    else:
        found = intake.read_folder(source, classes, size=size)
    card = catalogue.add(store, order.name, found, source=task.kind, epsilon=order.epsilon)
    return Taken(card.name, card.warnings)


def _classes(store: Store, named: str, path: str | None) -> tuple[str, ...]:
    """Return the class names of a text file, or of a stored data set named as `data:NAME`."""
    if path is not None:
        return intake.read_classes(Path(path))
    return store.data_card(named.removeprefix("data:")).classes
