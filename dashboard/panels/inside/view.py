"""The part of a run's page that shows the inside of its model: layers, classes and feature maps, for any choice of images."""

from __future__ import annotations

from typing import Final

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.panels.inside import figure as figures
from dashboard.panels.inside import model as insides
from dashboard.panels.inside import river
from dashboard.panels.inside.model import Described, MapRow
from engine import EngineError, Inside, RunView, class_handles

FIELDS: Final = ("role", "attacks", "classes", "ended", "within")
"""Of a view: what decides what is shown of a run."""
FEW = "Grey: fewer than 30 images, not to be ranked."


def layout() -> html.Section:
    """Return the skeleton; assets/inside.js fills it while a run is shown."""
    return html.Section(
        [
            html.Div(
                [html.H3("Inside the model", id="inside-heading"), markup.save("inside")], className="panel-heading"
            ),
            html.Div(id=ids.INSIDE_CONTROLS, className="inside-controls"),
            html.P(id=ids.INSIDE_LEAD, role="status"),
            river.layout(),
            html.Div(
                [
                    html.H4("Layer by layer"),
                    _graph(ids.INSIDE_LAYERS, figures.draw_layers(None, "light"), figures.LAYERS_HEIGHT),
                    html.Div(id=ids.INSIDE_LAYERS_NOTE),
                ],
                id=ids.INSIDE_LAYERS_PART,
                hidden=True,
                **term("inside-layers"),
            ),
            html.Div(
                [
                    html.H4("Class by class"),
                    _graph(ids.INSIDE_CLASSES, figures.draw_classes(None, (), (), "light"), figures.SMALL_HEIGHT),
                    html.Div(id=ids.INSIDE_CLASSES_NOTE),
                ],
                id=ids.INSIDE_CLASSES_PART,
                hidden=True,
                **term("inside-classes"),
            ),
            html.Div(id=ids.INSIDE_MAPS),
        ],
        id=ids.INSIDE,
        className="inside",
        hidden=True,
        **aria(labelledby="inside-heading"),
    )


