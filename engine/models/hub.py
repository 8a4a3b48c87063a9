"""Weights that the makers of an architecture published: fetched only on the word `hub`, and said to be."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import torch
from torchvision import models

from engine.errors import BadInput

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
    return stem if len(stem) >= 8 and all(one in "0123456789abcdef" for one in stem) else None
