"""The neuron panel: one feature map, where it looks, what it answers to and what it is connected with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dash_cytoscape
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from dashboard import ids, panel_ids
from dashboard.figures import distribution as distribution_figure
from dashboard.figures import neighbourhood as neighbourhood_figure
from dashboard.figures import patches as patches_figure
from dashboard.viewmodels import asks, layer, neighbourhood, neuron
from dashboard.views import feature, neuron_card, plain
from dashboard.views.aria import aria
from engine import SIDES, EngineError, Examination, UnknownName, compare

NOTHING = "No feature map chosen yet. Click a tile of the layer, or move to one with the arrow keys and press Enter."
PROBE = "Click a position of a map, or move over it with the arrow keys, to see what it answers and what it sees."
ORDERS = (("relevance", "by relevance"), ("activation", "by activation"))
SIDE_TITLES = (("clean", "clean"), ("adversarial", "adversarial"))
Ask = Mapping[str, Any] | None


def layout() -> html.Section:
    """Return the panel's static skeleton; assets/neuron.js fills the elements that have ids and no children."""
    heading = html.H2([html.Span("3", className="number"), "Neuron"], id="neuron-heading")
    overlay = html.Button("Map over input", id=panel_ids.OVERLAY, className="plain-button", **aria(pressed="false"))
    head = [heading, html.Span(id=panel_ids.NEURON_TITLE, className="panel-title"), overlay]
    body = [_gallery_section(), feature.layout(), _distribution_section(), _neighbourhood_section()]
    return html.Section(
        [
            dcc.Store(id=panel_ids.NEURON_FACTS),
            html.Div(head, className="panel-heading"),
            html.P(NOTHING, id=panel_ids.NEURON_MESSAGE, className="nothing"),
            html.Div(id=panel_ids.NEURON_CARD),
            html.P(PROBE, id=panel_ids.PROBE, className="fine-print probe-text", **aria(live="polite")),
            html.Div(body, id=panel_ids.NEURON_BODY, className="neuron-body unchosen"),
        ],
        className="panel neuron-panel",
        **aria(labelledby="neuron-heading"),
    )


