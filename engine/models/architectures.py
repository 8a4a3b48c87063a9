"""The registry of architectures: the project's, torchvision's and timm's, hub weights, and which can be audited."""

from __future__ import annotations

import importlib
import math
import urllib.error
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import regnet

from engine.errors import BadInput, UnknownName, Unsupported
from engine.models import checkpoints, graph, paths, plugins, zoo
from engine.models import network as bundles
from engine.models.network import Identity, Preprocessing
from engine.types.core import Site

PREFIX: Final = "timm/"


def build_timm(name: str, classes: int) -> nn.Module:
    """Return a network with random weights. Raises UnknownName, BadInput."""
    library = _library(name)
    # Without fused attention or scripted layers the network can be traced.
    return library.create_model(name.removeprefix(PREFIX), pretrained=False, num_classes=classes, exportable=True)


def preprocessing(name: str) -> Mapping[str, Any]:
    """Return `size` (height, width), `resize`, `mean` and `std` as timm declares them. Raises UnknownName, BadInput."""
    declared = _library(name).get_pretrained_cfg(name.removeprefix(PREFIX)).to_dict()
    _, height, width = declared["input_size"]
    resize = math.floor(min(height, width) / declared.get("crop_pct", 1.0))
    return {"size": (height, width), "resize": resize, "mean": tuple(declared["mean"]), "std": tuple(declared["std"])}


def _library(name: str) -> ModuleType:
    try:
        library = importlib.import_module("timm")
    except ImportError as error:
        raise BadInput(f"'{name}' needs timm, which is not installed here: pip install timm.") from error
    known = library.list_models()
    if name.removeprefix(PREFIX) not in known:
        raise UnknownName("architecture of timm", name, [f"{PREFIX}{item}" for item in known])
    return library


WORD: Final = "hub"


