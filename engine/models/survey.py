"""Which classifiers can be audited: each of torchvision's by name, its sites and maps, or why it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import models
from torchvision.models import regnet

from engine.errors import Unsupported
from engine.models import architectures, graph, paths
from engine.models import bundle as bundles
from engine.models.bundle import Identity, Preprocessing
from engine.records import Site

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
        found = f"{self.sites} | {self.maps:,}" if not self.reason else f"refused | {self.reason}"
        return f"| `{self.name}` | {self.side} | {found} |"


HEAD = """# Torchvision's classifiers

Made by `python -m engine architectures`. *Sites* are the places whose feature maps are read, scored and put back; a
refused network holds something between them through which no exact share of one map in the next can be named.

| name | pixels | sites | feature maps, or reason |
|---|---|---|---|"""


def names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers."""
    return tuple(models.list_models(module=models))


def markdown(rows: Iterable[Row]) -> str:
    """Return the table in Markdown."""
    return "\n".join((HEAD, *(row.line() for row in rows)))


def row(name: str) -> Row:
    """Return what becomes of one architecture. Shapes alone are computed, no weights are drawn."""
    side = architectures.architecture(name).size[0]
    try:
        sites, _ = taken_apart(name)
    except Unsupported as error:
        return Row(name, side, reason=str(error).partition(graph.FOLLOWED)[0])
    return Row(name, side, len(sites), sum(site.channels for site in sites))


def taken_apart(name: str) -> tuple[tuple[Site, ...], tuple[paths.Path, ...]]:
    """Return the sites of an architecture and the paths between them. Raises Unsupported."""
    usual = architectures.architecture(name)
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
