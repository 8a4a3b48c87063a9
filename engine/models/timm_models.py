"""Classifiers of timm by name, where timm is installed: `timm/<name>`. Nothing is downloaded."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from torch import nn

from engine.errors import BadInput, UnknownName

PREFIX: Final = "timm/"


def build(name: str, classes: int) -> nn.Module:
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
        raise UnknownName("architecture of timm", name, [f"{PREFIX}{one}" for one in known])
    return library
