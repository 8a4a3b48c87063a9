"""From weights in a file to a model in the store, and from the store to a bundle."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import class_names, keys
from engine.errors import BadInput, Unsupported
from engine.models import architectures, plugins, same_function, weights
from engine.models import bundle as bundles
from engine.models.architectures import Architecture
from engine.models.bundle import Identity, ModelBundle, Preprocessing
from engine.models.same_function import Agreement
from engine.records import ChannelOrder, ModelCard
from engine.store import names
from engine.store.dataset import Dataset
from engine.store.store import Store

SMALLEST, LARGEST = 8, 1024
"""Pixels of an input's side."""
LARGEST_RESIZE = 2 * LARGEST
"""Pixels of a picture's shortest side before its centre is cut out."""
CHANNELS = (1, 3)
"""Grey or colour; an architecture may declare another number."""
SECOND_SEED = 20_211_107
"""Of the second time a network is built: what it draws must not matter."""
LARGEST_MEAN = 2.0
"""Of a channel on a scale from 0 to 1; what is larger was meant on a scale from 0 to 255."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of a network's input; what is None is as usual for the architecture."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    order: ChannelOrder = "rgb"
    brightest: int = 1
    """Value of a white pixel, 1 or 255, on whose scale `mean` and `std` are given; with 255 nothing else is usual."""
    accuracy: float | None = None
    """Clean accuracy that is claimed, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A model as it is handed in."""

    name: str
    architecture: str
    weights: Path
    classes: tuple[str, ...]
    declared: Declared = Declared()


@dataclass(frozen=True, eq=False, slots=True)
class Checked:
    """A model that was read and can be put into a store once it is proved to be the network that was handed in."""

    card: ModelCard
    file: Path
    """Its weights as safetensors."""
    notes: tuple[str, ...]
    network: nn.Module
    """The module as it was handed in, in evaluation mode."""
    bundle: ModelBundle
    """The network that would be audited."""


@dataclass(frozen=True, slots=True)
class Added:
    """A model in the store, and what was done to its weights on the way."""

    card: ModelCard
    notes: tuple[str, ...]


def add(store: Store, submission: Submission) -> Added:
    """Check a submission, find its sites, and put it into the store.

    Raises BadInput (weights that do not fit or are no weights file), UnknownName and Unsupported (also where the network that
    would be audited is another function than the one handed in); then nothing is stored.
    """
    with checked(submission) as found:
        return put(store, found, agreement(found))


@contextmanager
def checked(submission: Submission) -> Iterator[Checked]:
    """Yield a submission that was checked and whose sites were found; its file goes when the block ends. Raises as `add`."""
    names.require_name("model", submission.name)
    with weights.opened(submission.weights) as found:
        network, made, card = _read(submission, found.tensors)
        yield Checked(card, found.file, found.notes, network, made)


def agreement(found: Checked, images: Tensor | None = None) -> Agreement:
    """Return how the network that would be audited agrees with the one handed in, on at least 64 pictures, real ones among them.

    images: (pictures, channels, height, width) in [0, 1]. Raises Unsupported where the two are not the same function.
    """
    with plugins.guarded(found.card.architecture):
        pictures = same_function.pictures(found.bundle, same_function.LEAST, images)
        with torch.random.fork_rng():
            torch.manual_seed(SECOND_SEED)
            again = architectures.build(found.card.architecture, weights.read(found.file), len(found.card.classes))
        same_function.require_same_twice(found.network, again, found.bundle, pictures[-same_function.AT_LOADING :])
        return same_function.require(found.network, found.bundle, pictures)


def put(store: Store, found: Checked, proof: Agreement) -> Added:
    """Put a model into the store; `proof` says that it is the one handed in. Raises BadInput where another one has its name."""
    if not proof.holds:
        raise Unsupported(same_function.sentence(proof))
    store.add_model(found.card, found.file)
    return Added(store.model_card(found.card.name), (*found.notes, *class_names.remarks(found.card.classes)))


def require_fit(card: ModelCard, dataset: Dataset) -> None:
    """Raise BadInput where a model cannot be tried on a data set: its classes or channels are others."""
    dataset.labels_for_classes(card.classes)
    channels = dataset.card.channels
    if channels != card.channels and (channels, card.channels) != (1, 3):
        raise BadInput(
            f"The images of '{dataset.card.name}' have {channels} channels that differ, and the network takes "
            f"{card.channels}; use a data set of such images."
        )


def _read(submission: Submission, tensors: dict[str, Tensor]) -> tuple[nn.Module, ModelBundle, ModelCard]:
    declared = _preprocessing(submission, tensors)
    plugin = architectures.architecture(submission.architecture).plugin
    network = architectures.build(submission.architecture, tensors, len(submission.classes))
    with plugins.guarded(submission.architecture):
        own_hash = content_hash(_named(submission.architecture, plugin), tensors, declared, submission.classes)
        made = bundles.bundle(network, declared, Identity(submission.classes, submission.name, own_hash))
    card = ModelCard(
        name=submission.name,
        architecture=submission.architecture,
        content_hash=own_hash,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        classes=submission.classes,
        channels=declared.channels,
        size=declared.size,
        mean=declared.mean,
        std=declared.std,
        sites=made.sites,
        links=made.links,
        added=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        resize=declared.resize,
        order=declared.order,
        plugin=plugin,
        declared_accuracy=submission.declared.accuracy,
    )
    return network, made, card


def bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with all of its sites. Raises UnknownName."""
    return _bundled(store, name, bundles.bundle)


