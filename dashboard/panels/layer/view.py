"""The layer panel: a tile per feature map, drawn by assets/tiles.js from one small record and two picture sheets."""

from __future__ import annotations

from typing import Final

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, html

from dashboard import guide, ids, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, choosing, save, term
from dashboard.panels.layer import model as layer
from engine import EngineError, compare

NOTHING = "No layer chosen yet. Click a column of the network above, or choose a layer in its list."
SORTS = (
    ("importance", "Importance"),
    ("change", "Change"),
    ("flow", "Attack conductance"),
    ("index", "Index"),
)
SCALES = (("channel", "per channel"), ("layer", "per layer"))
MODES = (("maps", "alone"), ("overlay", "over the input"), ("difference", "difference"))


def layout() -> html.Section:
    """Return the panel's static skeleton; the script fills the elements that have ids and no children."""
    return html.Section(
        [
            html.Div(
                [
                    html.H2([html.Span("2", className="number"), "Layer"], id="layer-heading"),
                    guide.meaning("layer"),
                    html.Span(id=ids.LAYER_TITLE, className="panel-title"),
                    choosing(),
                    save("layer"),
                ],
                className="panel-heading",
            ),
            html.P(NOTHING, id=ids.LAYER_MESSAGE, className="nothing"),
            html.Div(
                [
                    _sets(),
                    _controls(),
                    _status(),
                    html.Div(id=ids.LAYER_TILES, className="tiles", role="group", **term("tiles")),
                ],
                id=ids.LAYER_BODY,
                hidden=True,
            ),
        ],
        className="panel layer-panel",
        **aria(labelledby="layer-heading"),
    )


def register(app: Dash, _auditor: Auditor) -> None:
    """Connect the controls: filter, order, scale and choice stay in the browser."""

    app.clientside_callback(
        ClientsideFunction("tiles", "controls"),
        Input(ids.LAYER_GROUP, "value"),
        Input(ids.LAYER_SCALE, "value"),
        Input(ids.LAYER_MODE, "value"),
    )
    # Group and scale stand in the link: a control tells the view; a view read from a link sets the controls.
    controls = [Input(name, "value") for name in (ids.LAYER_GROUP, ids.LAYER_SCALE)]
    app.clientside_callback(ClientsideFunction("tiles", "tell"), *controls, prevent_initial_call=True)


def facts(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Return the panel as plain values, with the groups that can be chosen."""
    panel = answer(auditor, ask)
    return {**panel.to_store(), "groups": _choices(panel.group_labels)}


def answer(auditor: Auditor, stored: protocol.Ask | None) -> layer.LayerPanel:
    """Return the panel of an ask, or an empty one that says why."""
    if not stored:
        return layer.empty(NOTHING)
    try:
        ask = protocol.layer(stored)
        explanation = auditor.explained(ask.key)
        faithfulness_checks = auditor.faithfulness_checks(ask.request).value
        classes = faithfulness_checks.classes if faithfulness_checks else None
        return layer.build(explanation, compare(explanation, ask.share), ask, classes)
    except EngineError as error:
        return layer.empty(str(error))


def _choices(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in pairs]


def _sets() -> html.Div:
    """The set summary: both datapaths as brackets over one bar; the script sets widths and counts."""
    return html.Div(
        [
            html.Div(
                [
                    html.Span(className="bracket clean"),
                    html.Span(className="part clean"),
                    html.Span(className="part shared"),
                    html.Span(className="part adversarial"),
                    html.Span(className="bracket adversarial"),
                ],
                className="sets-bar",
            ),
            html.Span(className="outside"),
        ],
        id=ids.LAYER_SETS,
        className="sets",
        tabIndex=0,
        role="group",
        **aria(label="Channels of each datapath"),
        **term("sets"),
    )


def _combinations() -> html.Details:
    """Exact counts of every combination of the datapaths; assets/sets.js draws and fills them."""
    return html.Details(
        [
            html.Summary("With the fooled-into class and noise: all combinations", **term("combinations")),
            html.Div(
                [html.Div(id=ids.LAYER_EULER, className="euler"), html.Div(id=ids.LAYER_UPSET)],
                className="combinations",
            ),
        ],
        className="twin",
    )


def _controls() -> html.Div:
    group = dmc.SegmentedControl(
        id=ids.LAYER_GROUP, data=_choices(layer.LayerPanel().group_labels), value="all", size="xs"
    )
    sort = html.Select(
        [html.Option(title, value=value) for value, title in SORTS],
        id=ids.LAYER_SORT,
        className="menu",
        **aria(label="Sort by"),
        **term("layer-sort"),
    )
    scale = dmc.SegmentedControl(id=ids.LAYER_SCALE, data=_choices(SCALES), value="channel", size="xs")
    mode = dmc.SegmentedControl(id=ids.LAYER_MODE, data=_choices(MODES), value="maps", size="xs")
    return html.Div(
        [
            _labelled("Show", group, "layer-group"),
            sort,
            html.Details(
                [
                    html.Summary("More", className="plain-button", **term("layer-more")),
                    html.Div(
                        [
                            _labelled("Colour scale", scale, "layer-scale"),
                            _labelled("Channels", mode, "layer-mode"),
                            html.Div(id=ids.LAYER_TEST, className="button-row"),
                            _combinations(),
                        ],
                        className="popover",
                    ),
                ],
                className="more",
            ),
        ],
        className="layer-controls",
    )


def _labelled(text: str, control: dmc.SegmentedControl, name: str) -> html.Div:
    return html.Div(
        [html.Span(text, className="control-label"), control],
        className="labelled",
        role="group",
        **aria(label=text),
        **term(name),
    )


def _status() -> html.Div:
    return html.Div(
        [
            html.Span(id=ids.LAYER_SHOWN, role="status"),
            html.Span(id=ids.LAYER_COLOURS, className="colour-bar", tabIndex=0, **term("colour-bar")),
            html.Span(id=ids.LAYER_NOTE),
        ],
        className="tiles-status",
    )


PANELS: Final = (protocol.plain("layer", facts),)
