"""The river as a plotly figure, and the second one that is drawn beside it."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from plotly.graph_objects import Bar, Figure, Scatter

from dashboard import theme as themes
from dashboard.panels.network import curves as curve_traces
from dashboard.panels.network.model import GROUPS, Band, Column, Curves, River
from dashboard.theme import Palette
from dashboard.wording import percent

HEIGHT = 340
"""Pixels, where the page does not say how many it has room for."""
BAR_WIDTH = 0.2
LONGEST_ANSWER, BOLD_LETTER = 14, 8
"""Letters of a class's name beside the head, and the pixels that one of them takes."""
EDGE_POINTS = 14
"""Points along one edge of a band: smooth at any zoom that still shows a whole band."""
TOP, LEVEL_FOOT, TURNED_FOOT = 2, 20, 74
"""Pixels around the paper: above it, and below it for site labels that are level or turned."""
LOWEST, HIGHEST = 176, 900
"""Pixels of height that a page may ask for."""
OPACITY = {"shared": 0.30, "clean": 0.36, "adversarial": 0.36}
EDGE = {"width": 0.7, "dash": "solid"}
INEXACT_EDGE = {"width": 1.4, "dash": "1.5px,3px"}
"""Dotted, as in the neighbourhood of a map."""
INEXACT_FADE = 0.5
"""Of the fill of a band that is not exact, so that its outline is what is seen."""
HOVER_LETTERS, REASONS = 60, 2
"""Letters of a line under the pointer, and how many reasons are written out there."""
BYPASS_FADE = 0.55
LABEL_LETTERS = 18
LETTER = 7.0
"""Pixels of one letter of a site label; labels that would touch are turned."""
USUAL_WIDTH = 1080
"""Pixels of the plot on the narrowest supported screen."""
WORDS = {"adversarial": "adversarial only", "shared": "shared", "clean": "clean only"}
BETWEEN = 40
"""Pixels between the first river and the second, for the labels of the first and the title of the second."""
MARK_SIZE = 7


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """One explanation's river as it is drawn."""

    river: River
    curves: Curves
    checked: frozenset[str]
    """Datapaths (`clean`, `adversarial`) whose faithfulness checks are in; the others' bars are hatched: provisional."""
    answers: tuple[str, str]
    """What the clean and the adversarial input were called, written beside the head."""
    attack: str = ""
    click: str = "click to open the layer"
    """What a click on a bar does, behind the bar's text."""


def draw(drawing: Drawing, *, theme: str, height: int = HEIGHT, width: int = USUAL_WIDTH) -> Figure:
    """Return the figure, that many pixels high and about as many wide.

    The picked column is outlined in the browser (assets/river.js), which finds the columns and the outline's height in
    `layout.meta`.
    """
    colours, river, curves = themes.palette(theme), drawing.river, drawing.curves
    foot = TURNED_FOOT if _is_turned(river) else LEVEL_FOOT
    # Turned labels take room from the river; below its least height the frame scrolls instead.
    height = max(height, LOWEST + foot - LEVEL_FOOT)
    places = curve_traces.heights(height - TOP - foot, is_localised=curves.localised is not None)
    figure = Figure(traces(drawing, colours))
    figure.add_traces(curve_traces.traces(curves, colours))
    figure.update_layout(
        **themes.layout(theme),
        **_axes(river, places),
        **curve_traces.axes(curves, places, colours),
        height=height,
        margin={"l": 44, "r": _room(drawing.answers), "t": TOP, "b": foot},
        showlegend=False,
        barmode="overlay",
        dragmode="pan",
        hovermode="closest",
        clickmode="event",
        clickanywhere=True,
        shapes=[*_stages(river, colours), *curve_traces.shapes(curves, places, colours)],
        annotations=[
            *_labels(river, places, colours),
            *answers(drawing, colours),
            *curve_traces.texts(curves, places, colours, width),
        ],
        uirevision=f"{river.columns[0].name}|{river.columns[-2].name}|{len(river.columns)}",
        meta=_meta(river, places, height),
    )
    return figure


def _meta(river: River, places: curve_traces.Heights, height: int) -> dict[str, object]:
    return {
        "columns": [None if column.is_head else column.name for column in river.columns],
        "places": dict(river.places),
        # Below the first titles, and with a gap at the second, which the outline would cross.
        "top": places.distance[1],
        "gap": (places.flow_title, places.distance[0]),
        "height": height,
    }


