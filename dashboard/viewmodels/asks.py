"""What the browser asks of the layer and the neuron level, checked once where it comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dashboard.state import SHARES
from engine import BadInput, DatasetCard, ExaminationRequest, ModelCard, StoreError, UnknownName, rebuild

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


def layer(stored: Mapping[str, Any]) -> LayerAsk:
    """Return the checked ask; raises BadInput."""
    return LayerAsk(_text(stored, "key"), _text(stored, "layer"), _share(stored), _request(stored.get("request")))


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
        _request(stored.get("request")),
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


def _request(stored: object) -> ExaminationRequest:
    if not isinstance(stored, Mapping):
        raise BadInput("The page asked without a request; reload it.")
    try:
        return rebuild(ExaminationRequest, stored)
    except StoreError as error:
        raise BadInput("The page asked with a request of another version; reload it.") from error
