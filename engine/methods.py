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
    takes_aim: bool = True
    """False where the scores are the same whatever class is asked about: a low wrong-class rate then proves nothing."""


METHODS: dict[str, Method] = {
    "two-run": Method("Two-run: joint mask integrated gradients against other-class images", "references"),
    "mask": Method("Mask network: trained mask that keeps the output, everything else zeroed", "zero"),
    "sigmoid": Method("Sigmoid mask: trained with a penalty on its size", "zero"),
    "gates": Method("Distillation-guided routing: trained gates with a penalty on their sum", "zero"),
    "quadratic": Method("Quadratic choice within each layer by Frank-Wolfe", "zero", takes_aim=False),
    "conductance": Method("Conductance from the mean colour", "zero"),
    "gradient": Method("Sum of |gradient x activation|", "zero"),
    "activation": Method("Mean activation", "zero", takes_aim=False),
    "random": Method("Random order (control)", "references", takes_aim=False),
}


def method(name: str) -> Method:
    """Return a method by name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]
