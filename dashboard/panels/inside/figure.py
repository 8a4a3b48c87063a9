"""Where attacks take hold, drawn: shares by layer over the noise floor, and one small chart for each class."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go

from dashboard import theme as themes
from dashboard.panels.audits.model import FEW
from engine import ClassFlow, Inside

LAYERS_HEIGHT: Final = 340
SMALL_HEIGHT: Final = 104
"""Of one class, with its title."""
ACROSS: Final = 5
MOST_NAMED: Final = 40
"""Layers whose names are all written below their bars."""
MARGIN: Final = 44


def draw_layers(inside: Inside | None, theme: str) -> go.Figure:
    """Return both shares of every layer, and what noise does; empty for no images."""
    if inside is None or not inside.layers:
        return go.Figure(layout=themes.small_plot(theme, height=LAYERS_HEIGHT, x={}, y={}))
    colours, names = themes.palette(theme), [one.layer for one in inside.layers]
    figure = go.Figure(layout=_layers_layout(names, theme))
    series = (
        ("attack: conductance", [one.flow for one in inside.layers], "y", colours.accent),
        ("noise: conductance", [one.noise_flow for one in inside.layers], "y", colours.shared),
        ("attack: change of scores", [one.score for one in inside.layers], "y2", colours.accent),
        ("noise: change of scores", [one.noise_score for one in inside.layers], "y2", colours.shared),
    )
    for title, values, axis, colour in series:
        if any(value is not None for value in values):
            figure.add_trace(_bars(title, names, values, axis, colour))
    return figure


def _bars(title: str, names: Sequence[str], values: Sequence[float | None], axis: str, colour: str) -> go.Bar:
    return go.Bar(
        x=list(range(len(names))),
        y=list(values),
        name=title.partition(":")[0] if axis == "y" else title,
        marker={"color": colour},
        yaxis=axis,
        showlegend=axis == "y",
        customdata=[html.escape(name) for name in names],
        hovertemplate=f"%{{customdata}}<br>{title} %{{y:.2%}}<extra></extra>",
    )


def _layers_layout(names: Sequence[str], theme: str) -> go.Layout:
    step = -(-len(names) // MOST_NAMED)
    shown = range(0, len(names), step)
    columns = {
        "tickvals": list(shown),
        "ticktext": [html.escape(names[k]) for k in shown],
        "anchor": "y2",
        "automargin": True,
    }
    above = {**themes.titled("conductance"), "domain": [0.56, 1], "tickformat": ".0%"}
    base = themes.small_plot(theme, height=LAYERS_HEIGHT, x=columns, y=above)
    below = {**base["yaxis"], **themes.titled("scores, change"), "domain": [0, 0.46], "tickformat": ".1%"}  # type: ignore[dict-item]
    settings = {**base, "yaxis2": below, "margin": {"l": 64, "r": 8, "t": 28, "b": 28}}
    return go.Layout(**settings, showlegend=True, barmode="group", meta={"columns": list(names)})


def classes_height(count: int) -> int:
    """Return the height of the small charts of so many classes, in pixels."""
    return SMALL_HEIGHT * -(-count // ACROSS) + MARGIN


def draw_classes(inside: Inside | None, layers: Sequence[str], names: Sequence[str], theme: str) -> go.Figure:
    """Return one small chart for each class, all on one scale, in the order in which they cluster."""
    shown = inside.classes if inside else ()
    height, colours = classes_height(len(shown)), themes.palette(theme)
    layout: dict[str, Any] = {**themes.layout(theme), "height": height, "margin": {"l": 44, "r": 8, "t": 24, "b": 20}}
    figure = go.Figure(layout={**layout, "showlegend": False, "meta": {"columns": list(layers)}, "bargap": 0.1})
    highest = max((max(own.layers) for own in shown), default=1.0)
    lowest = min(0.0, min((min(own.layers) for own in shown), default=0.0))
    for place, own in enumerate(shown):
        key = "" if place == 0 else str(place + 1)
        across, down = _spans(place, len(shown))
        quiet = {"showticklabels": False, "showgrid": False, "zeroline": True, "zerolinecolor": colours.line}
        scale = {"range": [1.05 * lowest, 1.05 * highest], "tickformat": ".0%", "gridcolor": colours.line, "nticks": 3}
        figure.layout[f"xaxis{key}"] = {**quiet, "domain": across, "anchor": f"y{key}"}
        is_first = place % ACROSS == 0
        figure.layout[f"yaxis{key}"] = {
            **scale, "domain": down, "anchor": f"x{key}", "showticklabels": is_first, "zeroline": False,
        }  # fmt: skip
        figure.add_trace(_small(own, names[own.label], layers, (key, theme)))
        figure.add_annotation(**_title(own, names[own.label], (across[0], down[1]), theme))
    return figure


def _spans(place: int, count: int) -> tuple[list[float], list[float]]:
    """Return from where to where a small chart reaches across and up, in shares of the paper."""
    rows, row, column = -(-count // ACROSS), place // ACROSS, place % ACROSS
    across = [column / ACROSS, (column + 0.92) / ACROSS]
    return across, [1 - (row + 0.94) / rows, 1 - (row + 0.22) / rows]


def _small(own: ClassFlow, name: str, layers: Sequence[str], where: tuple[str, str]) -> go.Bar:
    key, theme = where
    colours = themes.palette(theme)
    return go.Bar(
        x=list(range(len(layers))),
        y=list(own.layers),
        name=f"{name} (n = {own.n})",
        marker={"color": colours.shared if own.n < FEW else colours.accent},
        xaxis=f"x{key}",
        yaxis=f"y{key}",
        customdata=[html.escape(layer) for layer in layers],
        hovertemplate=f"{html.escape(name)}, %{{customdata}}<br>%{{y:.1%}}<extra></extra>",
    )


def _title(own: ClassFlow, name: str, corner: tuple[float, float], theme: str) -> dict[str, Any]:
    cluster = f" · cluster {own.cluster}" if own.cluster else ""
    return {
        "text": f"<b>{html.escape(name[:24])}</b> n = {own.n:,}{cluster}",
        "x": corner[0], "y": corner[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 11, "color": themes.palette(theme).text},
    }  # fmt: skip
