"""Models into and out of the store: read, proved to be the network that was handed in, described, loaded."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from engine import class_names, hashing
from engine.errors import BadInput, Unsupported
from engine.models import architectures, capture, checkpoints, plugins
from engine.models import network as bundles
from engine.models.architectures import Architecture
from engine.models.network import Identity, ModelBundle, Preprocessing
from engine.store import files
from engine.store.store import Dataset, Store
from engine.types.core import ChannelOrder, ModelCard

SAME = 1e-5
"""Largest difference of two answers, as a share of how far logits differ between pictures, that rounding may explain."""
ALONE = 8
"""Pictures that are also answered one at a time."""
TOGETHER = 8
"""Pictures of a batch."""
IN_DOUBLE = 2
"""Pictures that are answered alone in float64 where float32 leaves more than `SAME`."""
ROUNDING = 1e-2
"""Difference from which on none is taken for rounding."""
LEAST = 64
"""Pictures that are compared when a model is added or checked."""
AT_LOADING = 4
"""Pictures that are compared each time a network is made ready for use."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the answers of two networks to the same pictures differ, as shares of how far logits differ between pictures."""

    pictures: int
    together: float
    """In batches: the audited network against the module."""
    alone: float
    """One at a time: the audited network against the module."""
    beside_others: float
    """The module in batches against the module one at a time: whether a picture's answer depends on the others."""

    @property
    def holds(self) -> bool:
        """Whether the audited network is the one that was handed in. Answers that are not finite differ from nothing."""
        return all(error <= SAME for error in (self.together, self.alone, self.beside_others))


