"""How strongly a feature map answers as the attack grows, beside noise of the same length."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.viewmodels.feature import Response

HEIGHT = 190


def draw(response: Response, theme: str) -> go.Figure:
    """Return two lines over the strength: the attack's with filled marks where most images are fooled, noise's dotted."""
    colours = themes.palette(theme)
    figure = go.Figure(layout=_layout(theme, response.is_pixels))
    symbols = ["circle" if share > 0.5 else "circle-open" for share in response.fooled]
    told = np.column_stack([response.written, [f"{share:.0%}" for share in response.fooled]])
    figure.add_trace(
        go.Scatter(
            x=response.epsilon,
            y=response.attack,
            customdata=told,
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


def empty(theme: str) -> go.Figure:
    """Return a figure with nothing in it."""
    figure = go.Figure(layout=_layout(theme, is_pixels=True))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _layout(theme: str, is_pixels: bool) -> go.Layout:
    unit = "strength ε in 1/255" if is_pixels else "strength ε (length)"
    peak = {**themes.titled("peak"), "rangemode": "tozero"}
    return go.Layout(**themes.small_plot(theme, height=HEIGHT, x=themes.titled(unit), y=peak))