def register(app: Dash, auditor: Any) -> None:
    """Connect the panel: one answer of the server per feature map; order and side are chosen in the browser."""

    @app.callback(
        Output(panel_ids.NEURON_FACTS, "data"),
        Output(panel_ids.DISTRIBUTION, "figure"),
        Input(ids.NEURON_ASK, "data"),
        prevent_initial_call=True,
    )
    def show_neuron(stored: Ask) -> tuple[dict[str, Any], go.Figure]:
        return answer(auditor, stored)

    feature.register(app, auditor)
    app.clientside_callback(
        ClientsideFunction("neuron", "draw"),
        Output(panel_ids.NEIGHBOURHOOD, "elements"),
        Output(panel_ids.NEIGHBOURHOOD, "stylesheet"),
        Input(panel_ids.NEURON_FACTS, "data"),
        Input(panel_ids.GALLERY_ORDER, "value"),
        Input(panel_ids.NEIGHBOURHOOD_SIDE, "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("tiles", "walk"), Input(panel_ids.NEIGHBOURHOOD, "tapNodeData"), prevent_initial_call=True
    )


def answer(auditor: Any, stored: Ask) -> tuple[dict[str, Any], go.Figure]:
    """Return all of a map that is no plot, as plain values, and the histogram of its positions.

    What cannot be shown is said in `message`, beside an empty histogram.
    """
    if stored is None:
        return _nothing(NOTHING), distribution_figure.empty("light")
    try:
        ask = asks.neuron(stored)
        examination = auditor.examined(ask.key)
        maps = _maps(auditor, examination, ask)
        noise = _noise(auditor, examination, ask)
    except EngineError as error:
        return _nothing(str(error)), distribution_figure.empty("light")
    histogram = distribution_figure.draw(neuron.distribution(*maps, *noise), ask.theme)
    return _facts(auditor, ask, examination, maps), histogram


def _facts(auditor: Any, ask: asks.NeuronAsk, examination: Examination, maps: tuple[Any, Any]) -> dict[str, Any]:
    comparison = compare(examination, ask.share)
    shown = neuron.build(examination, comparison, maps, ask)
    near = {side: neighbourhood.build(examination, comparison, shown.site, ask.channel, side) for side in SIDES}
    return {
        "title": f"{shown.layer} · feature map {shown.channel}",
        "message": "",
        "card": plain.pieces(neuron_card.draw(shown)),
        "grid": asdict(neuron.grid(examination, examination.sites[shown.site], maps)),
        "patches": {order: plain.pieces(one) for order, one in _patches(auditor, ask).items()},
        "neighbours": {side: _neighbours(one) for side, one in near.items()},
        "stylesheet": neighbourhood_figure.stylesheet(ask.theme),
    }


def _patches(auditor: Any, ask: asks.NeuronAsk) -> dict[str, Component]:
    """Return the patches by order, or why they are not there. A gallery that gets ready later makes the page ask again."""
    found = auditor.gallery(ask.request.model, ask.request.data)
    if found.value is None:
        return dict.fromkeys(neuron.ORDERS, neuron_card.gallery_awaited(found))
    try:
        model = asks.card("model", ask.request.model, auditor.models())
        data = asks.card("data set", ask.request.data, auditor.datasets())
        shown = [neuron.patches(found.value, model, data, ask, order) for order in neuron.ORDERS]
    except EngineError as error:
        return dict.fromkeys(neuron.ORDERS, html.P(str(error), className="nothing"))
    return {one.order: neuron_card.gallery(one, (model.name, data.name)) for one in shown}


def _nothing(message: str) -> dict[str, Any]:
    return {
        "title": "",
        "message": message,
        "card": [],
        "grid": None,
        "patches": {},
        "neighbours": {},
        "stylesheet": [],
    }


def _neighbours(shown: neighbourhood.Neighbourhood) -> dict[str, Any]:
    return {
        "elements": neighbourhood_figure.elements(shown),
        "list": plain.pieces(neuron_card.neighbour_lists(shown)),
        "note": neuron_card.neighbour_note(shown),
    }


def _maps(auditor: Any, examination: Examination, ask: asks.NeuronAsk) -> tuple[Any, Any]:
    """Return the clean and the adversarial map as stored, (height, width) each; raises UnknownName."""
    site = layer.site_index(examination, ask.layer)
    neuron.check_channel(ask.channel, examination.sites[site])
    clean, adversarial = auditor.maps(ask.key, site)
    return clean[ask.channel], adversarial[ask.channel]


def _noise(auditor: Any, examination: Examination, ask: asks.NeuronAsk) -> list[Any]:
    """Return the map on the same-norm noisy copy; nothing for an examination that was stored without it."""
    try:
        return [auditor.noise_maps(ask.key, layer.site_index(examination, ask.layer))[ask.channel]]
    except UnknownName:
        return []


def _gallery_section() -> html.Div:
    order = dmc.SegmentedControl(id=panel_ids.GALLERY_ORDER, data=_choices(ORDERS), value="relevance", size="xs")
    return html.Div(
        [
            _section_head("Top patches of the data set", order, "Order of the patches"),
            html.Div(id=panel_ids.GALLERY, style={"--patch-columns": patches_figure.CELL_COLUMNS}),
        ],
        className="neuron-part",
    )


def _distribution_section() -> html.Div:
    graph = dcc.Graph(
        id=panel_ids.DISTRIBUTION,
        figure=distribution_figure.empty("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": distribution_figure.HEIGHT},
    )
    return html.Div([html.H3("Activations over the map's positions"), graph], className="neuron-part")


def _neighbourhood_section() -> html.Div:
    side = dmc.SegmentedControl(
        id=panel_ids.NEIGHBOURHOOD_SIDE, data=_choices(SIDE_TITLES), value="adversarial", size="xs"
    )
    graph = dash_cytoscape.Cytoscape(
        id=panel_ids.NEIGHBOURHOOD,
        elements=[],
        stylesheet=[],
        layout={"name": "preset", "fit": True, "padding": 8},
        responsive=True,
        userZoomingEnabled=False,
        userPanningEnabled=False,
        autoungrabify=True,
        boxSelectionEnabled=False,
        className="neighbourhood",
        style={"width": "100%", "height": "260px"},
    )
    return html.Div(
        [
            _section_head("Strongest connections", side, "Datapath of the connections"),
            # A picture for the mouse; keyboard and screen reader use the list below, which says the same and more.
            html.Div(graph, **aria(hidden="true")),
            html.P(neuron_card.NEIGHBOURHOOD_LEGEND, className="fine-print"),
            html.P(id=panel_ids.NEIGHBOURHOOD_NOTE, className="fine-print"),
            html.Details([html.Summary("Connections as a list"), html.Div(id=panel_ids.NEIGHBOURHOOD_LIST)]),
        ],
        className="neuron-part",
    )


def _section_head(title: str, control: Component, label: str) -> html.Div:
    group = html.Div(control, role="group", **aria(label=label))
    return html.Div([html.H3(title), group], className="part-head")


def _choices(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in pairs]