def traces(drawing: Drawing, colours: Palette, axis: str = "y") -> list[Scatter | Bar]:
    """Return bands, bars and the points that carry the bands' numbers, on the vertical axis `axis`."""
    river = drawing.river
    kinds = [(is_bypass, is_exact) for is_bypass in (True, False) for is_exact in (True, False)]
    results: list[Scatter | Bar] = [trace for kind in kinds for trace in _bands(river, colours, *kind)]
    results += [*_bars(drawing, colours), *_band_points(river)]
    return [trace.update(yaxis=axis) for trace in results]


def extent(river: River) -> float:
    """Return how far the river reaches above and below its middle, with a little room."""
    return 1.04 * max((abs(end) for bar in river.bars for end in (bar.low, bar.high)), default=1.0)


def empty() -> Figure:
    """Return an empty figure that lets the panel's colour through; it also loads plotly while the page is read."""
    hidden = {"visible": False}
    return Figure(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": hidden,
            "yaxis": hidden,
            "height": HEIGHT,
        }
    )


def _axes(river: River, places: curve_traces.Heights) -> dict[str, object]:
    last = len(river.columns) - 1
    reach = extent(river)
    horizontal = {"range": [-0.6, last + 0.6], "showgrid": False, "zeroline": False, "showticklabels": False}
    vertical = {"domain": places.river, "range": [-reach, reach], "visible": False, "fixedrange": True}
    return {"xaxis": {**horizontal, "anchor": "y"}, "yaxis": vertical}


