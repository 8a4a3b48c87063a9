"""What the browser asks of a panel, checked once where it comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dashboard.links import SHARES
from engine import BadInput, DatasetCard, ExaminationRequest, ModelCard, UnknownName

Option = tuple[str, str]
Card = TypeVar("Card", ModelCard, DatasetCard)


@dataclass(frozen=True, slots=True)
class LayerAsk:
    """One site of one stored examination at one share of kept maps."""

    key: str
    layer: str
    share: float
    request: ExaminationRequest


@dataclass(frozen=True, slots=True)
class NeuronAsk:
    """One feature map of one stored examination."""

    key: str
    layer: str
    share: float
    channel: int
    request: ExaminationRequest
    theme: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what it is called, how it is filled, and what it holds at first."""

    name: str
    label: str
    kind: Literal["text", "menu", "check"]
    value: str
    help: str = ""
    options: tuple[Option, ...] = ()
    """Value and title of each, for a menu."""


def layer(stored: Mapping[str, Any]) -> LayerAsk:
    """Return the checked ask; raises BadInput."""
    return LayerAsk(_text(stored, "key"), _text(stored, "layer"), _share(stored), request(stored.get("request")))


def neuron(stored: Mapping[str, Any]) -> NeuronAsk:
    """Return the checked ask; raises BadInput."""
    channel = stored.get("channel")
    if not isinstance(channel, int) or isinstance(channel, bool) or channel < 0:
        raise BadInput(f"A feature map is asked for by its whole number from 0, got {channel!r:.40}.")
    return NeuronAsk(
        _text(stored, "key"),
        _text(stored, "layer"),
        _share(stored),
        channel,
        request(stored.get("request")),
        "dark" if stored.get("theme") == "dark" else "light",
    )


def key(stored: Mapping[str, Any]) -> str:
    """Return the key of the examination that is asked about; raises BadInput."""
    return _text(stored, "key")


def card(kind: str, name: str, cards: Iterable[Card]) -> Card:
    """Return the card of that name; raises UnknownName."""
    known = {one.name: one for one in cards}
    if name not in known:
        raise UnknownName(kind, name, known)
    return known[name]


def _text(stored: Mapping[str, Any], name: str) -> str:
    value = stored.get(name)
    if not isinstance(value, str) or not value:
        raise BadInput(f"The page asked without a {name}; reload it.")
    return value


def _share(stored: Mapping[str, Any]) -> float:
    share = stored.get("share")
    if share not in SHARES:
        raise BadInput(f"The share of kept maps must be one of {', '.join(map(str, SHARES))}, got {share!r:.40}.")
    return float(share)


def request(stored: object) -> ExaminationRequest:
    """Return the examination that is asked about; raises BadInput."""
    if not isinstance(stored, Mapping):
        raise BadInput("The page asked without a request; reload it.")
    try:
        found = ExaminationRequest(**{**stored, "samples": tuple(stored["samples"])})
    except (TypeError, KeyError) as error:
        raise BadInput("The page asked with a request of another version; reload it.") from error
    texts = (found.model, found.data, found.attack, found.method, *found.samples)
    if not all(isinstance(text, str) for text in texts) or type(found.seed) is not int:
        raise BadInput("The page asked with a request whose values are of another kind; reload it.")
    return found