@contextmanager
def fetched(architecture: str, tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield a file with the first weights that torchvision published of an architecture; it goes when the block ends.

    `tell` is told the address before anything is fetched. The file's name holds the beginning of its hash, which is checked;
    it is opened as any other submitted file. Raises BadInput where there are none, or where the network does not allow it.
    """
    if architecture not in models.list_models(module=models):
        raise BadInput(f"Only torchvision's classifiers have weights on the hub; for {architecture} name a file.")
    address = next(iter(models.get_model_weights(architecture))).url
    name = Path(urlsplit(address).path).name
    with TemporaryDirectory(prefix="faultline-") as folder:
        tell(f"Fetching {address}")
        file = Path(folder) / name
        try:
            torch.hub.download_url_to_file(address, str(file), hash_prefix=_hash(name), progress=False)
        except (OSError, urllib.error.URLError, RuntimeError) as error:
            reason = str(getattr(error, "reason", error)).splitlines()[0][:120]
            raise BadInput(
                f"{name} could not be fetched ({reason}). Fetch {address} where the network allows it, and name the file: "
                f"--weights {name}."
            ) from error
        yield file


def _hash(name: str) -> str | None:
    """The beginning of the SHA-256 in a name such as `resnet50-0676ba61.pth`."""
    stem = Path(name).stem.rpartition("-")[2]
    return stem if len(stem) >= 8 and all(item in "0123456789abcdef" for item in stem) else None


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Tensors = Mapping[str, Tensor]
REWRITING = ("googlenet", "inception_v3")
"""Torchvision's versions turn ImageNet's normalisation into this one inside (`transform_input`); here it is declared."""
NAMED = 3
"""Of the weights that do not fit, so many are named."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network for given weights, and the preprocessing its weights usually want."""

    build: Callable[[Tensors, int], nn.Module]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    """Of a picture's shortest side before its centre is cut out; None where the centre is just covered."""
    plugin: str = ""
    """Hash of the plug-in's source; empty where it is none."""


def _cifar_resnet(blocks: int) -> Architecture:
    return Architecture(lambda _, classes: zoo.CifarResNet(blocks, classes), (32, 32), IMAGENET_MEAN, IMAGENET_STD)


def _robust_resnet(stem: int, width: int, stages: int) -> Architecture:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    return Architecture(lambda _, classes: zoo.RobustResNet(stem, width, stages, classes), (32, 32), mean, std)


def _small_cnn(tensors: Tensors, classes: int) -> nn.Module:
    first, linear = tensors.get("0.weight"), tensors.get("5.weight")
    shapes = [() if item is None else tuple(item.shape) for item in (first, linear)]
    # With the other sizes as they must be, a network is never larger than the file it is built for.
    fits = (*shapes[0][:1], *shapes[0][2:]) == (16, 4, 4) and len(shapes[1]) == 2 and shapes[1][0] == 100
    if first is None or linear is None or not fits:
        raise BadInput(
            "The weights do not fit small_cnn: it needs 0.weight (16, channels, 4, 4) and 5.weight (100, inputs), got "
            f"{' and '.join('nothing' if item is None else _shape(item) for item in (first, linear))}."
        )
    # 800 inputs to the first linear layer mean 28-pixel images without padding (5 x 5 x 32).
    return zoo.small_cnn(first.shape[1], classes, padding=0 if linear.shape[1] == 800 else 1, flat=linear.shape[1])


ARCHITECTURES: dict[str, Architecture] = {
    "cifar_resnet20": _cifar_resnet(3),
    "cifar_resnet32": _cifar_resnet(5),
    "cifar_resnet44": _cifar_resnet(7),
    "cifar_resnet56": _cifar_resnet(9),
    "resnet2b": _robust_resnet(8, 16, 1),
    "resnet4b": _robust_resnet(16, 32, 2),
    "small_cnn": Architecture(_small_cnn, (32, 32), (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)),
    "preact_resnet18": Architecture(zoo.preact_resnet18, (32, 32), zoo.PREACT_MEAN, zoo.PREACT_STD),
    "preact_resnet18_raw": Architecture(zoo.preact_resnet18_raw, (32, 32), zoo.PREACT_MEAN, zoo.PREACT_STD),
    "digits_resnet": Architecture(
        lambda _, classes: zoo.DigitsResNet(classes), (32, 32), zoo.DIGITS_MEAN, zoo.DIGITS_STD
    ),
}


def names() -> tuple[str, ...]:
    """Return every registered name: our own, torchvision's classifiers and the administrator's plug-ins."""
    from torchvision import models

    return (*ARCHITECTURES, *models.list_models(module=models), *plugins.names())


def architecture(name: str) -> Architecture:
    """Return a registered architecture. Raises UnknownName, and BadInput for a plug-in or timm that is not as it must be."""
    from torchvision import models

    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if name.startswith(plugins.PREFIX):
        own = plugins.plugin(name)
        return Architecture(own.build, own.size, own.mean, own.std, own.resize, own.source_hash)
    if name.startswith(PREFIX):
        return Architecture(lambda _, classes: build_timm(name, classes), **preprocessing(name))
    if name not in models.list_models(module=models):
        raise UnknownName("architecture", name, names())
    return _torchvision(name)


def _torchvision(name: str) -> Architecture:
    """A classifier with the preprocessing that torchvision declares for the first weights it published."""
    from torchvision import models

    declared = next(iter(models.get_model_weights(name))).transforms()
    mean, std = tuple(declared.mean), tuple(declared.std)
    if name in REWRITING:
        mean, std = (0.5,) * 3, (0.5,) * 3

    def network(tensors: Tensors, classes: int) -> nn.Module:
        options = _options(name, tensors, declared.crop_size[0])
        return models.get_model(name, weights=None, num_classes=classes, **options)

    (side,), (resize,) = declared.crop_size, declared.resize_size
    return Architecture(network, (side, side), mean, std, resize)


def _options(name: str, tensors: Tensors, side: int) -> dict[str, Any]:
    """What torchvision must be told: no training heads where the weights have none, and no minutes of drawing random weights."""
    if name in REWRITING:
        return {"init_weights": False, "aux_logits": any(key.startswith(("aux", "AuxLogits")) for key in tensors)}
    return {"image_size": side} if name.startswith("vit_") else {}


def build(name: str, tensors: Tensors, classes: int) -> nn.Module:
    """Return the network of `name` with these weights loaded, in eval mode.

    Raises BadInput naming the first missing, unexpected or misshapen weights when they do not fit.
    """
    with plugins.guarded(name):
        with torch.random.fork_rng():
            network = architecture(name).build(_looked_at(name, tensors), classes)
        if not isinstance(network, nn.Module):
            raise BadInput(f"'{name}' builds a {type(network).__name__}, not a torch.nn.Module.")
        wanted = network.state_dict()
        got = checkpoints.placed(wanted, tensors)
        _check_fit(name, wanted, got, classes)
        # Older files lack the batch counters of batch norm, which evaluation never reads; every other key was checked above.
        network.load_state_dict(got, strict=False)
        return network.eval()


def _looked_at(name: str, tensors: Tensors) -> Tensors:
    """The weights as a registered architecture looks for them: what stands before every name is of no network of ours."""
    before = "" if name.startswith(plugins.PREFIX) else checkpoints.common(tensors)
    return {key.removeprefix(before): tensor for key, tensor in tensors.items()}


def _check_fit(name: str, wanted: Tensors, got: Tensors, classes: int) -> None:
    missing = sorted(key for key in wanted.keys() - got.keys() if not key.endswith(checkpoints.COUNTER))
    unexpected = sorted(got.keys() - wanted.keys())
    both = sorted(wanted.keys() & got.keys())
    misshapen = [key for key in both if wanted[key].shape != got[key].shape]
    retyped = [
        key
        for key in both
        if wanted[key].is_floating_point() != got[key].is_floating_point() and not key.endswith(checkpoints.COUNTER)
    ]
    faults = [
        _fault("missing", [f"{key} {_shape(wanted[key])}" for key in missing]),
        _fault("unexpected", [f"{key[:80]} {_shape(got[key])}" for key in unexpected]),
        _fault("of another shape", [f"{key} is {_shape(got[key])}, needs {_shape(wanted[key])}" for key in misshapen]),
        _fault("of another type", [f"{key} holds {_type(got[key])}, needs {_type(wanted[key])}" for key in retyped]),
    ]
    result = "; ".join(fault for fault in faults if fault)
    if result:
        is_named = not (missing or unexpected)
        way_out = _way_out(wanted, got, misshapen, classes) if is_named else checkpoints.hint(name, wanted, got)
        raise BadInput(f"The weights do not fit {name}: {result}.{way_out}")


def _way_out(wanted: Tensors, got: Tensors, misshapen: list[str], classes: int) -> str:
    """What to do where every name fits: another list of classes, or numbers of another type."""
    if not misshapen:
        return " Save them as floating-point numbers; dequantise them first where they are quantised."
    sizes = {(*wanted[key].shape[:1], *got[key].shape[:1]) for key in misshapen}
    needs, has = (*next(iter(sizes)), 0, 0)[:2]
    is_the_last = len(sizes) == 1 and needs == classes != has
    return f" The class list names {classes} classes, the weights answer for {has}." if is_the_last else ""


def _fault(kind: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = ", …" if len(keys) > NAMED else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:NAMED])}{more})"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture of the table."""

    name: str
    side: int
    """Of its input, in pixels."""
    sites: int = 0
    maps: int = 0
    reason: str = ""
    """Why it is refused; empty where it is not."""

    def line(self) -> str:
        """Return the row in Markdown."""
        result = f"{self.sites} | {self.maps:,}" if not self.reason else f"refused | {self.reason}"
        return f"| `{self.name}` | {self.side} | {result} |"