def require(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Agreement:
    """Return how far the audited network agrees with the untouched one; raises Unsupported where it is another function."""
    result = compare(network, bundle, images)
    if not result.holds:
        raise Unsupported(sentence(result))
    return result


def sentence(agreement: Agreement) -> str:
    """Return what was compared, for people."""
    worst = max(agreement.together, agreement.alone)
    if agreement.holds:
        return (
            f"On {agreement.pictures} pictures, in batches and alone, logits differ from those of the module handed in by at most "
            f"{worst:.0e} of their range over the pictures."
        )
    if agreement.beside_others > SAME:
        return (
            f"The network answers a picture differently in a batch than alone (by {agreement.beside_others:.0e} of the range of "
            "logits): its answers depend on the batch, or on what it was asked before."
        )
    return (
        f"The network that would be audited is not the one handed in: logits differ by {worst:.0e} of their range over "
        f"{agreement.pictures} pictures. Its forward does something that cannot be captured: write it in plain operations."
    )


def pictures_to_compare(bundle: ModelBundle, count: int, real: Tensor | None = None) -> Tensor:
    """Return `count` pictures (count, channels, height, width) in [0, 1]: at most three quarters real ones, the others made up.

    Made up are black, white, noise and smooth patterns of several contrasts: a network may treat some of them otherwise.
    """
    shape = bundle.channels, *bundle.size
    generator = torch.Generator("cpu").manual_seed(0)
    kept = torch.zeros(0, *shape, device="cpu") if real is None else real[: count * 3 // 4].cpu()
    result = count - len(kept)
    coarse = torch.rand((result, bundle.channels, 4, 4), generator=generator, device="cpu")
    smooth = nn.functional.interpolate(coarse, size=bundle.size, mode="bilinear")
    noise = torch.rand((result, *shape), generator=generator, device="cpu")
    contrast = torch.linspace(0.1, 1.0, result, device="cpu").view(-1, 1, 1, 1)
    drawn = torch.where(torch.arange(result, device="cpu").view(-1, 1, 1, 1) % 2 == 0, smooth, noise) * contrast
    drawn[:2] = torch.tensor([0.0, 1.0], device="cpu").view(2, 1, 1, 1)[: len(drawn[:2])]
    return torch.cat([kept, drawn]).to(bundle.device)


@torch.no_grad()
def compare(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Agreement:
    """Return how the audited network agrees with the untouched module.

    network: as it was handed in, in evaluation mode; images: (pictures, channels, height, width) in [0, 1].
    Raises Unsupported where the module cannot answer a batch, or one picture alone.
    """
    network = network.to(bundle.device)
    parts = images.split(TOGETHER)
    expected = torch.cat([untouched(network, bundle, part) for part in parts])
    answered = torch.cat([bundle.logits(part) for part in parts])
    singles = images[:: max(1, len(images) // ALONE)][:ALONE]
    expected_alone = torch.cat([untouched(network, bundle, single[None]) for single in singles])
    answered_alone = torch.cat([bundle.logits(single[None]) for single in singles])
    rows = torch.arange(len(images), device=images.device)[:: max(1, len(images) // ALONE)][:ALONE]
    errors = (
        _error(answered, expected),
        _error(answered_alone, expected_alone),
        _error(expected[rows], expected_alone),
    )
    agreement = Agreement(len(images), *errors)
    if SAME < max(errors) < ROUNDING:
        return _in_double(network, bundle, images, _worst(answered, expected), agreement)
    return agreement


def untouched(network: nn.Module, bundle: ModelBundle, images: Tensor) -> Tensor:
    """Return the logits (batch, classes) of the module itself, with the preprocessing that was declared."""
    ordered = images if bundle.order == "rgb" else images.flip(1)
    try:
        answers = network((ordered - bundle.mean) / bundle.std)
    except Exception as error:
        many = "one picture alone" if len(images) == 1 else f"a batch of {len(images)} pictures"
        reason = " ".join(str(error).split())[:160]
        raise Unsupported(f"The network cannot answer {many}{capture.source_line(error)}: {reason}.") from error
    return capture.logits(answers, len(images))


def _error(answered: Tensor, expected: Tensor) -> float:
    if answered.shape != expected.shape:
        return float("inf")
    both = answered.isfinite() & expected.isfinite()
    if not bool((answered.isfinite() == expected.isfinite()).all()):
        return float("inf")
    difference = torch.where(both, (answered - expected).abs(), 0.0)
    # A logit that is the same for every picture, such as that of a class that is masked out, is no measure of anything.
    known = torch.where(both, expected, 0.0)
    spread = (known.amax(dim=0) - known.amin(dim=0)).max()
    return float(difference.max() / spread.clamp(min=1e-12 + 1e-9 * float(known.abs().max())))


def _worst(answered: Tensor, expected: Tensor) -> slice:
    """The batch in which answers differ most: a network may answer batches of other sizes otherwise."""
    difference = (answered - expected).abs().nan_to_num(nan=torch.inf).amax(dim=1)
    start = int(difference.argmax()) // TOGETHER * TOGETHER
    return slice(start, start + TOGETHER)


def _in_double(network: nn.Module, bundle: ModelBundle, images: Tensor, rows: slice, single: Agreement) -> Agreement:
    """Compare again in float64, where rounding leaves nothing; what cannot be computed so stands as it was found."""
    try:
        twin, original = bundles.double(bundle), copy.deepcopy(network).cpu().double()
        chosen = images[rows].cpu().double()
        expected, answered = untouched(original, twin, chosen), twin.logits(chosen)
        expected_alone = torch.cat([untouched(original, twin, item[None]) for item in chosen[:IN_DOUBLE]])
        answered_alone = torch.cat([twin.logits(item[None]) for item in chosen[:IN_DOUBLE]])
    except (Unsupported, RuntimeError, TypeError):
        return single
    errors = (
        _error(answered, expected),
        _error(answered_alone, expected_alone),
        _error(expected[:IN_DOUBLE], expected_alone),
    )
    return Agreement(single.pictures, *errors)


@torch.no_grad()
def require_same_twice(network: nn.Module, again: nn.Module, bundle: ModelBundle, images: Tensor) -> None:
    """Raise Unsupported where a module built again from the same weights answers otherwise.

    What a module draws when it is built and keeps outside of its `state_dict` (layers in a plain list, a permutation) is in no
    file: another network would be audited each time.
    """
    first, second = (untouched(item.to(bundle.device), bundle, images) for item in (network, again))
    if _error(first, second) > SAME:
        raise Unsupported(
            "The network answers otherwise each time it is built: it draws numbers that are not among its weights. Register them "
            "as buffers, and layers in an nn.ModuleList, so that the file holds them."
        )


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
    source: str = ""
    licence: str = ""


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
    with checked(submission) as result:
        return put(store, result, agreement(result))


@contextmanager
def checked(submission: Submission) -> Iterator[Checked]:
    """Yield a submission that was checked and whose sites were found; its file goes when the block ends. Raises as `add`."""
    files.require_name("model", submission.name)
    with checkpoints.opened(submission.weights) as result:
        network, results, card = _read(submission, result.tensors)
        yield Checked(card, result.file, result.notes, network, results)


def agreement(checked: Checked, images: Tensor | None = None) -> Agreement:
    """Return how the network that would be audited agrees with the one handed in, on at least 64 pictures, real ones among them.

    images: (pictures, channels, height, width) in [0, 1]. Raises Unsupported where the two are not the same function.
    """
    with plugins.guarded(checked.card.architecture):
        pictures = pictures_to_compare(checked.bundle, LEAST, images)
        with torch.random.fork_rng():
            torch.manual_seed(SECOND_SEED)
            again = architectures.build(
                checked.card.architecture, checkpoints.read(checked.file), len(checked.card.classes)
            )
        require_same_twice(checked.network, again, checked.bundle, pictures[-AT_LOADING:])
        return require(checked.network, checked.bundle, pictures)


def put(store: Store, checked: Checked, agreed: Agreement) -> Added:
    """Put a model into the store; `agreed` says that it is the one handed in. Raises BadInput where another one has its name."""
    if not agreed.holds:
        raise Unsupported(sentence(agreed))
    store.add_model(checked.card, checked.file)
    return Added(store.model_card(checked.card.name), (*checked.notes, *class_names.remarks(checked.card.classes)))


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
        bundle = bundles.bundle(network, declared, Identity(submission.classes, submission.name, own_hash))
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
        sites=bundle.sites,
        links=bundle.links,
        added=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        resize=declared.resize,
        order=declared.order,
        plugin=plugin,
        declared_accuracy=submission.declared.accuracy,
        source=submission.source,
        licence=submission.licence,
    )
    return network, bundle, card


def bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with all of its sites. Raises UnknownName."""
    return _bundled(store, name, bundles.bundle)


def block_bundle(store: Store, name: str) -> ModelBundle:
    """Return the bundle of a stored model with the stem and block outputs as its only sites. Raises UnknownName."""
    return _bundled(store, name, bundles.block_bundle)


def _bundled(store: Store, name: str, make: Callable[[nn.Module, Preprocessing, Identity], ModelBundle]) -> ModelBundle:
    card, untouched = store.model_card(name), network(store, name)
    with plugins.guarded(card.architecture):
        result = make(untouched, _declared(card), Identity(card.classes, name, card.content_hash))
        require(untouched, result, pictures_to_compare(result, AT_LOADING))
    _require_same_sites(card, result)
    return result


def network(store: Store, name: str) -> nn.Module:
    """Return the module of a stored model as it was handed in, in evaluation mode. Raises UnknownName."""
    card = store.model_card(name)
    _require_same_plugin(card)
    return architectures.build(card.architecture, checkpoints.read(store.weights(name)), len(card.classes))


def _require_same_sites(card: ModelCard, model_bundle: ModelBundle) -> None:
    """What is stored of a model speaks of its sites: those must be the ones that are read now. Raises BadInput."""
    known = {(site.name, site.channels, site.height, site.width) for site in card.sites}
    other = [
        site.name for site in model_bundle.sites if (site.name, site.channels, site.height, site.width) not in known
    ]
    if other or len(model_bundle.sites) not in (len(card.sites), sum(site.role != "inner" for site in card.sites)):
        result = other[0] if other else f"{len(model_bundle.sites)} layers instead of {len(card.sites)}"
        raise BadInput(
            f"'{card.name}' was added by another version of Faultline, which read its layers otherwise ({result}); what "
            "is stored of "
            "it stays readable. Add the model again under another name."
        )


def stored_hash(store: Store, name: str) -> str:
    """Return the content hash of a stored model as it lies there now. Raises UnknownName."""
    card = store.model_card(name)
    return content_hash(
        _named(card.architecture, card.plugin), checkpoints.read(store.weights(name)), _declared(card), card.classes
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


def content_hash(
    architecture: str, values: dict[str, Tensor], declared: Preprocessing, classes: tuple[str, ...]
) -> str:
    """Return the hash of everything that decides what the model answers."""
    tensors = tuple((key, hashing.array_hash(values[key].cpu().numpy())) for key in sorted(values))
    return hashing.content_key((architecture, tensors, declared, classes))


def _preprocessing(submission: Submission, tensors: dict[str, Tensor]) -> Preprocessing:
    usual, declared = architectures.architecture(submission.architecture), submission.declared
    # Files list their tensors by name: SqueezeNet's `classifier` stands before its first convolution.
    results = {tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 4}
    channels = next((item for item in (len(usual.mean), *CHANNELS) if item in results), len(usual.mean))
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


DIGITS: Final = 5
"""Of a number of pixels: longer ones are not even read."""
WHITES: Final = {"1": 1, "255": 255}
ORDERS: Final[dict[str, ChannelOrder]] = {"rgb": "rgb", "bgr": "bgr"}


class Written(Protocol):
    """The options of `model add` that say how pictures are prepared."""

    @property
    def mean(self) -> str | None: ...

    @property
    def std(self) -> str | None: ...

    @property
    def size(self) -> str | None: ...

    @property
    def resize(self) -> int | None: ...

    @property
    def channels(self) -> str: ...

    @property
    def range(self) -> str: ...

    @property
    def accuracy(self) -> str | None: ...


def declared(options: Written) -> Declared:
    """Return what the options say; raises BadInput for what is not written as it should be."""
    if options.channels not in ORDERS or options.range not in WHITES:
        raise BadInput(f"--channels must be {' or '.join(ORDERS)} and --range {' or '.join(WHITES)}.")
    return Declared(
        mean=_numbers("--mean", options.mean),
        std=_numbers("--std", options.std),
        size=size(options.size),
        resize=options.resize,
        order=ORDERS[options.channels],
        brightest=WHITES[options.range],
        accuracy=_share(options.accuracy),
    )


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        result = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        result = ()
    if not result or not all(map(math.isfinite, result)):
        raise BadInput(f"{option} must be numbers such as 0.485,0.456,0.406, got '{text[:80]}'.")
    return result


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


def size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of `224` or `224x192`; raises BadInput."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(map(_is_side, parts)):
        raise BadInput(f"--size must be pixels such as 224 or 224x224, {SMALLEST} to {LARGEST}, got '{text[:80]}'.")
    return int(parts[0]), int(parts[-1])


def _is_side(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= DIGITS and SMALLEST <= int(part) <= LARGEST
