"""The network level: the river of both datapaths, its headline, its checks and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, dcc, html
from plotly.graph_objects import Figure

from dashboard import guide, ids, pictures, protocol, wording
from dashboard.auditor import Auditor
from dashboard.links import ViewState
from dashboard.markup import aria, choosing, data, menu, save, term
from dashboard.panels import faithfulness, inputs
from dashboard.panels.network import figure as network_figure
from dashboard.panels.network import model as network
from dashboard.panels.network import verdict as verdicts
from engine import Comparison, Explanation, Faithfulness, WorkFailed, compare

CONFIG: Any = {"displaylogo": False, "scrollZoom": True, "displayModeBar": False, "responsive": True}


WIDEST = 4000
SHARED_ROOM = 0.66
"""Of the height that the first river takes where another stands below it."""


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """What one ask of the network level comes to."""

    height: int
    width: int
    """Pixels that the page has for the river."""
    view: ViewState
    explanation: Explanation
    comparison: Comparison
    faithfulness_checks: Faithfulness
    river: network.River
    rival: Shown | None = None
    """The same images under another attack, drawn beside."""


def layout() -> html.Section:
    """Return the panel."""
    return html.Section(
        [_heading(), html.Div(_body(), id=ids.NETWORK_BODY)],
        id=ids.NETWORK,
        className="panel network",
        **aria(labelledby="network-title"),
    )


def register(app: Dash, _auditor: Auditor) -> None:
    """Connect what the panel does beside asking: picking by click. Dash tells callbacks without outputs apart by their
    inputs alone, so no two may have the same."""
    app.clientside_callback(
        ClientsideFunction("river", "pick"),
        Input(ids.RIVER, "clickData"),
        Input(ids.RIVER, "clickAnnotationData"),
        prevent_initial_call=True,
    )


def answer(auditor: Auditor, ask: protocol.Ask) -> tuple[protocol.Facts, Figure]:
    """Return what stands around the river, and the river."""
    if not ask:
        return {}, network_figure.empty()
    shown = read(ask, auditor)
    return facts(shown), draw(shown)


def read(ask: protocol.Ask, auditor: Auditor) -> Shown:
    """Return the records of an ask; raises BadInput for one that is malformed, WorkFailed for one not explained."""
    shown = replace(
        _explained(ask.get("request"), ViewState.from_dict(ask), auditor),
        height=_pixels(ask.get("room")),
        width=_pixels(ask.get("width"), network_figure.USUAL_WIDTH, WIDEST),
    )
    if shown.view.versus in (network.CLASS, network.NOISE):
        return replace(shown, rival=_group(shown))
    if ask.get("rival") is None:
        return shown
    return replace(shown, rival=_explained(ask["rival"], shown.view, auditor))


def _pixels(room: object, usual: int = network_figure.HEIGHT, most: int = network_figure.HIGHEST) -> int:
    """Return how large to draw: what the page has room for, within reason."""
    if isinstance(room, bool) or not isinstance(room, int):
        return usual
    return min(most, max(network_figure.LOWEST, room))


def _group(shown: Shown) -> Shown | None:
    """Return the group of the same explanation that is drawn beside; None until its datapath is known."""
    explanation, classes = shown.explanation, shown.faithfulness_checks.classes
    if shown.view.versus == network.NOISE and not explanation.has_noise_control:
        return None
    if shown.view.versus == network.NOISE:
        return _drawn(network.against_noise(explanation), shown.view, shown.faithfulness_checks)
    if classes is None or faithfulness.keeps_class(explanation):
        return None
    return _drawn(network.against_class(explanation, classes), shown.view, shown.faithfulness_checks)


def _explained(stored: Any, view: ViewState, auditor: Auditor) -> Shown:
    request = protocol.request(stored)
    answer = auditor.explanation(request)
    if answer.value is None:
        raise WorkFailed(answer.message or "The explanation is not there yet; the page asks for it again.")
    return _drawn(answer.value, view, auditor.faithfulness_checks(request).value or Faithfulness())


def _drawn(explanation: Explanation, view: ViewState, faithfulness_checks: Faithfulness) -> Shown:
    comparison = compare(explanation, view.share)
    drawn = network.build_river(explanation, comparison, view.detail, frozenset((view.folded or "").split(",")))
    return Shown(
        network_figure.HEIGHT, network_figure.USUAL_WIDTH, view, explanation, comparison, faithfulness_checks, drawn
    )


def draw(shown: Shown) -> Figure:
    """Return the river with its curves."""
    height = shown.height if shown.rival is None else max(network_figure.LOWEST, round(SHARED_ROOM * shown.height))
    figure = network_figure.draw(_drawing(shown), theme=shown.view.theme, height=height, width=shown.width)
    return network_figure.add(figure, _rival(shown, shown.rival), theme=shown.view.theme) if shown.rival else figure


def _rival(shown: Shown, rival: Shown) -> network_figure.Drawing:
    """Return what is drawn beside; a group is named as one, and has no attack conductance of its own."""
    name = faithfulness.group(shown.view.versus, shown.explanation)
    drawing = _drawing(rival)
    if name is None:
        return drawing
    lines = replace(drawing.curves, flow=(None,) * len(drawing.curves.flow))
    into = shown.explanation.classes[rival.explanation.clean.target]
    return replace(drawing, attack=name, curves=lines, answers=(into, drawing.answers[1]))


def _drawing(shown: Shown) -> network_figure.Drawing:
    explanation, classes, checks = shown.explanation, shown.explanation.classes, shown.faithfulness_checks
    curves = network.build_curves(explanation, shown.comparison, shown.river, checks.class_similarity)
    if shown.view.lane == "localisation":
        curves = network.with_localisation(curves, checks.localisation)
    return network_figure.Drawing(
        shown.river,
        curves,
        checked=frozenset(checks.done),
        answers=(classes[explanation.clean.target], classes[explanation.adversarial.target]),
        attack=faithfulness.attack(explanation),
    )


def facts(shown: Shown) -> dict[str, Any]:
    """Return all that stands around the river, as plain values."""
    explanation, comparison, faithfulness_checks = shown.explanation, shown.comparison, shown.faithfulness_checks
    images = explanation.images
    factor = pictures.amplification(images["clean"][0], images["adversarial"][0])
    return {
        "key": explanation.key,
        "verdict": asdict(verdicts.verdict(explanation, comparison, faithfulness_checks)),
        "summary": network.summary(explanation, comparison),
        "beside": _beside(shown),
        "note": river_note(shown.river, faithfulness_checks, has_noise_control=explanation.has_noise_control),
        "card": asdict(faithfulness.build_card(explanation, faithfulness_checks)),
        "limited": verdicts.WITH_A_LIMIT,
        "inputs": asdict(inputs.build(explanation, factor)),
        "sites": [asdict(row) for row in network.site_rows(explanation, comparison)],
    }


def _beside(shown: Shown) -> str:
    name = faithfulness.group(shown.view.versus, shown.explanation)
    if name is None:
        return faithfulness.compared(shown.rival.explanation, shown.rival.comparison) if shown.rival else ""
    if shown.rival is None:
        return f"Compared with {name}: the comparison is not available yet, or that attack kept the class."
    return faithfulness.compared_group(name, shown.rival.comparison)


def river_note(drawn: network.River, faithfulness_checks: Faithfulness, *, has_noise_control: bool = True) -> str:
    """Return what the reader must know of the drawing itself: what is not exact, hidden or provisional."""
    limit = wording.percent(network.HIDDEN_BELOW)
    hidden = f"{drawn.hidden} weak connections (under {limit}) are not drawn." if drawn.hidden else ""
    sides = " and ".join(side for side in ("clean", "adversarial") if side not in faithfulness_checks.done)
    open_ = (
        f"Hatched bars are provisional: the faithfulness checks of the {sides} datapath are not in." if sides else ""
    )
    early = "" if has_noise_control else "The noise control is still being computed."
    return " ".join(filter(None, (_inexact(drawn), hidden, early, open_)))


def _inexact(drawn: network.River) -> str:
    """Return how many of the bands are not exact, and why; empty where all are."""
    inexact = [band for band in drawn.bands if band.inexact]
    if not inexact:
        return ""
    are = "connection is" if len(inexact) == 1 else "connections are"
    count = f"{len(inexact)} of {len(drawn.bands)} {are} not exact (dotted outlines)"
    reasons = list(dict.fromkeys(reason for band in inexact for reason in band.inexact))
    why = reasons[0] if len(reasons) == 1 else f"for example, {reasons[0]}; point at one to read why"
    return f"{count}: {why}."


def _heading() -> html.Div:
    detail = dmc.SegmentedControl(
        id=ids.DETAIL,
        size="xs",
        value="blocks",
        data=[{"value": "blocks", "label": "Blocks"}, {"value": "sites", "label": "Every layer"}],
        **aria(label="Detail of the network"),
    )
    return html.Div(
        [
            html.H2([html.Span("1", className="number"), "Network"], id="network-title"),
            guide.meaning("network"),
            html.Div(detail, className="detail", **term("detail")),
            choosing(),
            html.Button(
                "Whole river", id=ids.RIVER_RESET, className="plain-button", hidden=True, **term("river-reset")
            ),
            legend(),
            html.Div([menu(ids.VERSUS, "Compare with"), menu(ids.LAYER, "Layer")], className="layer-pick"),
            save("network"),
        ],
        className="panel-heading",
    )


def _lane() -> html.Button:
    """Return the switch of what stands between the distance and the river; assets/river.js says what it would show."""
    return html.Button(
        "Show localisation",
        className="plain-button",
        **data(lane="localisation"),
        **aria(pressed="false"),
        **term("lane"),
    )


def legend() -> html.Ul:
    """Return what the colours of the bars mean."""
    entries = (("adversarial", "adversarial only"), ("shared", "shared"), ("clean", "clean only"))
    return html.Ul(
        [html.Li([html.Span(className=f"swatch {name}"), text]) for name, text in entries],
        className="legend",
        tabIndex=0,
        **aria(label="Bars from top to bottom"),
        **term("legend"),
    )


def _body() -> list[Any]:
    graph = dcc.Graph(id=ids.RIVER, figure=network_figure.empty(), config=CONFIG, style={"height": "100%"})
    return [
        html.P(id=ids.BESIDE, className="beside", **aria(live="polite")),
        html.P(id=ids.RIVER_SUMMARY, className="sr-only"),
        html.Div(
            graph,
            className="river-frame",
            tabIndex=0,
            role="group",
            **aria(describedby=ids.RIVER_SUMMARY, label="River of both datapaths: arrow keys walk the layers"),
            **term("river"),
        ),
        html.Div([html.P(id=ids.RIVER_NOTE, className="note river-note"), _lane()], className="river-foot"),
    ]


def table() -> html.Div:
    """Return the drawer's part with the exact numbers of every layer."""
    return html.Div(html.Div(id=ids.SITES, className="table-scroll"))


PANELS: Final = (protocol.Panel("network", answer, ids.RIVER),)