HEAD = """# Torchvision's classifiers

Made by `python -m engine architectures`. *Layers* are the places whose feature maps are read, scored and patched; a
refused network holds something between them through which no exact share of one map in the next can be named.

| name | pixels | sites | feature maps, or reason |
|---|---|---|---|"""


def surveyed_names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers."""
    return tuple(models.list_models(module=models))


def markdown(rows: Iterable[Row]) -> str:
    """Return the table in Markdown."""
    return "\n".join((HEAD, *(row.line() for row in rows)))


def row(name: str) -> Row:
    """Return what becomes of one architecture. Shapes alone are computed, no weights are drawn."""
    side = architecture(name).size[0]
    try:
        sites, _ = taken_apart(name)
    except Unsupported as error:
        return Row(name, side, reason=str(error).partition(graph.FOLLOWED)[0])
    return Row(name, side, len(sites), sum(site.channels for site in sites))


def taken_apart(name: str) -> tuple[tuple[Site, ...], tuple[paths.Path, ...]]:
    """Return the sites of an architecture and the paths between them. Raises Unsupported."""
    usual = architecture(name)
    with weightless():
        network = usual.build({}, CLASSES).eval()
        return bundles.taken_apart(network, Preprocessing(3, usual.size, usual.mean, usual.std), Identity((), name))


@contextmanager
def weightless() -> Iterator[None]:
    """Networks of shapes alone: nothing is drawn, allocated or computed."""
    original = regnet.BlockParams.__dict__["from_init_params"]

    def with_numbers(kind: type, *arguments: Any, **options: Any) -> Any:
        # RegNet reads its widths out of a tensor, which must hold numbers.
        with torch.device("cpu"):
            return original.__func__(kind, *arguments, **options)

    regnet.BlockParams.from_init_params = classmethod(with_numbers)
    try:
        with torch.device("meta"):
            yield
    finally:
        regnet.BlockParams.from_init_params = original
