"""Elements as plain values, drawn by assets/dom.js: Dash takes milliseconds for every component that it draws anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash.development.base_component import Component

Piece = str | dict[str, Any]
"""A text, or `tag`, `attributes` and `children`."""
ATTRIBUTES = {"className": "class", "htmlFor": "for", "colSpan": "colspan", "tabIndex": "tabindex"}
HTML = "dash_html_components"


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
    attributes = {ATTRIBUTES.get(name, name): value for name, value in properties.items() if name != "children"}
    return {
        "tag": written["type"].lower(),
        "attributes": attributes,
        "children": pieces(properties.get("children")),
    }
