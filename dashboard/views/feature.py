"""The slow part of the neuron panel: the synthesised picture and the response over strength, made on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from dashboard import panel_ids
from dashboard.figures import response as response_figure
from dashboard.viewmodels import asks, feature, layer, wording
from dashboard.views import plain
from engine import Answer, EngineError, Synthesis

Ask = Mapping[str, Any] | None
FINISHED = ("ready", "failed")


def layout() -> html.Div:
    """Return the part's skeleton; assets/feature.js asks for it once a map has been looked at for a moment, and fills it."""
    graph = dcc.Graph(
        id=panel_ids.RESPONSE,
        figure=response_figure.empty("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": response_figure.HEIGHT},
    )
    return html.Div(
        [
            dcc.Store(id=panel_ids.FEATURE_ASK),
            dcc.Store(id=panel_ids.FEATURE_FACTS),
            html.Div([html.H3("Synthesised feature"), html.Div(id=panel_ids.FEATURE)], className="neuron-part"),
            html.Div(
                [
                    html.H3("Peak as the attack grows"),
                    html.P(id=panel_ids.RESPONSE_NOTE, className="fine-print"),
                    graph,
                ],
                className="neuron-part",
            ),
        ]
    )


def register(app: Dash, auditor: Any) -> None:
    """Connect the part."""

    @app.callback(
        Output(panel_ids.FEATURE_FACTS, "data"),
        Output(panel_ids.RESPONSE, "figure"),
        Input(panel_ids.FEATURE_ASK, "data"),
        prevent_initial_call=True,
    )
    def show_feature(stored: Ask) -> tuple[dict[str, Any], go.Figure]:
        return facts(auditor, stored)

    app.clientside_callback(
        ClientsideFunction("feature", "draw"), Input(panel_ids.FEATURE_FACTS, "data"), prevent_initial_call=True
    )


def facts(auditor: Any, stored: Ask) -> tuple[dict[str, Any], go.Figure]:
    """Return the picture's part and what is said of the response as plain values, and the response's figure.

    `again` is true while either is still being made.
    """
    try:
        ask = asks.neuron(stored or {})
        site = layer.site_index(auditor.examined(ask.key), ask.layer)
        picture, is_made = _picture(auditor, ask, site)
        note, figure, is_known = _response(auditor, ask, site)
    except EngineError as error:
        said = plain.pieces(html.P(str(error), className="nothing"))
        return {"for": _name(stored), "picture": said, "note": "", "again": False}, response_figure.empty("light")
    again = not (is_made and is_known)
    return {"for": _name(stored), "picture": plain.pieces(picture), "note": note, "again": again}, figure


def _name(stored: Ask) -> list[Any]:
    """Return which map an answer is of, so that a late answer is known as late."""
    return [(stored or {}).get(name) for name in ("key", "layer", "channel")]


def _picture(auditor: Any, ask: asks.NeuronAsk, site: int) -> tuple[Component, bool]:
    answer: Answer[Synthesis] = auditor.synthesis(ask.request.model, ask.request.data, ask.layer, ask.channel)
    if answer.value is None:
        text = wording.awaited(answer, doing="Being made", failed="The picture could not be made")
        return html.P(text, className="nothing"), answer.state in FINISHED
    shown = feature.describe(answer.value)
    model = asks.card("model", ask.request.model, auditor.models())
    data = asks.card("data set", ask.request.data, auditor.datasets())
    names = "/".join(quote(card.name, safe="") for card in (model, data))
    version = f"{model.content_hash[:12]}-{data.content_hash[:12]}"
    image = html.Img(
        src=f"/media/feature/{names}/{site}/{ask.channel}.png?v={version}",
        alt="Picture made to excite this feature map",
    )
    told = [*(html.P(text, className="warning") for text in shown.caveats), *(html.P(text) for text in shown.told)]
    return html.Div([html.Div(image, className="framed"), html.Div(told)], className="synthesis"), True


def _response(auditor: Any, ask: asks.NeuronAsk, site: int) -> tuple[str, go.Figure, bool]:
    answer = auditor.responses(ask.key)
    if answer.value is None:
        note = wording.awaited(answer, doing="Attacking at other strengths", failed="Not to be had")
        return note, response_figure.empty(ask.theme), answer.state in FINISHED
    is_pixels = ask.request.attack.norm.name != "l2"
    shown = feature.response(answer.value, site, ask.channel, is_pixels=is_pixels)
    return "", response_figure.draw(shown, ask.theme), True
