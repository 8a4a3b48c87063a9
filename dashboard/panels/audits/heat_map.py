"""Robust accuracy by class and condition as a map of colours, with the images behind each cell."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard import markup
from dashboard.markup import aria, term
from dashboard.panels.audits import model as audits
from dashboard.panels.audits.model import Cell, Heat

FEW = "Grey: fewer than 30 images, not to be ranked."


def drawn(heat: Heat) -> list[Component]:
    """Return the map with its scale, its note, and the same as a table."""
    heads = [html.Th("Class", scope="col"), *(html.Th(short, scope="col", title=full) for short, full in heat.columns)]
    rows = [html.Tr([html.Th(name, scope="row"), *map(_square, cells)]) for name, cells in heat.rows]
    rows.insert(0, html.Tr([html.Th("All classes", scope="row"), *map(_square, heat.every)], className="every"))
    caption = html.Caption(f"{heat.title}, in per cent", className="sr-only")
    table = html.Table([caption, html.Thead(html.Tr(heads)), html.Tbody(rows)], className="heat-map")
    has_few = any(cell and cell.has_few for _, cells in heat.rows for cell in cells)
    told = [
        f"{len(heat.rows)} of {heat.classes} classes, those that fare worst; the file holds all."
        if len(heat.rows) < heat.classes
        else "",
        "Right answers in per cent. A cell opens Explain of its class and attack, and ≡ the table of its images.",
        FEW if has_few else "",
    ]
    note = html.P([_scale(), html.Span(" ".join(filter(None, told)))], className="note heat-note")
    frame = html.Div(table, className="heat-frame", tabIndex=0, role="region", **aria(label=heat.title), **term("heat"))
    return [frame, note, _twin(heat)]


def _scale() -> Component:
    colours = [html.Span(className=f"heat-{step}") for step in range(audits.STEPS + 1)]
    told = aria(label="Colours from 100 % right to 0 % right")
    return html.Span([html.Span("100 %"), *colours, html.Span("0 %")], className="heat-scale", role="img", **told)


def _square(cell: Cell | None) -> Component:
    if cell is None:
        return html.Td("–", className="muted")
    shown: Any = f"{100 * (cell.accuracy.value or 0.0):.0f}"
    if cell.link:
        shown = html.A(shown, href=f"/?{cell.link}", **aria(label=f"Explain {cell.told}"))
    listed = markup.counted("≡", cell.images, f"Images: {cell.told}")
    return html.Td([shown, listed], className=f"heat-{cell.step}{' few' if cell.has_few else ''}", title=cell.told)


def _twin(heat: Heat) -> Component:
    """Return the same as a table, with intervals and numbers of images."""
    heads = ("Class", "Condition", "Images", "Right (Clopper-Pearson, 95 %)")
    rows = [
        html.Tr(
            [
                html.Th(name, scope="row"),
                html.Td(full),
                html.Td(markup.counted(f"{cell.accuracy.n:,}", cell.images)),
                html.Td(audits.rate(cell.accuracy)),
            ],
            className="few" if cell.has_few else "",
        )
        for name, cells in (("All classes", heat.every), *heat.rows)
        for (_, full), cell in zip(heat.columns, cells, strict=True)
        if cell
    ]
    table = html.Div(html.Table([markup.head(heads), html.Tbody(rows)]), className="table-scroll", tabIndex=0,
                     role="region", **aria(label=f"{heat.title}, as a table"))  # fmt: skip
    return html.Details(
        [html.Summary("As a table, with intervals and n", **term("heat-table")), table], className="twin"
    )
