"""The curves above the river: distance and attack conductance by layer, as plotly traces."""

from __future__ import annotations

import html

import numpy as np
from plotly.graph_objects import Bar, Scatter

from dashboard import theme as themes
from dashboard.panels.network.model import Curves, Mark
from dashboard.theme import Palette

DISTANCE_DOMAIN = (0.77, 0.905)
FLOW_DOMAIN = (0.63, 0.715)
DISTANCE_TITLE_Y = 0.972
FLOW_TITLE_Y = 0.722
MARK_Y = (0.972, 0.942)
"""Top of the texts at the marks: two lines between the title and the plot, so that they never cover each other."""
FLOW_WIDTH = 0.34


def traces(curves: Curves, colours: Palette) -> list[Scatter | Bar]:
    """Return the traces of both plots: distances on the axis y2, flows on y3."""
    class_similarity = _class_similarity(curves, colours)
    return [_floor(curves, colours), *class_similarity, _distance(curves, colours), *_flow(curves, colours)]


def axes(colours: Palette) -> dict[str, object]:
    """Return the layout of both y axes."""
    shared = {
        "fixedrange": True,
        "gridcolor": colours.line,
        "zerolinecolor": colours.line,
        "tickfont": {"size": 10, "color": colours.muted},
    }
    return {
        "yaxis2": {**shared, "domain": DISTANCE_DOMAIN, "range": [-0.04, 1.04], "tickvals": [0, 0.5, 1]},
        "yaxis3": {**shared, "domain": FLOW_DOMAIN, "nticks": 3, "tickformat": ".0%", "zeroline": True},
    }


def shapes(curves: Curves, colours: Palette) -> list[dict[str, object]]:
    """Return a line through both plots at each site that a finding names."""
    marks = ((curves.parts, "dash"), (curves.merges, "dot"))
    return [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": mark.position,
            "x1": mark.position,
            "y0": FLOW_DOMAIN[0],
            "y1": height,
            "line": {"color": colours.text, "width": 1.2, "dash": dash},
        }
        for (mark, dash), height in zip(marks, MARK_Y, strict=True)
        if mark is not None
    ]


def texts(curves: Curves, colours: Palette) -> list[dict[str, object]]:
    """Return the titles, which name every line, and the texts at the marks."""
    return [
        _title(_distance_title(curves, colours), DISTANCE_TITLE_Y, colours),
        _title(
            "<b>Attack conductance</b> through each branch, share of the margin lost · grey: largest under noise of the same size",
            FLOW_TITLE_Y,
            colours,
        ),
        *(_marked(mark, top, colours) for mark, top in zip((curves.parts, curves.merges), MARK_Y, strict=True) if mark),
    ]


def _distance_title(curves: Curves, colours: Palette) -> str:
    start = "<b>Distance</b> of the datapaths (1 − Jaccard) · grey: noise of the same size"
    if curves.true_class is None:
        return f"{start} · likeness to the classes: not known"
    true, fooled = html.escape(curves.true_name[:20]), html.escape(curves.fooled_name[:20])
    if true == fooled:
        return f"{start} · likeness of the adversarial one to <span style='color:{colours.clean}'>━ '{true}'</span>"
    return (
        f"{start} · likeness of the adversarial one to <span style='color:{colours.clean}'>━ '{true}'</span> "
        f"and <span style='color:{colours.adversarial}'>┅ '{fooled}'</span>"
    )


def _title(text: str, height: float, colours: Palette) -> dict[str, object]:
    return {
        "text": text,
        "xref": "paper",
        "x": 0.0,
        "xanchor": "left",
        "yref": "paper",
        "y": height,
        "yanchor": "bottom",
        "font": {"size": 11, "color": colours.muted},
        "showarrow": False,
    }


