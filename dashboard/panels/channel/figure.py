"""The plots of one feature map: its activations, its neighbours, its responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.panels.channel.model import Distribution, Neighbour, Neighbourhood, Response
from dashboard.panels.layer import model as layer

HISTOGRAM_HEIGHT = 200
FLOOR = 0.5
"""Where empty bins lie on the logarithmic axis: half a position."""
LEFT, CENTRE, RIGHT = 0, 150, 300
STEP = 26
"""Vertical distance of neighbours in model pixels."""
NARROWEST, WIDEST = 1.0, 6.0
INEXACT_MARK = "≈"
GROUP_CLASSES = ("clean", "shared", "adversarial", "neither")
Element = dict[str, Any]
RESPONSE_HEIGHT = 190


def histogram(distribution: Distribution, theme: str) -> go.Figure:
    """Return step outlines over a logarithmic count: clean solid and filled, adversarial dotted, noise dashed and thin."""
    colours = themes.palette(theme)
    filled = {"fill": "tozeroy", "fillcolor": themes.transparent(colours.clean, 0.16)}
    figure = go.Figure(layout=_histogram_layout(theme))
    figure.add_trace(_outline(distribution.edges, distribution.clean, "clean", colours.clean, dash="solid"))
    figure.update_traces(filled)
    figure.add_trace(
        _outline(distribution.edges, distribution.adversarial, "adversarial", colours.adversarial, dash="dot")
    )
    if distribution.noise is not None:
        noise = _outline(distribution.edges, distribution.noise, "noise", colours.shared, dash="dash")
        figure.add_trace(noise.update(line={"width": 1.2}))
    highest = max(distribution.clean.max(), distribution.adversarial.max(), 1)
    figure.update_yaxes(range=[np.log10(FLOOR), np.log10(highest * 1.6)])
    return figure


def empty_histogram(theme: str) -> go.Figure:
    """Return a figure with axes hidden and nothing in it."""
    figure = go.Figure(layout=_histogram_layout(theme))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _outline(edges: np.ndarray, counts: np.ndarray, name: str, colour: str, *, dash: str) -> go.Scatter:
    """Return a histogram's outline: each count is held from its bin's left edge to the right one."""
    held = np.append(counts, counts[-1])
    upper = np.append(edges[1:], edges[-1])
    return go.Scatter(
        x=edges.astype(np.float32),
        y=np.maximum(held, FLOOR).astype(np.float32),
        customdata=np.column_stack([held, upper]).astype(np.float32),
        hovertemplate=f"{name}: %{{customdata[0]:d}} positions, %{{x:.3g}} to %{{customdata[1]:.3g}}<extra></extra>",
        mode="lines",
        line={"shape": "hv", "color": colour, "width": 2, "dash": dash},
        name=name,
    )


def _histogram_layout(theme: str) -> go.Layout:
    counts = {**themes.titled("positions"), "type": "log", "dtick": 1, "tickformat": ",d"}
    return go.Layout(**themes.small_plot(theme, height=HISTOGRAM_HEIGHT, x=themes.titled("activation"), y=counts))


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


def response_curve(response: Response, theme: str) -> go.Figure:
    """Return two lines over the strength: the attack's with filled marks where most images are fooled, noise's dotted."""
    colours = themes.palette(theme)
    figure = go.Figure(layout=_response_layout(theme, response.measure.axis))
    symbols = ["circle" if share > 0.5 else "circle-open" for share in response.fooled]
    column_stack = np.column_stack([response.written, [f"{share:.0%}" for share in response.fooled]])
    figure.add_trace(
        go.Scatter(
            x=response.epsilon,
            y=response.attack,
            customdata=column_stack,
            hovertemplate="attack at %{customdata[0]}: peak %{y:.3g}, %{customdata[1]} fooled<extra></extra>",
            mode="lines+markers",
            line={"color": colours.adversarial, "width": 2},
            marker={"symbol": symbols, "size": 8, "color": colours.adversarial},
            name="attack (● fooled, ○ not)",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=response.epsilon,
            y=response.noise,
            hovertemplate="noise of the same length: peak %{y:.3g}<extra></extra>",
            mode="lines",
            line={"color": colours.shared, "width": 2, "dash": "dot"},
            name="noise of the same length",
        )
    )
    return figure


def empty_response(theme: str) -> go.Figure:
    """Return a figure with nothing in it."""
    figure = go.Figure(layout=_response_layout(theme, "epsilon ε"))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _response_layout(theme: str, strength: str) -> go.Layout:
    peak = {**themes.titled("peak"), "rangemode": "tozero"}
    return go.Layout(**themes.small_plot(theme, height=RESPONSE_HEIGHT, x=themes.titled(strength), y=peak))
