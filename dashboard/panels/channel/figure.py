"""The plots of one feature map: its activations and its responses."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.panels.channel.model import Distribution, Response

HISTOGRAM_HEIGHT = 180
FLOOR = 0.5
"""Where empty bins lie on the logarithmic axis: half a position."""
RESPONSE_HEIGHT = 170


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
