"""A feature map between its neighbours as Cytoscape elements with fixed places, and their style by theme."""

from __future__ import annotations

from typing import Any

from dashboard import theme as themes
from dashboard.viewmodels import layer
from dashboard.viewmodels.neighbourhood import Neighbour, Neighbourhood

LEFT, CENTRE, RIGHT = 0, 150, 300
STEP = 26
"""Vertical distance of neighbours in model pixels."""
NARROWEST, WIDEST = 1.0, 6.0
INEXACT_MARK = "≈"
GROUP_CLASSES = ("clean", "shared", "adversarial", "neither")

Element = dict[str, Any]


def elements(shown: Neighbourhood) -> list[Element]:
    """Return nodes and edges: sources on the left, targets on the right, strongest on top."""
    nodes, edges = [_centre(shown)], []
    for column, (prefix, neighbours) in enumerate((("in", shown.incoming), ("out", shown.outgoing))):
        for k, one in enumerate(neighbours):
            name = f"{prefix}{k}"
            height = (k - (len(neighbours) - 1) / 2) * STEP
            nodes.append(_node(name, one, (LEFT, RIGHT)[column], height))
            ends = (name, "centre") if column == 0 else ("centre", name)
            edges.append(_edge(ends, one, shown.largest))
    return nodes + edges


def stylesheet(theme: str) -> list[Element]:
    """Return Cytoscape style rules: colour tells the group, dashes what counts against, dots what is not exact, width the size."""
    colours = themes.palette(theme)
    by_group = zip(GROUP_CLASSES[:3], (colours.clean, colours.shared, colours.adversarial), strict=True)
    return [
        {"selector": "node", "style": _node_style(colours)},
        {"selector": ".incoming", "style": {"text-halign": "left", "text-margin-x": -5}},
        {"selector": ".outgoing", "style": {"text-halign": "right", "text-margin-x": 5}},
        {"selector": ".class", "style": {"shape": "round-rectangle", "background-color": colours.text}},
        {"selector": "edge", "style": _edge_style(colours)},
        *(rule for group, colour in by_group for rule in _group_rules(group, colour)),
        {"selector": "edge.neither", "style": {"opacity": 0.45}},
        {"selector": ".centre", "style": _centre_style(colours)},
        {"selector": ".against", "style": {"line-style": "dashed", "line-dash-pattern": [8, 5]}},
        {"selector": ".inexact", "style": {"line-style": "dashed", "line-dash-pattern": [1.5, 3]}},
        {"selector": ".against.inexact", "style": {"line-dash-pattern": [8, 3, 1.5, 3]}},
    ]


def _group_rules(group: str, colour: str) -> list[Element]:
    return [
        {"selector": f"node.{group}", "style": {"background-color": colour}},
        {"selector": f"edge.{group}", "style": {"line-color": colour, "target-arrow-color": colour}},
    ]


def _node_style(colours: themes.Palette) -> Element:
    return {
        "label": "data(label)",
        "width": 13,
        "height": 13,
        "color": colours.text,
        "font-size": 10,
        "font-family": themes.FONT,
        "text-valign": "center",
        "background-color": colours.panel,
        "border-width": 1.5,
        "border-color": colours.muted,
        "overlay-opacity": 0,
    }


def _centre_style(colours: themes.Palette) -> Element:
    return {
        "width": 24,
        "height": 24,
        "font-size": 11,
        "font-weight": "bold",
        "text-valign": "top",
        "text-margin-y": -4,
        "text-background-color": colours.panel,
        "text-background-opacity": 0.85,
        "text-background-padding": 2,
    }


def _edge_style(colours: themes.Palette) -> Element:
    return {
        "width": "data(width)",
        "line-color": colours.muted,
        "target-arrow-color": colours.muted,
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.7,
        "curve-style": "bezier",
        "opacity": 0.85,
        "overlay-opacity": 0,
    }


def _centre(shown: Neighbourhood) -> Element:
    return {
        "data": {"id": "centre", "label": f"{layer.GROUP_MARKS[shown.group]}  {shown.name}"},
        "position": {"x": CENTRE, "y": 0},
        "classes": f"centre {GROUP_CLASSES[shown.group]}",
    }


def _node(name: str, one: Neighbour, x: int, y: float) -> Element:
    side = "incoming" if x == LEFT else "outgoing"
    label = one.name if one.group is None else f"{layer.GROUP_MARKS[one.group]}  {one.name}"
    label = f"{label} {INEXACT_MARK}" if one.inexact else label
    kind = "class" if one.group is None else GROUP_CLASSES[one.group]
    return {
        "data": {"id": name, "label": label, "layer": one.layer, "channel": one.channel},
        "position": {"x": x, "y": y},
        "classes": f"{side} {kind}",
    }


def _edge(ends: tuple[str, str], one: Neighbour, largest: float) -> Element:
    width = NARROWEST + (WIDEST - NARROWEST) * abs(one.contribution) / largest
    kind = "class" if one.group is None else GROUP_CLASSES[one.group]
    return {
        "data": {"source": ends[0], "target": ends[1], "width": round(width, 2)},
        "classes": " ".join(
            (kind, *(("against",) if one.contribution < 0 else ()), *(("inexact",) if one.inexact else ()))
        ),
    }
