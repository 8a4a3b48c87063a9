"""Layers of two models beside each other."""

from __future__ import annotations

import html
from typing import Final

import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.panels.versus import model as models
from engine import RunView, Versus

HEIGHT: Final = 240
MOST_NAMED: Final = 40
"""Layers whose names are all written below their bars."""


def draw(view: RunView | None, versus: Versus | None, theme: str) -> go.Figure:
    """Return the share of every pair of layers; empty where there is none."""
    colours = themes.palette(theme)
    names = models.layer_names(versus) if versus else ()
    shown = range(0, len(names), max(1, -(-len(names) // MOST_NAMED)))
    x = {"tickvals": list(shown), "ticktext": [html.escape(names[k]) for k in shown], "automargin": True}
    y = {**themes.titled("conductance"), "tickformat": ".0%"}
    base = {**themes.small_plot(theme, height=HEIGHT, x=x, y=y), "showlegend": True, "barmode": "group"}
    figure = go.Figure(layout={**base, "meta": {"columns": list(names)}})
    if view is None or versus is None:
        return figure
    sides = (
        ("candidate", [one.layer for one in versus.layers], [one.share for one in versus.layers], colours.accent),
        ("baseline", [one.other for one in versus.layers], [one.other_share for one in versus.layers], colours.shared),
    )
    for role, layers, shares, colour in sides:
        model = html.escape(view.manifest.model(role).name)  # type: ignore[arg-type]
        figure.add_trace(
            go.Bar(
                x=list(range(len(names))), y=shares, name=f"{model} ({role})", marker={"color": colour},
                customdata=[html.escape(layer) for layer in layers],
                hovertemplate=f"{model}, %{{customdata}}<br>%{{y:.2%}}<extra></extra>",
            )
        )  # fmt: skip
    return figure
