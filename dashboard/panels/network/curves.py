"""The curves above the river: distance and attack conductance by layer, as plotly traces."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

import numpy as np
from plotly.graph_objects import Bar, Scatter

from dashboard import theme as themes
from dashboard.panels.network.model import Curves, Mark
from dashboard.theme import Palette
from engine import Estimate, LayerShare

FLOW_WIDTH = 0.34
LINE = 15
"""Pixels of a line of text between the plots."""
LETTER = 6.0
"""Pixels of one letter of a text at a mark, about."""
NARROW = 900
"""Pixels of width below which titles say no more than their name."""
AIR = 4
"""Pixels between a plot and the text below it."""


@dataclass(frozen=True, slots=True)
class Heights:
    """Where everything stands on the paper, 0 at its foot and 1 at its top, for one height in pixels."""

    river: tuple[float, float]
    stage: float
    """Foot of the stage names, just above the river."""
    flow: tuple[float, float]
    flow_title: float
    distance: tuple[float, float]
    mark: float
    """Foot of the texts at the marks, a line of their own above the distance."""
    distance_title: float


def heights(paper: float, *, is_localised: bool = False) -> Heights:
    """Return the places on a paper of that many pixels: text takes its lines, the plots share what is left.

    is_localised: the lower plot, which then bears the claim, has the upper one's height.
    """
    distance = min(90.0, max(30.0, 0.17 * paper))
    flow = min(56.0, max(18.0, 0.1 * paper))
    if is_localised:
        distance, flow = flow, distance
    tops = [paper]
    for taken in (LINE, LINE, distance, AIR + LINE, flow, AIR + LINE + 2):
        tops.append(tops[-1] - taken)
    share = [max(0.0, top / paper) for top in tops]
    return Heights(
        river=(0.0, share[6]),
        stage=share[6] + 1 / paper,
        flow=(share[5], share[4]),
        flow_title=share[4],
        distance=(share[3], share[2]),
        mark=share[2],
        distance_title=share[1],
    )


def traces(curves: Curves, colours: Palette) -> list[Scatter | Bar]:
    """Return the traces of both plots: distances on the axis y2, flows on y3."""
    class_similarity = _class_similarity(curves, colours)
    lane = _flow(curves, colours) if curves.localised is None else _localised(curves.localised, colours)
    return [_floor(curves, colours), *class_similarity, _distance(curves, colours), *lane]


def axes(curves: Curves, places: Heights, colours: Palette) -> dict[str, object]:
    """Return the layout of both y axes; where they are low, the flow is written at its highest only."""
    highest = max((abs(flow.share) for flow in curves.flow if flow), default=0.0)
    shared = {
        "fixedrange": True,
        "gridcolor": colours.line,
        "zerolinecolor": colours.line,
        "tickfont": {"size": 11, "color": colours.muted},
    }
    most = max((one.random.high for one in curves.localised or () if one and one.random), default=1.0)
    share = {"range": [-0.1 * most, 1.1 * most], "tickvals": [0, most]}
    lane = {"tickvals": [highest], "zeroline": True} if curves.localised is None else share
    return {
        "yaxis2": {**shared, "domain": places.distance, "range": [-0.04, 1.04], "tickvals": [0, 1]},
        "yaxis3": {**shared, "domain": places.flow, "tickformat": ".0%", **lane},
    }


def shapes(curves: Curves, places: Heights, colours: Palette) -> list[dict[str, object]]:
    """Return a line through each plot at each site that a finding names; it leaves the title between them alone."""
    marks = ((curves.parts, "dash"), (curves.merges, "dot"))
    spans = (places.flow, (places.distance[0], places.distance_title))
    return [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": mark.position,
            "x1": mark.position,
            "y0": low,
            "y1": high,
            "line": {"color": colours.text, "width": 1.2, "dash": dash},
        }
        for mark, dash in marks
        if mark is not None
        for low, high in spans
    ]


def texts(curves: Curves, places: Heights, colours: Palette, width: int) -> list[dict[str, object]]:
    """Return the titles, which name every line where there is room, and the texts at the marks."""
    lane = _flow_title(curves, width) if curves.localised is None else _localised_title(curves, width)
    return [
        _title(_distance_title(curves, width), places.distance_title, colours),
        _title(lane, places.flow_title, colours),
        *_marked(curves, places, colours, width),
    ]


def _flow_title(curves: Curves, width: int) -> str:
    start = f"<b>Attack conductance</b> of each branch alone, of {curves.flow_unit}"
    return start if width < NARROW else f"{start} (branches overlap) · grey: noise of the same size"


def _localised_title(curves: Curves, width: int) -> str:
    start = "<b>Share of a layer's channels</b> that restore the label, patched there alone"
    if not any(curves.localised or ()):
        return f"{start}: not known yet, or not of these columns"
    marks = " · ● ranked, ○ in random order"
    if curves.too_few:
        return f"{start}{marks} · too few images to tell layers apart"
    return f"{start}{marks}" + (
        "" if width < NARROW else ": where both stand together the attack is everywhere in the layer"
    )


def _distance_title(curves: Curves, width: int) -> str:
    if width < NARROW:
        return "<b>Distance</b> of the datapaths (1 − Jaccard)"
    start = "<b>Distance</b> of the datapaths (1 − Jaccard), thick · band: noise of the same size"
    if curves.true_class is None:
        return f"{start} · likeness to the classes: not known"
    true, fooled = html.escape(curves.true_name[:20]), html.escape(curves.fooled_name[:20])
    if true == fooled:
        return f"{start} · likeness of the adversarial one to ─ '{true}'"
    return f"{start} · likeness of the adversarial one to ─ '{true}' and ┈ '{fooled}'"


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
        "borderpad": 0,
        "showarrow": False,
    }


def _marked(curves: Curves, places: Heights, colours: Palette, width: int) -> list[dict[str, object]]:
    """Return the texts at the marks; the left one ends at its line, the right one begins there, so that they never meet."""
    marks = sorted((mark for mark in (curves.parts, curves.merges) if mark), key=lambda mark: mark.position)
    middle = (len(curves.names) - 1) / 2
    column = width / (len(curves.names) + 1)
    has_room = [mark.position * column > LETTER * len(mark.text) for mark in marks]
    is_left = [
        room and (k == 0 if len(marks) == 2 else mark.position > middle)
        for k, (mark, room) in enumerate(zip(marks, has_room, strict=True))
    ]
    return [_text(mark, places.mark, left, colours) for mark, left in zip(marks, is_left, strict=True)]


def _text(mark: Mark, height: float, is_left: bool, colours: Palette) -> dict[str, object]:
    return {
        "text": html.escape(mark.text),
        "x": mark.position,
        "xanchor": "right" if is_left else "left",
        "xshift": -3 if is_left else 3,
        "yref": "paper",
        "y": height,
        "yanchor": "bottom",
        "font": {"size": 11, "color": colours.text},
        "borderpad": 0,
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
        f"<br>same-size noise {_noise(f'{low:.2f} to {high:.2f}', low, curves)}"
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


def _noise(text: str, floor: float, curves: Curves) -> str:
    return curves.no_noise if math.isnan(floor) else text


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
        (curves.true_class, curves.true_name, colours.muted, "solid"),
        (curves.fooled_into, curves.fooled_name, colours.muted, "dot"),
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
        f"<b>{html.escape(flow.site)}</b><br>attack conductance {flow.share:+.1%}"
        f"<br>largest under noise {_noise(f'{flow.floor:.1%}', flow.floor, curves)}"
        for _, flow in present
    ]
    above = [colours.text if abs(flow.share) > flow.floor else colours.shared for _, flow in present]
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


def _localised(layers: tuple[LayerShare | None, ...], colours: Palette) -> list[Scatter]:
    """Return per layer the share of its channels that restore the label, ranked and in random order, joined by a line."""
    known = [(k, one, one.ranked, one.random) for k, one in enumerate(layers) if one and one.ranked and one.random]
    ends = [(k, (ranked.value, order.value)) for k, _, ranked, order in known]
    between = Scatter(
        x=[x for k, _ in ends for x in (k, k, None)],
        y=[y for _, pair in ends for y in (*pair, None)],
        yaxis="y3",
        mode="lines",
        line={"color": colours.muted, "width": 1.2},
        hoverinfo="skip",
        name="from ranked to random order",
    )
    orders = (
        ("in random order", "circle-open", [one[3] for one in known]),
        ("ranked", "circle", [one[2] for one in known]),
    )
    return [
        between,
        *(
            Scatter(
                x=[k for k, *_ in known],
                y=[share.value for share in shares],
                yaxis="y3",
                mode="markers",
                marker={"symbol": symbol, "size": 7, "color": colours.text},
                error_y=_reach(shares, colours),
                hovertext=[_share_text(one, share, name) for (_, one, *_), share in zip(known, shares, strict=True)],
                hovertemplate="%{hovertext}<extra></extra>",
                name=name,
            )
            for name, symbol, shares in orders
        ),
    ]


def _reach(shares: list[Estimate], colours: Palette) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [share.high - share.value for share in shares],
        "arrayminus": [share.value - share.low for share in shares],
        "color": colours.muted,
        "thickness": 1.2,
        "width": 3,
    }


def _share_text(layer: LayerShare, share: Estimate, order: str) -> str:
    return (
        f"<b>{html.escape(layer.site)}</b><br>{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of its {layer.channels} "
        f"channels, {order}, restore the label"
    )
