"""The ways to score feature maps. This table is all there is to one, beside the function it names. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from engine.errors import UnknownName
from engine.parameters import ReadBy, TextValue


@dataclass(frozen=True, slots=True)
class Method(TextValue):
    """A way to score maps: how it is called, what it explains against, and what computes it."""

    name: str
    """What links, plans and the command line call it."""
    title: str
    """For menus."""
    doc: str
    baseline: Literal["references", "zero"]
    scorer: str
    """`module:function`, called with bundle, case, references and seed; `attribution.datapaths.Scorer` says what it returns."""
    is_signed: bool = False
    """Whether scores below zero speak against the class."""
    is_same_scale: bool = False
    """Whether scores of different sites can be compared as they are; gradient restores 81 of 100 with 16 maps then, 39 divided
    by site."""
    takes_aim: bool = True
    """False where the scores are the same whatever class is asked about: a low wrong-class rate then proves nothing."""
    parts: tuple[Method, ...] = ()
    """Methods whose geometric mean it is, |score| by |score|; then `scorer` is empty."""

    @property
    def text(self) -> str:
        """The name; `method` reads it back."""
        return self.name


TWO_RUN: Final = Method(
    "two-run",
    "Two-run scores",
    "Two-run: joint mask integrated gradients against other-class images",
    "references",
    "engine.attribution.datapaths:two_run",
    is_signed=True,
    is_same_scale=True,
)
ACTIVATION: Final = Method(
    "activation", "Activation", "Mean activation", "zero", "engine.attribution.datapaths:activation", takes_aim=False
)
RANDOM: Final = Method(
    "random",
    "Random (control)",
    "Random order (control)",
    "references",
    "engine.attribution.datapaths:random",
    is_same_scale=True,
    takes_aim=False,
)
GRADIENT: Final = Method(
    "gradient",
    "|Gradient × activation|",
    "Sum of |gradient x activation|",
    "zero",
    "engine.attribution.datapaths:gradient",
    is_same_scale=True,
)
NO_METHOD: Final = Method("none", "No scores", "Feature maps are not scored", "zero", "")
"""What a plan names that asks for answers alone; not among `METHODS`."""

DECLARED: Final = (
    TWO_RUN,
    Method(
        "mask",
        "Mask network",
        "Mask network: trained mask that keeps the output, everything else zeroed",
        "zero",
        "engine.attribution.datapaths:mask",
    ),
    Method(
        "sigmoid",
        "Sigmoid masks",
        "Sigmoid mask: trained with a penalty on its size",
        "zero",
        "engine.attribution.datapaths:sigmoid",
    ),
    Method(
        "gates",
        "Routing gates",
        "Distillation-guided routing: trained gates with a penalty on their sum",
        "zero",
        "engine.attribution.datapaths:gates",
    ),
    Method(
        "quadratic",
        "Quadratic (2018)",
        "Quadratic choice within each layer by Frank-Wolfe",
        "zero",
        "engine.attribution.datapaths:quadratic",
        takes_aim=False,
    ),
    Method(
        "conductance",
        "Conductance",
        "Conductance from the mean colour",
        "zero",
        "engine.attribution.datapaths:conductance",
        is_signed=True,
        is_same_scale=True,
    ),
    GRADIENT,
    Method(
        "geomean",
        "Two-run × gradient",
        "Geometric mean of the two-run and the gradient scores",
        "references",
        "",
        is_same_scale=True,
        parts=(TWO_RUN, GRADIENT),
    ),
    ACTIVATION,
    RANDOM,
)
METHODS: Final = {item.name: item for item in DECLARED}
"""By name, the default first."""


def method(name: str) -> Method:
    """Return a method by name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]


def method_or_none(name: str) -> Method:
    """Return a method by name, or `NO_METHOD` for `none`. Raises UnknownName."""
    return NO_METHOD if name == NO_METHOD.name else method(name)


StoredMethod = Annotated[Method, ReadBy(method)]
"""Type of a field that holds a method: stored records and keys hold its name."""
StoredMethodOrNone = Annotated[Method, ReadBy(method_or_none)]
"""The same where `NO_METHOD` may stand."""
