"""A second attack in the same figure: its river below on the same columns, its curves over the first one's."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from dashboard import theme as themes
from dashboard.figures import river as river_figure
from dashboard.figures.river import Drawing
from dashboard.theme import Palette

ROOM = 300
"""Pixels that the second river adds."""
SHARE = ROOM / (river_figure.HEIGHT + ROOM)
"""Of the figure's height that lies below the first river."""
DOMAIN = (0.0, SHARE * 0.74)
TITLE_Y = SHARE * 0.79
MARK_SIZE = 7


def add(figure: Figure, rival: Drawing, *, theme: str) -> Figure:
    """Return the figure with a rival drawn beside, whose river has the same columns.

    The rival's distance is a line with open diamonds, its attack flow an open diamond on the same scale.
    """
    colours, layout = themes.palette(theme), figure.to_dict()["layout"]
    figure.add_traces([*river_figure.traces(rival, colours, "y4"), *_curves(rival, colours)])
    reach = river_figure.extent(rival.river)
    axes = {name: {"domain": _lifted(layout[name]["domain"])} for name in ("yaxis", "yaxis2", "yaxis3")}
    figure.update_layout(
        **axes,
        yaxis4={"domain": DOMAIN, "range": [-reach, reach], "visible": False, "fixedrange": True, "anchor": "x"},
        height=river_figure.HEIGHT + ROOM,
        uirevision=f"{layout['uirevision']}|beside",
        meta={**layout["meta"], "top": _lift(layout["meta"]["top"]), "height": river_figure.HEIGHT + ROOM},
    )
    figure.layout.shapes = [_raised(shape, "y0", "y1") for shape in layout["shapes"]]
    raised = [_raised(text, "y") for text in layout["annotations"]]
    figure.layout.annotations = [*raised, *river_figure.answers(rival, colours, "y4"), _title(rival, colours)]
    return figure


def _lift(height: float) -> float:
    return SHARE + (1 - SHARE) * height


def _lifted(domain: Sequence[float]) -> list[float]:
    return [_lift(edge) for edge in domain]


def _raised(piece: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a shape or a text moved up with the part of the paper it belongs to; what stands at the foot stays there."""
    if piece.get("yref") != "paper":
        return dict(piece)
    return {**piece, **{name: _lift(piece[name]) if piece[name] > 0 else piece[name] for name in names}}


def _curves(rival: Drawing, colours: Palette) -> list[Scatter]:
    curves, name = rival.curves, html.escape(rival.attack)
    marker = {"size": MARK_SIZE, "symbol": "diamond-open", "color": colours.text}
    present = [(k, flow.share) for k, flow in enumerate(curves.flow) if flow is not None]
    return [
        Scatter(
            x=np.arange(len(curves.names)),
            y=curves.distance,
            yaxis="y2",
            mode="lines+markers",
            line={"color": colours.text, "width": 1.4, "dash": "dashdot"},
            marker=marker,
            hovertemplate=f"{name}: distance %{{y:.2f}}<extra></extra>",
            name=f"distance under {name}",
        ),
        Scatter(
            x=[k for k, _ in present],
            y=[share for _, share in present],
            yaxis="y3",
            mode="markers",
            marker=marker,
            hovertemplate=f"{name}: attack flow %{{y:+.1%}}<extra></extra>",
            name=f"attack flow under {name}",
        ),
    ]


def _title(rival: Drawing, colours: Palette) -> dict[str, Any]:
    return {
        "text": f"<b>Beside: {html.escape(rival.attack)}</b> · ◇ its distance and attack flow above",
        "xref": "paper",
        "x": 0.0,
        "xanchor": "left",
        "yref": "paper",
        "y": TITLE_Y,
        "yanchor": "bottom",
        "font": {"size": 11, "color": colours.muted},
        "showarrow": False,
    }
