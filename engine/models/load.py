"""From weights in a file to a model in the store, and from the store to a bundle."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from engine import keys
from engine.errors import BadInput
from engine.models import architectures, weights
from engine.models import bundle as bundles
from engine.models.bundle import Identity, ModelBundle, Preprocessing
from engine.records import ModelCard
from engine.store.store import Store


@dataclass(frozen=True, slots=True)
class Submission:
    """A model as it is handed in."""

    name: str
    architecture: str
    weights: Path
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """A model in the store, and what was done to its weights on the way."""

    card: ModelCard
    notes: tuple[str, ...]


def add(store: Store, submission: Submission) -> Added:
    """Check a submission, find its sites, and put it into the store.

    Raises BadInput (weights that do not fit or are no weights file), UnknownName and Unsupported; then nothing is stored.
    """
    with weights.opened(submission.weights) as found:
        card = _card(submission, found.tensors)
        store.add_model(card, found.file)
        return Added(store.model_card(submission.name), found.notes)


def _card(submission: Submission, tensors: dict[str, Tensor]) -> ModelCard:
    declared = _preprocessing(submission, tensors)
    network = architectures.build(submission.architecture, tensors, len(submission.classes))
    made = bundles.bundle(network, declared, Identity(submission.classes, submission.name))
    return ModelCard(
        name=submission.name,
        architecture=submission.architecture,
        content_hash=content_hash(submission.architecture, tensors, declared, submission.classes),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        classes=submission.classes,
        channels=declared.channels,
        size=declared.size,
        mean=declared.mean,
        std=declared.std,
        sites=made.sites,
        links=made.links,
        added=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )


def bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with all of its sites. Raises UnknownName."""
    return bundles.bundle(*_parts(store, name))


def block_bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with the stem and block outputs as its only sites. Raises UnknownName."""
    return bundles.block_bundle(*_parts(store, name))


def _parts(store: Store, name: str) -> tuple[nn.Module, Preprocessing, Identity]:
    card = store.model_card(name)
    network = architectures.build(card.architecture, weights.read(store.weights(name)), len(card.classes))
    declared = Preprocessing(card.channels, card.size, card.mean, card.std)
    return network, declared, Identity(card.classes, name, card.content_hash)


def content_hash(architecture: str, found: dict[str, Tensor], declared: Preprocessing, classes: tuple[str, ...]) -> str:
    """Return the hash of everything that decides what the model answers."""
    tensors = tuple((key, keys.array_hash(found[key].cpu().numpy())) for key in sorted(found))
    return keys.content_key((architecture, tensors, declared, classes))


def _preprocessing(submission: Submission, tensors: dict[str, Tensor]) -> Preprocessing:
    usual = architectures.architecture(submission.architecture)
    # Files list their tensors by name: SqueezeNet's `classifier` stands before its first convolution.
    found = [tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 4] or [len(usual.mean)]
    channels = len(usual.mean) if len(usual.mean) in found else found[0]
    mean = submission.mean or usual.mean
    std = submission.std or usual.std
    if len(mean) == 3 and channels == 1 and submission.mean is None:
        mean, std = (0.0,), (1.0,)
    if len(mean) != channels or len(std) != channels:
        raise BadInput(
            f"--mean and --std need {channels} values each for this network, got {len(mean)} and {len(std)}."
        )
    if not all(value > 0 for value in std):
        raise BadInput(f"--std must be positive, got {std}.")
    return Preprocessing(int(channels), submission.size or usual.size, mean, std)
