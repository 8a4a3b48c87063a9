"""From weights in a file to a model in the store, and from the store to a bundle."""

from __future__ import annotations

import datetime
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from engine import keys
from engine.errors import BadInput
from engine.models import architectures
from engine.models import bundle as bundles
from engine.models.bundle import Identity, ModelBundle, Preprocessing
from engine.records import ModelCard
from engine.store.store import Store

LARGEST_HEADER = 20_000_000
"""Bytes: safetensors' own cap is 100 MB; a network of a million tensors would still fit here."""


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


def add(store: Store, submission: Submission) -> ModelCard:
    """Check a submission, find its sites, and put it into the store.

    Raises BadInput (weights that do not fit or are no safetensors file), UnknownName and Unsupported; then nothing is
    stored.
    """
    weights = read(submission.weights)
    declared = _preprocessing(submission, weights)
    network = architectures.build(submission.architecture, weights, len(submission.classes))
    made = bundles.bundle(network, declared, Identity(submission.classes, submission.name))
    card = ModelCard(
        name=submission.name,
        architecture=submission.architecture,
        content_hash=content_hash(submission.architecture, weights, declared, submission.classes),
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
    store.add_model(card, submission.weights)
    return store.model_card(submission.name)


def bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with all of its sites. Raises UnknownName."""
    return bundles.bundle(*_parts(store, name))


def block_bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with the stem and block outputs as its only sites. Raises UnknownName."""
    return bundles.block_bundle(*_parts(store, name))


def _parts(store: Store, name: str) -> tuple[nn.Module, Preprocessing, Identity]:
    card = store.model_card(name)
    network = architectures.build(card.architecture, read(store.weights(name)), len(card.classes))
    declared = Preprocessing(card.channels, card.size, card.mean, card.std)
    return network, declared, Identity(card.classes, name, card.content_hash)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises BadInput in one line; no other format is ever opened."""
    if not path.is_file():
        raise BadInput(f"There is no weights file {path.name}.")
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        brace = file.read(1)
    if brace != b"{" or size > min(LARGEST_HEADER, path.stat().st_size):
        raise BadInput(
            f"{path.name} is not a safetensors file; pickled models are never opened. Save the state_dict with safetensors."
        )
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is damaged: {str(error).splitlines()[0][:160]}.") from error
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise BadInput(f"{path.name} holds NaN or infinity in {broken[0]}.")
    return tensors


def content_hash(
    architecture: str, weights: dict[str, Tensor], declared: Preprocessing, classes: tuple[str, ...]
) -> str:
    """Return the hash of everything that decides what the model answers."""
    tensors = tuple((key, keys.array_hash(weights[key].cpu().numpy())) for key in sorted(weights))
    return keys.content_key((architecture, tensors, declared, classes))


def _preprocessing(submission: Submission, weights: dict[str, Tensor]) -> Preprocessing:
    usual = architectures.architecture(submission.architecture)
    # Files list their tensors by name: SqueezeNet's `classifier` stands before its first convolution.
    found = [tensor.shape[1] for tensor in weights.values() if tensor.ndim == 4] or [len(usual.mean)]
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
