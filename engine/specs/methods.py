"""The ways to score feature maps. This table is all there is to one, beside the function it names. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
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


FLOW: Final = "flow"
JOINT: Final = "joint"
BY_LAYER: Final = "/layer"


@dataclass(frozen=True, slots=True)
class Ranking(TextValue):
    """An order in which clean maps are patched into an adversarial run: what scores a map, and whether by layer."""

    source: str
    """`flow` (attack conductance), `joint` (two-run scores between the clean and the adversarial run), or a method's name."""
    is_by_layer: bool = False
    """Whether |score| is divided by its mean over the map's layer, image by image: how far the map stands out there."""

    @property
    def text(self) -> str:
        """The source's name, with `/layer` behind it where scores are divided; `ranking` reads it back."""
        return self.source + (BY_LAYER if self.is_by_layer else "")


PLAIN_FLOW: Final = Ranking(FLOW)
"""The default of version 0.1, so also of stored results that do not name their ranking."""
STANDOUT: Final = Ranking(FLOW, is_by_layer=True)
"""The default wherever clean maps are patched.

Its largest excess over layer-matched random maps is the largest, or not significantly below it, on every network measured.
"""
SOURCES: Final = {FLOW: TWO_RUN.name, JOINT: TWO_RUN.name} | {
    item.name: item.name for item in DECLARED if item not in (TWO_RUN, RANDOM)
}
"""What can score maps to be patched, and the method it belongs to; the plain flow is what `two-run` restores by."""
RANKINGS: Final = {item.text: item for item in (STANDOUT, *(Ranking(s, b) for s in SOURCES for b in (False, True)))}
"""By name, the default first."""


def ranking(name: str) -> Ranking:
    """Return a ranking by name. Raises UnknownName."""
    if name not in RANKINGS:
        raise UnknownName("ranking", name, RANKINGS)
    return RANKINGS[name]


def rankings_of(methods: Iterable[Method]) -> tuple[Ranking, ...]:
    """Return the default ranking and those by the scores of some methods."""
    names = {method.name for method in methods}
    return tuple(ranking for ranking in RANKINGS.values() if ranking == STANDOUT or SOURCES[ranking.source] in names)


StoredMethod = Annotated[Method, ReadBy(method)]
"""Type of a field that holds a method: stored records and keys hold its name."""
StoredMethodOrNone = Annotated[Method, ReadBy(method_or_none)]
"""The same where `NO_METHOD` may stand."""
StoredRanking = Annotated[Ranking, ReadBy(ranking)]
"""Type of a field that holds a ranking: stored records and keys hold its name."""
