"""The ways to score feature maps, by the names that links, plans and the command line use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import UnknownName


@dataclass(frozen=True, slots=True)
class Method:
    """A way to score maps: what menus show of it, and against what it explains."""

    title: str
    baseline: Literal["references", "zero"]


METHODS: dict[str, Method] = {
    "two-run": Method("Two-run: joint mask integrated gradients against other-class images", "references"),
    "mask": Method("Mask network: trained mask that keeps the output, everything else zeroed", "zero"),
    "gradient": Method("Sum of |gradient x activation|", "zero"),
    "activation": Method("Mean activation", "zero"),
    "random": Method("Random order (control)", "references"),
}


def method(name: str) -> Method:
    """Return a method by name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]