def _graph(name: str, figure: go.Figure, height: int) -> dcc.Graph:
    return dcc.Graph(
        id=name, figure=figure, config={"displayModeBar": False, "responsive": True}, style={"height": height}
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> tuple[protocol.Facts, go.Figure]:
    """Return the part of a run that is asked for as plain values, and its layers as a figure."""
    theme = "dark" if stored.get("theme") == "dark" else "light"
    try:
        view, inside = _asked(auditor, stored)
    except EngineError as error:
        return _without(auditor, stored, str(error)), figures.draw_layers(None, theme)
    told = insides.described(view, inside)
    query = protocol.query(stored, FIELDS)
    facts = {
        "state": "ready",
        "controls": markup.pieces(list(map(insides.group_of_buttons, insides.choices(view, inside.scope)))),
        "lead": told.lead,
        "line": f"run {view.card.name} ({view.card.run[:12]}), {told.lead}",
        "layers": markup.pieces(_layers(view, inside, told, query)) if inside.n else [],
        "classes": markup.pieces(_classes(view, inside, told, query)) if inside.n else [],
        "maps": markup.pieces(_maps(view, inside, told, query)) if inside.n else [],
        "again": view.summary.is_interim,
    }
    return facts, figures.draw_layers(inside, theme)


def small(auditor: Auditor, stored: protocol.Ask) -> tuple[protocol.Facts, go.Figure]:
    """Return the small charts of the same question, and their height."""
    theme = "dark" if stored.get("theme") == "dark" else "light"
    try:
        view, inside = _asked(auditor, stored)
    except EngineError:
        return {"height": figures.classes_height(0)}, figures.draw_classes(None, (), (), theme)
    layers = [name for name, _ in view.manifest.model(inside.scope.role).sites]
    drawn = figures.draw_classes(inside, layers, class_handles(view.manifest.classes), theme)
    return {"height": figures.classes_height(len(inside.classes)), "again": view.summary.is_interim}, drawn


def _asked(auditor: Auditor, stored: protocol.Ask) -> tuple[RunView, Inside]:
    run = str(stored.get("run") or "")
    inside = auditor.audits.inside(run, insides.scope(stored))
    return auditor.audits.view(run), inside


def _without(auditor: Auditor, stored: protocol.Ask, why: str) -> protocol.Facts:
    """Return why there is nothing, with what can be chosen instead where the run can be read."""
    facts: protocol.Facts = {
        "state": "nothing",
        "lead": why,
        "line": "",
        "controls": [],
        "layers": [],
        "classes": [],
        "maps": [],
    }
    try:
        view = auditor.audits.view(str(stored.get("run") or ""))
        is_open = view.card.state.state != "finished"
        # Of a run that is finished another choice may have something to show.
        controls = [] if is_open or not view.manifest.is_scored else insides.choices(view, insides.scope(stored))
        return {**facts, "again": is_open, "controls": markup.pieces(list(map(insides.group_of_buttons, controls)))}
    except EngineError:
        return facts


def _layers(view: RunView, inside: Inside, told: Described, query: str) -> list[Component]:
    heads = (
        "Layer",
        "Channels",
        "Conductance share",
        "Conductance share, noise",
        "Score change",
        "Score change, noise",
    )
    rows = [
        html.Tr([html.Th(one.layer, scope="row"), html.Td(f"{one.channels:,}"),
                 *(html.Td(_share(value)) for value in (one.flow, one.noise_flow, one.score, one.noise_score))])
        for one in inside.layers
    ]  # fmt: skip
    table = html.Div(html.Table([markup.head(heads), html.Tbody(rows)]), className="table-scroll", tabIndex=0, role="region",
                     **aria(label="Layer by layer, as a table"))  # fmt: skip
    notes = [html.P(text, className="note") for text in (*told.notes, insides.LAYERS)]
    claim = html.P([insides.CLAIM, _file(view, "layers", query)], className="note")
    folded = html.Details([html.Summary("As a table", **term("inside-layers")), table], className="twin")
    return [*notes, claim, folded]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %".replace("-", "−")


def _classes(view: RunView, inside: Inside, told: Described, query: str) -> list[Component]:
    names, layers = class_handles(view.manifest.classes), inside.layers
    heads = ("Class", "Cluster", "Images", "Most conductance at")
    rows = [
        html.Tr([html.Th(names[own.label], scope="row"), html.Td(str(own.cluster or "–")),
                 html.Td(markup.counted(f"{own.n:,}", insides.images_query(view, inside, own.label))),
                 html.Td(layers[max(range(len(layers)), key=own.layers.__getitem__)].layer)])
        for own in inside.classes
    ]  # fmt: skip
    table = html.Div(html.Table([markup.head(heads), html.Tbody(rows)]), className="table-scroll", tabIndex=0, role="region",
                     **aria(label="Class by class, as a table"))  # fmt: skip
    few = f" {FEW}" if any(own.n < figures.FEW for own in inside.classes) else ""
    folded = html.Details([html.Summary("As a table", **term("inside-classes")), table], className="twin")
    return [html.P([f"{told.clusters}{few}", _file(view, "classes", query)], className="note"), folded]


def _within(view: RunView, inside: Inside) -> list[Component]:
    """Return the way back from one layer to all, and to an image at that layer."""
    layer = inside.scope.layer
    if not layer:
        return []
    back = html.Button("All layers", className="plain-button", **data(inside="within", value=""), **term("within"))
    query = insides.layer_query(view, inside, layer)
    explain = [html.A(f"Explain an image at {layer}", href=f"/?{query}")] if query else []
    return [html.P([back, " ", *explain], className="inside-within")]


def _maps(view: RunView, inside: Inside, told: Described, query: str) -> list[Component]:
    heads = (
        "Feature map",
        "Conductance (t, 95 %)",
        "Mean of its layer",
        "Under noise (t, 95 %)",
        "p above noise (Welch, Holm)",
        "Images",
    )
    has_link = any(row.link for row in told.maps)
    note = "A click opens Explain of an image of the run at this channel." if has_link else (
        "Explain cannot show these images: no chosen attack has its settings and seed, and the run kept no images."
    )  # fmt: skip
    listed = insides.images_query(view, inside)
    table = html.Table([markup.head(heads), html.Tbody([_map(row, listed) for row in told.maps])])
    frame = html.Div(table, className="table-scroll", tabIndex=0, role="region", **aria(label=told.maps_title))
    return [
        *_within(view, inside),
        html.H4([told.maps_title, _file(view, "maps", query)]),
        frame,
        html.P(f"{note} {insides.SCALE} {insides.CLAIM}", className="note"),
    ]


def _map(row: MapRow, listed: str) -> Component:
    shown = html.A(row.name, href=f"/?{row.link}", **aria(label=f"Explain {row.name}")) if row.link else row.name
    cells = [html.Td(text) for text in (row.flow, row.layer_mean, row.noise, row.p, markup.counted(row.n, listed))]
    return html.Tr([html.Th(shown, scope="row"), *cells], className="worst" if row.is_above else "")


def _file(view: RunView, name: str, query: str) -> Component:
    href = f"/audits/{view.card.run}/inside-{name}.csv{query}"
    return html.A("CSV", href=href, className="file", download="", **aria(label=f"{name} as CSV"), **term("csv"))


PANELS: Final = (
    protocol.Panel("inside", answer, ids.INSIDE_LAYERS, again=5000),
    protocol.Panel("inside-classes", small, ids.INSIDE_CLASSES, again=5000),
)