def block_bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with the stem and block outputs as its only sites. Raises UnknownName."""
    return _bundled(store, name, bundles.block_bundle)


def _bundled(store: Store, name: str, make: Callable[[nn.Module, Preprocessing, Identity], ModelBundle]) -> ModelBundle:
    card, untouched = store.model_card(name), network(store, name)
    with plugins.guarded(card.architecture):
        made = make(untouched, _declared(card), Identity(card.classes, name, card.content_hash))
        same_function.require(untouched, made, same_function.pictures(made, same_function.AT_LOADING))
    _require_same_sites(card, made)
    return made


def network(store: Store, name: str) -> nn.Module:
    """Return the module of a stored model as it was handed in, in evaluation mode. Raises UnknownName."""
    card = store.model_card(name)
    _require_same_plugin(card)
    return architectures.build(card.architecture, weights.read(store.weights(name)), len(card.classes))


def _require_same_sites(card: ModelCard, made: ModelBundle) -> None:
    """What is stored of a model speaks of its sites: those must be the ones that are read now. Raises BadInput."""
    known = {(site.name, site.channels, site.height, site.width) for site in card.sites}
    other = [site.name for site in made.sites if (site.name, site.channels, site.height, site.width) not in known]
    if other or len(made.sites) not in (len(card.sites), sum(site.role != "inner" for site in card.sites)):
        told = other[0] if other else f"{len(made.sites)} sites instead of {len(card.sites)}"
        raise BadInput(
            f"'{card.name}' was added by another version of Faultline, which read its layers otherwise ({told}); what is stored of "
            "it stays readable. Add the model again under another name."
        )


def stored_hash(store: Store, name: str) -> str:
    """Return the content hash of a stored model as it lies there now. Raises UnknownName."""
    card = store.model_card(name)
    return content_hash(
        _named(card.architecture, card.plugin), weights.read(store.weights(name)), _declared(card), card.classes
    )


def _require_same_plugin(card: ModelCard) -> None:
    """A plug-in is run again only if its source is what the model was added with. Raises BadInput."""
    if card.plugin and plugins.source_hash(card.architecture) != card.plugin:
        raise BadInput(
            f"The source of '{card.architecture}' changed since '{card.name}' was added; add the model again under another name."
        )


def _named(architecture: str, plugin: str) -> str:
    """An architecture's name; a plug-in's source is part of what it means."""
    return f"{architecture}@{plugin}" if plugin else architecture


def _declared(card: ModelCard) -> Preprocessing:
    return Preprocessing(card.channels, card.size, card.mean, card.std, card.resize, card.order)


def content_hash(architecture: str, found: dict[str, Tensor], declared: Preprocessing, classes: tuple[str, ...]) -> str:
    """Return the hash of everything that decides what the model answers."""
    tensors = tuple((key, keys.array_hash(found[key].cpu().numpy())) for key in sorted(found))
    return keys.content_key((architecture, tensors, declared, classes))


def _preprocessing(submission: Submission, tensors: dict[str, Tensor]) -> Preprocessing:
    usual, declared = architectures.architecture(submission.architecture), submission.declared
    # Files list their tensors by name: SqueezeNet's `classifier` stands before its first convolution.
    found = {tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 4}
    channels = next((one for one in (len(usual.mean), *CHANNELS) if one in found), len(usual.mean))
    mean, std = _normalisation(declared, usual, channels)
    size = declared.size or usual.size
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise BadInput(f"A network's input must be {SMALLEST} to {LARGEST} pixels high and wide, got {size}.")
    resize = declared.resize
    if resize is None and size == usual.size:
        resize = usual.resize
    if resize is not None and not max(size) <= resize <= LARGEST_RESIZE:
        raise BadInput(
            f"--resize must be at least the {max(size)} pixels that are cut out of the picture and at most "
            f"{LARGEST_RESIZE}, got {resize}."
        )
    if declared.order == "bgr" and channels != 3:
        raise BadInput(f"--channels bgr needs a network of 3 channels, this one has {channels}.")
    return Preprocessing(channels, size, mean, std, resize, declared.order)


def _normalisation(
    declared: Declared, usual: Architecture, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, on a scale on which white is 1."""
    plain = (0.0,) * channels, (1.0,) * channels
    default = plain if declared.brightest != 1 or len(usual.mean) != channels else (usual.mean, usual.std)
    mean, std = declared.mean or default[0], declared.std or default[1]
    if len(mean) != channels or len(std) != channels:
        raise BadInput(
            f"--mean and --std need {channels} values each for this network, got {len(mean)} and {len(std)}."
        )
    if not all(value > 0 for value in std):
        raise BadInput(f"--std must be positive, got {', '.join(f'{value:g}' for value in std)}.")
    if declared.brightest == 1 and max(map(abs, mean)) > LARGEST_MEAN:
        raise BadInput(
            f"--mean is given on a scale from 0 to 255, got {mean[0]:g}; add --range 255 for such a network."
        )
    white = declared.brightest
    return tuple(value / white for value in mean), tuple(value / white for value in std)
