"""How a panel and the server talk: what is asked, checked where it comes in; what is answered; when to ask again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from dashboard import markup
from dashboard.auditor import Auditor
from dashboard.links import SHARES
from engine import BadInput, DatasetCard, ExplanationRequest, ModelCard, StoreError, UnknownName, rebuild

Ask = Mapping[str, Any]
"""What a browser sent; empty where it asks for nothing."""
Facts = dict[str, Any]
"""Plain values for a panel's script; `again` is true while part of them is still being made."""
Option = tuple[str, str]
Card = TypeVar("Card", ModelCard, DatasetCard)


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the page with a question of its own.

    Its ask and its answer travel in two stores named after it. assets/panel.js sends the one and hands the other to the
    script that called `faultline.panel(name, ...)`; an answer to an ask that is no longer wished for is dropped there.
    """

    name: str
    answer: Callable[[Auditor, Ask], tuple[Facts, go.Figure | None]]
    graph: str | None = None
    """Id of the plot that each answer sets."""
    again: int = 1000
    """Milliseconds after which the same is asked again while it is being made."""
    resting: int | None = None
    """The same where nothing is being made; None is never."""

    @property
    def ask(self) -> str:
        """Id of the store that holds what is asked."""
        return f"{self.name}-ask"

    @property
    def facts(self) -> str:
        """Id of the store that holds what is answered."""
        return f"{self.name}-facts"


def plain(name: str, answer: Callable[[Auditor, Ask], Facts], *, again: int = 1000) -> Panel:
    """Return a panel without a plot."""
    return Panel(name, lambda auditor, ask: (answer(auditor, ask), None), again=again)


def stores(panels: Iterable[Panel]) -> html.Div:
    """Return the stores of some panels."""
    return html.Div([dcc.Store(id=name) for panel in panels for name in (panel.ask, panel.facts)])


def connect(app: Dash, auditor: Auditor, panel: Panel) -> None:
    """Let a panel ask the auditor."""

    def answer(stored: Any) -> Any:
        result, figure = panel.answer(auditor, stored if isinstance(stored, Mapping) else {})
        is_open = result.get("again") or result.get("state") == "working"
        sent = {**result, "panel": panel.name, "asked": stored, "after": panel.again if is_open else panel.resting}
        return (sent, figure) if panel.graph else sent

    outputs = [Output(panel.facts, "data"), *([Output(panel.graph, "figure")] if panel.graph else [])]
    app.callback(*outputs, Input(panel.ask, "data"), prevent_initial_call=True)(answer)
    app.clientside_callback(
        ClientsideFunction("panel", "answered"), Input(panel.facts, "data"), prevent_initial_call=True
    )


def query(ask: Ask, names: Iterable[str]) -> str:
    """Return what an ask holds of some fields as the query of an address, with its question mark; empty for none."""
    given = {name: str(ask[name]) for name in names if ask.get(name)}
    return f"?{urlencode(given)}" if given else ""


def nothing(text: object) -> list[markup.Piece]:
    """Return why there is nothing to show, as plain values."""
    return markup.pieces(html.P(str(text), className="nothing"))


@dataclass(frozen=True, slots=True)
class LayerAsk:
    """One site of one stored explanation at one share of kept maps."""

    key: str
    layer: str
    share: float
    request: ExplanationRequest


@dataclass(frozen=True, slots=True)
class NeuronAsk:
    """One feature map of one stored explanation."""

    key: str
    layer: str
    share: float
    channel: int
    request: ExplanationRequest
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
    """Return the key of the explanation that is asked about; raises BadInput."""
    return _text(stored, "key")


def card(kind: str, name: str, cards: Iterable[Card]) -> Card:
    """Return the card of that name; raises UnknownName."""
    known = {item.name: item for item in cards}
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
        raise BadInput(f"The share of kept channels must be one of {', '.join(map(str, SHARES))}, got {share!r:.40}.")
    return float(share)


def request(stored: object) -> ExplanationRequest:
    """Return the request that the page sent back; raises BadInput for one that no page of this version sends."""
    if not isinstance(stored, Mapping):
        raise BadInput("The page asked without a request; reload it.")
    try:
        return rebuild(ExplanationRequest, stored)
    except StoreError as error:
        raise BadInput("The page asked with a request of another version; reload it.") from error