def _marked(mark: Mark, height: float, colours: Palette) -> dict[str, object]:
    return {
        "text": html.escape(mark.text),
        "x": mark.position,
        "xanchor": "left",
        "xshift": 4,
        "yref": "paper",
        "y": height,
        "yanchor": "top",
        "font": {"size": 11, "color": colours.text},
        "bgcolor": themes.transparent(colours.panel, 0.75),
        "borderpad": 1,
        "showarrow": False,
    }


def _floor(curves: Curves, colours: Palette) -> Scatter:
    x = np.arange(len(curves.names))
    return Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([curves.floor_high, curves.floor_low[::-1]]),
        yaxis="y2",
        fill="toself",
        fillcolor=themes.transparent(colours.shared, 0.35),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name="noise floor",
    )


def _distance(curves: Curves, colours: Palette) -> Scatter:
    intervals = curves.interval or ((0.0, 0.0),) * len(curves.names)
    rows = zip(curves.names, curves.distance, intervals, curves.floor_low, curves.floor_high, strict=True)
    text = [
        f"<b>{html.escape(name)}</b><br>distance {distance:.2f}{_within(*interval) if curves.interval else ''}"
        f"<br>same-size noise {low:.2f} to {high:.2f}"
        for name, distance, interval, low, high in rows
    ]
    return Scatter(
        x=np.arange(len(curves.names)),
        y=curves.distance,
        yaxis="y2",
        mode="lines+markers",
        line={"color": colours.text, "width": 2.2},
        marker={"size": 5},
        error_y=_whiskers(curves, colours),
        hovertext=text,
        hovertemplate="%{hovertext}<extra></extra>",
        name="distance",
    )


def _within(low: float, high: float) -> str:
    return f" [{low:.2f}, {high:.2f}]"


def _whiskers(curves: Curves, colours: Palette) -> dict[str, object] | None:
    """Return the distance's 95 % interval over the images of a group as bars of error."""
    if curves.interval is None:
        return None
    centre, (low, high) = np.array(curves.distance), np.array(curves.interval).T
    return {
        "type": "data",
        "symmetric": False,
        "array": high - centre,
        "arrayminus": centre - low,
        "color": colours.text,
        "thickness": 1.2,
        "width": 4,
    }


def _class_similarity(curves: Curves, colours: Palette) -> list[Scatter]:
    lines = (
        (curves.true_class, curves.true_name, colours.clean, "solid"),
        (curves.fooled_into, curves.fooled_name, colours.adversarial, "dot"),
    )
    return [
        Scatter(
            x=np.arange(len(curves.names)),
            y=values,
            yaxis="y2",
            mode="lines",
            line={"color": colour, "width": 1.6, "dash": dash},
            hovertemplate=f"likeness to '{html.escape(name)}' %{{y:.2f}}<extra></extra>",
            name=f"likeness to {name}",
        )
        for values, name, colour, dash in lines
        if values is not None
    ]


def _flow(curves: Curves, colours: Palette) -> list[Bar]:
    present = [(k, flow) for k, flow in enumerate(curves.flow) if flow is not None]
    x = np.array([k for k, _ in present])
    floor = np.array([flow.floor for _, flow in present])
    text = [
        f"<b>{html.escape(flow.site)}</b><br>attack conductance {flow.share:+.1%}<br>largest under noise {flow.floor:.1%}"
        for _, flow in present
    ]
    above = [colours.adversarial if abs(flow.share) > flow.floor else colours.shared for _, flow in present]
    floors = Bar(
        x=x,
        y=2 * floor,
        base=-floor,
        yaxis="y3",
        width=0.8,
        marker={"color": themes.transparent(colours.shared, 0.35), "line": {"width": 0}},
        hoverinfo="skip",
        name="conductance under noise",
    )
    bars = Bar(
        x=x,
        y=np.array([flow.share for _, flow in present]),
        yaxis="y3",
        width=FLOW_WIDTH,
        marker={"color": above, "line": {"width": 0}},
        hovertext=text,
        hovertemplate="%{hovertext}<extra></extra>",
        name="attack conductance",
    )
    return [floors, bars]