def ribbon(bands: Iterable[Band]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of all bands as closed smoothstep outlines with NaN between them, float32, one flat array each."""
    chosen = list(bands)
    if not chosen:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    along = np.linspace(0.0, 1.0, EDGE_POINTS)
    smooth = along * along * (3 - 2 * along)
    left = np.array([[band.source + BAR_WIDTH / 2] for band in chosen])
    right = np.array([[band.target - BAR_WIDTH / 2] for band in chosen])
    start = np.array([band.source_span for band in chosen])
    end = np.array([band.target_span for band in chosen])
    edges = start[:, :, None] + (end - start)[:, :, None] * smooth
    x = left + (right - left) * along
    gap = np.full((len(chosen), 1), np.nan)
    outline_x = np.hstack([x, x[:, ::-1], gap])
    outline_y = np.hstack([edges[:, 0], edges[:, 1, ::-1], gap])
    return outline_x.ravel().astype(np.float32), outline_y.ravel().astype(np.float32)


def _bands(river: River, colours: Palette, is_bypass: bool, is_exact: bool) -> list[Scatter]:
    fade = BYPASS_FADE if is_bypass else 1.0
    bands = []
    for group in ("shared", "clean", "adversarial"):
        drawn = [band for band in river.bands if band.colour_group == group and band.is_bypass is is_bypass]
        chosen = [band for band in drawn if bool(band.inexact) is not is_exact]
        if not chosen:
            continue
        x, y = ribbon(chosen)
        fill = themes.transparent(colours.of(group), OPACITY[group] * fade * (1.0 if is_exact else INEXACT_FADE))
        edge = {
            **(EDGE if is_exact else INEXACT_EDGE),
            "color": themes.transparent(colours.of(group), (0.55 if is_exact else 0.9) * fade),
        }
        bands.append(
            Scatter(
                x=x,
                y=y,
                fill="toself",
                fillcolor=fill,
                line=edge,
                mode="lines",
                hoverinfo="skip",
                name=f"bands {group}" if is_exact else f"bands {group}, not exact",
            )
        )
    return bands


def _bars(drawing: Drawing, colours: Palette) -> list[Bar]:
    bars, river, checked = [], drawing.river, drawing.checked
    for group in GROUPS:
        chosen = [bar for bar in river.bars if bar.group == group]
        needed = {"clean", "adversarial"} if group == "shared" else {group}
        pattern = {"shape": "" if needed <= checked else "/", "fgcolor": colours.panel, "size": 6, "solidity": 0.4}
        columns = [river.columns[bar.column] for bar in chosen]
        text = [_bar_text(column, group, bar.count, drawing.click) for column, bar in zip(columns, chosen, strict=True)]
        bars.append(
            Bar(
                x=[bar.column for bar in chosen],
                y=[bar.high - bar.low for bar in chosen],
                base=[bar.low for bar in chosen],
                width=BAR_WIDTH,
                marker={"color": colours.of(group), "line": {"width": 0}, "pattern": pattern},
                hovertext=text,
                hovertemplate="%{hovertext}<extra></extra>",
                name=f"bars {group}",
            )
        )
    return bars


def _bar_text(column: Column, group: str, count: int, click: str) -> str:
    name = html.escape(column.name)
    if column.is_head:
        return f"<b>{name}</b><br>the answer, {WORDS[group]}"
    if column.stands_for > 1:
        name = f"{name}, the last of {column.stands_for} layers"
    return f"<b>{name}</b><br>{count} of {column.kept} kept maps: {WORDS[group]}<br>{click}"


def _band_points(river: River) -> list[Scatter]:
    """Unseen points in the middle of the bands that carry their exact numbers."""
    names = [column.name for column in river.columns]
    text = [
        f"{html.escape(names[band.source])} → {html.escape(names[band.target])}<br>"
        f"{WORDS[band.groups[0]]} → {WORDS[band.groups[1]]}<br>{percent(band.share)} of the edge weight between them"
        f"{_why(band)}"
        for band in river.bands
    ]
    middle = [sum((*band.source_span, *band.target_span)) / 4 for band in river.bands]
    return [
        Scatter(
            x=np.array([(band.source + band.target) / 2 for band in river.bands], np.float32),
            y=np.array(middle, np.float32),
            mode="markers",
            marker={"size": 14, "opacity": 0},
            hovertext=text,
            hovertemplate="%{hovertext}<extra></extra>",
            name="band points",
        )
    ]


def _why(band: Band) -> str:
    if not band.inexact:
        return ""
    more = len(band.inexact) - REASONS
    result = "; ".join(band.inexact[:REASONS]) + (f"; and {more} more on its way" if more > 0 else "")
    lines = textwrap.wrap(f"Not exact here: {result}.", HOVER_LETTERS)
    return "".join(f"<br>{html.escape(line)}" for line in lines)


def _stages(river: River, colours: Palette) -> list[dict[str, object]]:
    return [
        {
            "type": "rect",
            "layer": "below",
            "xref": "x",
            "yref": "paper",
            "x0": first - 0.5,
            "x1": last + 0.5,
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": colours.stage if k % 2 else "rgba(0,0,0,0)",
            "name": f"stage:{name}",
        }
        for k, (name, first, last) in enumerate(river.stages)
    ]


def _is_turned(river: River) -> bool:
    """Whether the site labels would touch each other if they were written level."""
    longest = max(len(column.label[-LABEL_LETTERS:]) for column in river.columns)
    return longest * LETTER > USUAL_WIDTH / (len(river.columns) + 0.45)


def _labels(river: River, places: curve_traces.Heights, colours: Palette) -> list[dict[str, object]]:
    turned = _is_turned(river)
    sites: list[dict[str, object]] = [
        {
            "x": k,
            "y": 0,
            "yshift": -2,
            "yref": "paper",
            "yanchor": "top",
            "xanchor": "right" if turned else "center",
            "textangle": -40 if turned else 0,
            "text": html.escape(column.label[-LABEL_LETTERS:]),
            "font": {"color": colours.muted, "size": 11},
            "name": "" if column.is_head else f"site:{column.name}",
            "captureevents": not column.is_head,
            "showarrow": False,
        }
        for k, column in enumerate(river.columns)
    ]
    return [*sites, *_stage_names(river, places.stage, colours)]


def _stage_names(river: River, height: float, colours: Palette) -> list[dict[str, object]]:
    return [
        {
            "x": (first + last) / 2,
            "y": height,
            "yref": "paper",
            "yanchor": "bottom",
            "text": f"<b>{html.escape(name)}</b>{_mark(river.columns[first].stands_for, last - first)}",
            "font": {"color": colours.text, "size": 12},
            **_fold(river, name, first, last),
            "borderpad": 0,
            "showarrow": False,
        }
        for name, first, last in river.stages
    ]


def _fold(river: River, name: str, first: int, last: int) -> dict[str, object]:
    """Return what a click on a stage's name does: fold several columns into one, or unfold what one stands for."""
    count = river.columns[first].stands_for
    if last == first and count == 1:
        return {}
    result = (
        f"click to unfold its {count} layers" if count > 1 else f"click to fold its {last - first + 1} layers into one"
    )
    return {"name": f"stage:{name}", "captureevents": True, "hovertext": result}


def _mark(stands_for: int, more: int) -> str:
    """Return the sign behind a stage's name: it can be unfolded, folded, or neither."""
    return f" ▸ {stands_for}" if stands_for > 1 else " ▾" if more else ""


def _room(answers: tuple[str, str]) -> int:
    """Return the pixels to the right of the columns that the longer answer needs beyond the half column left to it."""
    return 12 + max(0, BOLD_LETTER * max(len(answer[:LONGEST_ANSWER]) for answer in answers) - BOLD_LETTER)


def answers(drawing: Drawing, colours: Palette, axis: str = "y") -> list[dict[str, object]]:
    """Return the annotations behind the head: what each input was called."""
    river, (clean, adversarial) = drawing.river, drawing.answers
    last = len(river.columns) - 1
    names = {"clean": clean, "adversarial": adversarial, "shared": clean}
    return [
        {
            "x": last + BAR_WIDTH / 2 + 0.06,
            "y": (bar.low + bar.high) / 2,
            "yref": axis,
            "xanchor": "left",
            "text": f"<b>{html.escape(names[bar.group][:LONGEST_ANSWER])}</b>",
            "font": {"color": colours.text, "size": 13},
            "showarrow": False,
        }
        for bar in river.bars
        if bar.column == last
    ]


def add(figure: Figure, rival: Drawing, *, theme: str) -> Figure:
    """Return the figure with a rival drawn below, whose river has the same columns and the same scale.

    The rival's distance is a line with open diamonds, its attack conductance an open diamond on the same scale.
    """
    colours, layout = themes.palette(theme), figure.to_dict()["layout"]
    figure.add_traces([*traces(rival, colours, "y4"), *_curves(rival, colours)])
    paper = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    own = layout["yaxis"]["domain"][1] * paper
    lift = Lift((own + BETWEEN) / (paper + own + BETWEEN))
    reach = max(extent(rival.river), layout["yaxis"]["range"][1])
    top = own / (paper + own + BETWEEN)
    below = {"domain": (0.0, top), "visible": False, "fixedrange": True, "anchor": "x"}
    figure.update_layout(
        **{name: {"domain": [lift.of(edge) for edge in layout[name]["domain"]]} for name in ("yaxis2", "yaxis3")},
        yaxis={"domain": [lift.of(edge) for edge in layout["yaxis"]["domain"]], "range": [-reach, reach]},
        yaxis4={**below, "range": [-reach, reach]},
        height=round(layout["height"] + own + BETWEEN),
        uirevision=f"{layout['uirevision']}|beside",
        meta={
            **layout["meta"],
            "top": lift.of(layout["meta"]["top"]),
            "gap": tuple(lift.of(edge) for edge in layout["meta"]["gap"]),
            "height": round(layout["height"] + own + BETWEEN),
        },
    )
    figure.layout.shapes = [lift.raised(shape, "y0", "y1") for shape in layout["shapes"]]
    raised = [lift.raised(text, "y") for text in layout["annotations"]]
    title = _title(rival, top + 2 / paper, colours)
    figure.layout.annotations = [*raised, *answers(rival, colours, "y4"), title]
    return figure


@dataclass(frozen=True, slots=True)
class Lift:
    """How what is drawn moves up when the paper grows at its foot."""

    share: float
    """Of the new height that lies below the old foot."""

    def of(self, height: float) -> float:
        """Return a height on the old paper as one on the new."""
        return self.share + (1 - self.share) * height

    def raised(self, piece: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """Return a shape or a text moved with the part of the paper it belongs to; what stands at the foot stays there."""
        if piece.get("yref") != "paper":
            return dict(piece)
        return {**piece, **{name: self.of(piece[name]) if piece[name] > 0 else piece[name] for name in names}}


def _curves(rival: Drawing, colours: Palette) -> list[Scatter]:
    curves, name = rival.curves, html.escape(rival.attack)
    marker = {"size": MARK_SIZE, "symbol": "diamond-open", "color": colours.text}
    present = [(k, flow.share) for k, flow in enumerate(curves.flow) if flow is not None and curves.localised is None]
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
            hovertemplate=f"{name}: attack conductance %{{y:+.1%}}<extra></extra>",
            name=f"attack conductance under {name}",
        ),
    ]


def _what(rival: Drawing) -> str:
    """Return which marks of the curves above are the rival's; a group has no attack conductance."""
    has_flow = rival.curves.localised is None and any(flow is not None for flow in rival.curves.flow)
    return f" · ◇ its distance{' and attack conductance' if has_flow else ''} above"


def _title(rival: Drawing, height: float, colours: Palette) -> dict[str, Any]:
    return {
        "text": f"<b>Compared with: {html.escape(rival.attack)}</b>{_what(rival)}",
        "xref": "paper",
        "x": 0.0,
        "xanchor": "left",
        "yref": "paper",
        "y": height,
        "yanchor": "bottom",
        "font": {"size": 11, "color": colours.muted},
        "showarrow": False,
    }
