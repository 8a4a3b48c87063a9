"""Accuracy as epsilon grows, drawn: one line for each model and attack, every point with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard import theme as themes
from engine import ModelResult, measure_of

HEIGHT = 240
DASHES = ("solid", "dot", "dash", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")


def draw(models: Sequence[ModelResult], theme: str) -> go.Figure:
    """Return the curves of a run; every line has its own dash and symbol, every point its 95 % interval."""
    colours = themes.palette(theme)
    figure = go.Figure(layout=_layout(models, theme))
    lines = [(model, family) for model in models for family in dict.fromkeys(point.family for point in model.curve)]
    for k, (model, family) in enumerate(lines):
        points = [point for point in model.curve if point.family == family and point.accuracy.value is not None]
        values = [100 * float(point.accuracy.value or 0) for point in points]
        measures = [measure_of(point.attack) for point in points]
        # Blue and orange are those of clean and attacked runs.
        colour = colours.accent if model.role == "candidate" else colours.muted
        figure.add_trace(
            go.Scatter(
                x=[own.factor * point.epsilon for own, point in zip(measures, points, strict=True)],
                y=values,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * float(p.accuracy.high or 0) - v for p, v in zip(points, values, strict=True)],
                    "arrayminus": [v - 100 * float(p.accuracy.low or 0) for p, v in zip(points, values, strict=True)],
                    "thickness": 1,
                },
                customdata=[(own.text(p.epsilon), p.accuracy.n) for own, p in zip(measures, points, strict=True)],
                hovertemplate=f"{model.model}, %{{customdata[0]}}: %{{y:.1f}} %, n = %{{customdata[1]}}<extra></extra>",
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": DASHES[k % len(DASHES)]},
                marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 8},
                name=f"{model.model} · {family}",
            )
        )
    return figure


def _layout(models: Sequence[ModelResult], theme: str) -> go.Layout:
    axes = dict.fromkeys(measure_of(point.attack).axis for model in models for point in model.curve)
    strength = {**themes.titled(" · ".join(axes) or "epsilon ε"), "rangemode": "tozero"}
    accuracy = {**themes.titled("accuracy in %"), "range": [-3, 103]}
    return go.Layout(**themes.small_plot(theme, height=HEIGHT, x=strength, y=accuracy), showlegend=True)
