"""Elements that several panels share, their dashed attributes, and all of them as plain values for assets/dom.js."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard import wording
from engine import UnknownName, harmless

Piece = str | dict[str, Any]
"""A text, or `tag`, `attributes` and `children`."""
ATTRIBUTES = {"className": "class", "htmlFor": "for", "colSpan": "colspan", "tabIndex": "tabindex"}
HTML = "dash_html_components"
NARROWEST = 0.5
"""Per cent of the bar that an interval takes at least, so that it is seen."""


def pieces(content: object) -> list[Piece]:
    """Return text and `dash.html` components as plain values; raises TypeError for anything else."""
    if content is None:
        return []
    if isinstance(content, list | tuple):
        return [piece for one in content for piece in pieces(one)]
    if isinstance(content, str | int | float):
        return [str(content)]
    return [_element(content)]


def _element(component: object) -> Piece:
    if not isinstance(component, Component):
        raise TypeError(f"Only text and html components are drawn as plain values, got {type(component).__name__}.")
    written = component.to_plotly_json()
    if written["namespace"] != HTML:
        raise TypeError(f"Only html components are drawn as plain values, got {written['type']}.")
    properties: Mapping[str, Any] = written["props"]
    # Dash holds data-* names in a set: sorted, two processes of one server write the same.
    attributes = {ATTRIBUTES.get(name, name): properties[name] for name in sorted(properties) if name != "children"}
    return {
        "tag": written["type"].lower(),
        "attributes": attributes,
        "children": pieces(properties.get("children")),
    }


def aria(**values: str) -> dict[str, Any]:
    """Return `aria-` attributes to be unpacked into a component: `aria(label="Filters")`."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """Return `data-` attributes to be unpacked into a component: `data(run="…")`; an underscore becomes a dash."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}


def term(name: str) -> dict[str, Any]:
    """Return the attribute by which assets/glossary.js shows the sentence of a term; raises UnknownName for no term."""
    if name not in wording.TERMS:
        raise UnknownName("term", name, wording.TERMS)
    return data(term=name)


def icon(name: str) -> html.Span:
    """Return one of the icons of assets/icons.css; it says nothing to a screen reader."""
    return html.Span(className=f"icon icon-{name}", **aria(hidden="true"))


def save(panel: str) -> html.Details:
    """Return the menu that saves what a panel shows; assets/export.js fills it with what the panel's script offers."""
    summary = html.Summary([icon("save"), html.Span("Save")], className="plain-button", **term("save"))
    return html.Details([summary, html.Div(className="popover")], className="more save", **data(save=panel))


def menu(name: str, label: str) -> html.Label:
    """Return a native menu; assets/menus.js fills it with each answer on the work and tells what was chosen."""
    select = html.Select(id=name, className="menu", **term(name))
    return html.Label([html.Span(label), select], className="filter")


def choosing() -> html.Button:
    """Return the switch that makes clicks and rectangles choose maps; every level has one, and all show the same."""
    switch = {**data(choosing=""), **aria(pressed="false"), **term("choosing")}
    return html.Button("Choose channels", className="plain-button", **switch)


def head(titles: Sequence[str]) -> html.Thead:
    """Return a row of column heads; one that has a term says what it holds."""
    return html.Thead(html.Tr([_column(title) for title in titles]))


def _column(title: str) -> html.Th | html.Td:
    if not title:
        # A head without words is none.
        return html.Td()
    if title not in wording.COLUMNS:
        return html.Th(title, scope="col")
    return html.Th(html.Span(title, tabIndex=0, **term(wording.COLUMNS[title])), scope="col")


def interval(low: float, value: float, high: float) -> html.Span:
    """Return a share, 0 to 1, as a point on a bar within its interval."""
    width = max(NARROWEST, 100 * (high - low))
    span = html.Span(className="span", style={"left": f"{100 * low:.2f}%", "width": f"{width:.2f}%"})
    return html.Span([span, html.Span(className="point", style={"left": f"{100 * value:.2f}%"})], className="interval")


def counted(text: str, query: str, label: str = "") -> html.A | str:
    """Return a number as a link to the images that it counts, by the query of the page; as it stands where there is none."""
    told = aria(label=label) if label else {}
    return html.A(text, href=f"/?{query}", className="to-images", **told, **term("images-table")) if query else text


def csv_text(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV; text that a spreadsheet would run is escaped, numbers stay numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(heads)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return buffer.getvalue()
