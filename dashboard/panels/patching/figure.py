"""The plot of a study of all fooled images."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.panels.patching.studies import Line, Look, Plot
from dashboard.theme import Palette

HEIGHT = 320
DASHES = ("dash", "dot", "dashdot", "longdash")
SYMBOLS = ("diamond", "square", "triangle-up", "x", "star")
LEGEND = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1.0, "yanchor": "top"}
WIDE = 14
"""Layers from which on their names are turned."""


def draw(plot: Plot, theme: str) -> go.Figure:
    """Return the figure; every line has its own symbol and dash, every point its 95 % interval."""
    colours = themes.palette(theme)
    figure = go.Figure(layout=_layout(plot, theme))
    places: dict[Look, int] = {}
    for line in plot.lines:
        place = places.setdefault(line.look, 0)
        places[line.look] += 1
        figure.add_trace(_trace(line, place, plot, colours))
    return figure


def empty(theme: str) -> go.Figure:
    """Return a figure with nothing in it."""
    figure = go.Figure(layout=_layout(Plot("", "", True, ()), theme))
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def _trace(line: Line, place: int, plot: Plot, colours: Palette) -> go.Scatter:
    colour = {
        "chosen": colours.text,
        "other": colours.muted,
        "random": colours.shared,
        "control": colours.muted,
    }[line.look]
    values = [100 * value for value in line.value]
    dash = "solid" if line.look in ("chosen", "random") else DASHES[place % len(DASHES)]
    symbol = {"chosen": "circle", "random": "circle-open"}.get(line.look, SYMBOLS[place % len(SYMBOLS)])
    where = "%{x} channels" if plot.is_counts else "%{x}"
    return go.Scatter(
        x=list(line.x),
        y=values,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [100 * high - value for high, value in zip(line.high, values, strict=True)],
            "arrayminus": [value - 100 * low for low, value in zip(line.low, values, strict=True)],
            "thickness": 1,
            "width": 3,
        },
        customdata=list(line.n),
        hovertemplate=f"{line.name}, {where}: %{{y:.1f}} %, n = %{{customdata}}<extra></extra>",
        mode="lines+markers" if plot.is_counts else "markers",
        line={"color": colour, "width": 3 if line.look == "chosen" else 1.5, "dash": dash},
        marker={"symbol": symbol, "size": 9 if line.look == "chosen" else 7, "color": colour},
        name=line.name,
    )


def _range(plot: Plot) -> list[float]:
    """From 0 to 100 %, and further where an interval goes further."""
    ends = [100 * end for line in plot.lines for end in (*line.low, *line.high)]
    return [min([0.0, *ends]) - 3, max([100.0, *ends]) + 3]


def _layout(plot: Plot, theme: str) -> go.Layout:
    ticks = sorted({x for line in plot.lines for x in line.x if isinstance(x, int)})
    across = {**themes.titled(plot.x_title)}
    if plot.is_counts:
        across |= {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
    else:
        across |= {"type": "category", "tickangle": -40 if len(plot.lines[0].x) > WIDE else 0, "automargin": True}
    up = {**themes.titled(plot.y_title), **({"range": _range(plot)} if plot.is_counts else {"zeroline": True})}
    layout = themes.small_plot(theme, height=HEIGHT, x=across, y=up)
    legend = {**LEGEND, "bgcolor": "rgba(0,0,0,0)"}
    return go.Layout(**{**layout, "legend": legend, "margin": {"l": 52, "r": 8, "t": 12, "b": 44}}, showlegend=True)
