"""The channel panel: one feature map, where it looks, what it answers to and what it is connected with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, dcc, html
from dash.development.base_component import Component

from dashboard import guide, ids, markup, pictures, protocol, wording
from dashboard.auditor import Auditor
from dashboard.markup import aria, data, term
from dashboard.panels.channel import figure as channel_figure
from dashboard.panels.channel import model as channel_model
from dashboard.panels.channel.model import Neighbour, Neighbourhood, NeuronCard, Patches, Peak, Standing
from dashboard.panels.layer import model as layer
from dashboard.pictures import Box
from dashboard.wording import number, percent, signed, signed_percent
from engine import SIDES, Answer, EngineError, Explanation, FeatureVisualization, Gallery, UnknownName, compare

NOTHING = "No feature map chosen yet. Click a tile of the layer, or move to one with the arrow keys and press Enter."
PROBE = "Click a position of a channel, or move over it with the arrow keys, to see what it answers and what it sees."
ORDERS = (("relevance", "by relevance"), ("activation", "by activation"))
SIDE_TITLES = (("clean", "clean"), ("adversarial", "adversarial"))
NEIGHBOURHOOD_LEGEND = (
    "Left feeds this channel, right is fed by it. Width: size of the contribution; dashed: it counts against. "
    "Pictures: the channel on the clean and on the adversarial input. Click a channel to walk to it."
)
INEXACT_LEGEND = "Not exact: changing that one channel alone does something else; point at the mark to read why."
TABS = (
    ("patches", "Patches"),
    ("links", "Connections"),
    ("feature", "Feature"),
    ("growth", "Growth"),
    ("histogram", "Histogram"),
    ("numbers", "Numbers"),
)
"""Parts below the card, one at a time; the first is shown at first."""
NARROWEST, WIDEST = 1.0, 6.0
"""Pixels of a connection's line."""
FINISHED = ("ready", "failed")


def layout() -> html.Section:
    """Return the panel's static skeleton; assets/neuron.js fills the elements that have ids and no children."""
    heading = html.H2([html.Span("3", className="number"), "Neuron"], id="neuron-heading")
    pressed = {**aria(pressed="false"), **term("overlay")}
    overlay = html.Button("Map over input", id=ids.OVERLAY, className="plain-button", **pressed)
    title = html.Span(id=ids.NEURON_TITLE, className="panel-title")
    head = [heading, guide.meaning("neuron"), title, overlay, markup.save("neuron")]
    return html.Section(
        [
            html.Div(head, className="panel-heading"),
            html.P(NOTHING, id=ids.NEURON_MESSAGE, className="nothing"),
            html.Div(
                [
                    html.Div(id=ids.NEURON_CARD),
                    html.Div(_card_foot(), className="card-foot"),
                    html.Div(_parts(), id=ids.NEURON_BODY, className="neuron-body unchosen"),
                ],
                className="neuron-scroll",
            ),
        ],
        className="panel neuron-panel",
        **aria(labelledby="neuron-heading"),
    )


def _card_foot() -> list[Component]:
    """Return what stands below the maps: their scale of colours, and what a position answers."""
    return [
        html.Span(id=ids.NEURON_COLOURS, className="colour-bar", tabIndex=0, **term("colour-bar")),
        html.P(PROBE, id=ids.PROBE, className="fine-print probe-text", **aria(live="polite")),
    ]


def _parts() -> list[Component]:
    """Return the tabs and what each shows; hidden parts keep their width, so that plots are drawn to it."""
    bodies = {
        "patches": _gallery_section(),
        "links": _neighbourhood_section(),
        "feature": html.Div(id=ids.FEATURE),
        "growth": _response_section(),
        "histogram": _distribution_section(),
        "numbers": html.Div(id=ids.NEURON_NUMBERS),
    }
    tabs = [
        html.Button(
            title, className="tab", role="tab", **data(tab=name), **aria(selected="false"), **term(f"tab-{name}")
        )
        for name, title in TABS
    ]
    parts = [
        html.Div(bodies[name], className="neuron-part", role="tabpanel", **data(tab_part=name), **aria(label=title))
        for name, title in TABS
    ]
    row = html.Div(tabs, className="tabs", role="tablist", **aria(label="Of this channel"))
    return [row, html.Div(parts, className="neuron-parts")]


def register(app: Dash, _auditor: Auditor) -> None:
    """Connect the controls: order and side are chosen in the browser."""

    app.clientside_callback(
        ClientsideFunction("neuron", "controls"),
        Input(ids.GALLERY_ORDER, "value"),
        Input(ids.NEIGHBOURHOOD_SIDE, "value"),
    )


def answer(auditor: Auditor, stored: protocol.Ask | None) -> tuple[dict[str, Any], go.Figure]:
    """Return all of a map that is no plot, as plain values, and the histogram of its positions.

    What cannot be shown is said in `message`, beside an empty histogram.
    """
    if not stored:
        return _nothing(NOTHING), channel_figure.empty_histogram("light")
    try:
        ask = protocol.neuron(stored)
        explanation = auditor.explained(ask.key)
        maps = _maps(auditor, explanation, ask)
        noise = _noise(auditor, explanation, ask)
    except EngineError as error:
        return _nothing(str(error)), channel_figure.empty_histogram("light")
    histogram = channel_figure.histogram(channel_model.distribution(*maps, *noise), ask.theme)
    return _facts(auditor, ask, explanation, maps), histogram


def _facts(
    auditor: Auditor, ask: protocol.NeuronAsk, explanation: Explanation, maps: tuple[Any, Any]
) -> dict[str, Any]:
    comparison = compare(explanation, ask.share)
    shown = channel_model.build_card(explanation, comparison, maps, ask)
    near = {
        side: channel_model.build_neighbourhood(explanation, comparison, shown.site, ask.channel, side)
        for side in SIDES
    }
    return {
        "title": f"{shown.layer} · feature map {shown.channel}",
        "message": "",
        "card": markup.pieces(draw_card(shown)),
        "numbers": markup.pieces(draw_numbers(shown)),
        "grid": asdict(channel_model.grid(explanation, explanation.sites[shown.site], maps)),
        "patches": {order: markup.pieces(one) for order, one in _patches(auditor, ask).items()},
        "neighbours": {side: _neighbours(one) for side, one in near.items()},
    }


def _patches(auditor: Auditor, ask: protocol.NeuronAsk) -> dict[str, Component]:
    """Return the patches by order, or why they are not there. A gallery that gets ready later makes the page ask again."""
    result = auditor.gallery(ask.request.model, ask.request.data)
    if result.value is None:
        return dict.fromkeys(channel_model.ORDERS, gallery_awaited(result))
    try:
        model = protocol.card("model", ask.request.model, auditor.models())
        data = protocol.card("data set", ask.request.data, auditor.datasets())
        shown = [channel_model.patches(result.value, model, data, ask, order) for order in channel_model.ORDERS]
    except EngineError as error:
        return dict.fromkeys(channel_model.ORDERS, html.P(str(error), className="nothing"))
    return {item.order: gallery(item, (model.name, data.name)) for item in shown}


def _nothing(message: str) -> dict[str, Any]:
    return {
        "title": "",
        "message": message,
        "card": [],
        "numbers": [],
        "grid": None,
        "patches": {},
        "neighbours": {},
    }


def _neighbours(shown: channel_model.Neighbourhood) -> dict[str, Any]:
    return {"list": markup.pieces(neighbour_lists(shown)), "note": neighbour_note(shown)}


def _maps(auditor: Auditor, explanation: Explanation, ask: protocol.NeuronAsk) -> tuple[Any, Any]:
    """Return the clean and the adversarial map as stored, (height, width) each; raises UnknownName."""
    site = layer.site_index(explanation, ask.layer)
    channel_model.check_channel(ask.channel, explanation.sites[site])
    clean, adversarial = auditor.maps(ask.key, site)
    return clean[ask.channel], adversarial[ask.channel]


def _noise(auditor: Auditor, explanation: Explanation, ask: protocol.NeuronAsk) -> list[Any]:
    """Return the map on the same-norm noisy copy; nothing for an explanation that was stored without it."""
    try:
        return [auditor.noise_maps(ask.key, layer.site_index(explanation, ask.layer))[ask.channel]]
    except UnknownName:
        return []


def _gallery_section() -> html.Div:
    order = dmc.SegmentedControl(id=ids.GALLERY_ORDER, data=_choices(ORDERS), value="relevance", size="xs")
    head = _section_head("Top patches of the data set", order, "Order of the patches", "patch-order")
    return html.Div([head, html.Div(id=ids.GALLERY, style={"--patch-columns": pictures.CELL_COLUMNS})])


def _distribution_section() -> html.Div:
    graph = dcc.Graph(
        id=ids.DISTRIBUTION,
        figure=channel_figure.empty_histogram("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": channel_figure.HISTOGRAM_HEIGHT},
    )
    return html.Div(html.Div(graph, **term("distribution")))


def _neighbourhood_section() -> html.Div:
    side = dmc.SegmentedControl(id=ids.NEIGHBOURHOOD_SIDE, data=_choices(SIDE_TITLES), value="adversarial", size="xs")
    return html.Div(
        [
            _section_head("Strongest connections", side, "Datapath of the connections", "connection-side"),
            html.Div(id=ids.NEIGHBOURHOOD_LIST, className="neighbourhood"),
            html.P(NEIGHBOURHOOD_LEGEND, className="fine-print"),
            html.P(id=ids.NEIGHBOURHOOD_NOTE, className="fine-print"),
        ]
    )


def _section_head(title: str, control: Component, label: str, name: str) -> html.Div:
    group = html.Div(control, role="group", **aria(label=label), **term(name))
    return html.Div([html.H3(title), group], className="part-head")


def _choices(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in pairs]


def draw_card(card: NeuronCard) -> list[Component]:
    """Return inputs and maps side by side, and what the attack did to the channel in one line."""
    return [
        html.Div([_side(card, "clean"), _side(card, "adversarial")], className="neuron-sides"),
        _card_facts(card),
    ]


def draw_numbers(card: NeuronCard) -> list[Component]:
    """Return the channel's place in both datapaths, and what the boxes on the pictures are."""
    heads = ("Datapath", "Rank at this layer", "Share of all scores", "Contribution", "Kept")
    rows = [_row("Clean", card.clean, card.channels), _row("Adversarial", card.adversarial, card.channels)]
    table = html.Table([markup.head(heads), html.Tbody(rows)], className="numbers")
    return [table, html.P(_reading(card), className="fine-print")]


def gallery(patches: Patches, names: tuple[str, str]) -> Component:
    """Return the patches with their classes; `names` are the model's and the data set's."""
    model, data = (quote(name, safe="") for name in names)
    sheet = (
        f"/media/patches/{model}/{data}/{patches.site}/{patches.channel}/{patches.order}.png?v={quote(patches.version)}"
    )
    items = [_patch(sheet, k, len(patches.classes), name) for k, name in enumerate(patches.classes)]
    return html.Ol(items, className="patches", **aria(label=f"Top {len(items)} patches by {patches.order}"))


def gallery_awaited(answer: Answer[Gallery]) -> Component:
    """Return why there are no patches: they are being collected, or that failed."""
    if answer.state == "failed":
        return html.P(f"The gallery could not be computed: {answer.message}", className="nothing")
    text = "The gallery is being computed; the line at the top says how far it is."
    return html.P(text, className="nothing")


def neighbour_lists(shown: Neighbourhood) -> list[Component]:
    """Return incoming and outgoing connections as lists of buttons, the channel itself between them.

    assets/neuron.js draws the lines between them.
    """
    centre = html.Div(shown.name, className=f"neighbour-centre {layer.GROUP_VALUES[shown.group]}")
    into = _neighbour_list("Feeds this channel", shown.incoming, shown.incoming_total, shown.largest)
    out_of = _neighbour_list("Fed by this channel", shown.outgoing, shown.outgoing_total, shown.largest)
    return [into, centre, out_of]


def neighbour_note(shown: Neighbourhood) -> str:
    """Return what dots mean where some connection is not exact, else nothing."""
    return INEXACT_LEGEND if any(item.inexact for item in (*shown.incoming, *shown.outgoing)) else ""


def _side(card: NeuronCard, side: str) -> Component:
    own = card.clean_peak if side == "clean" else card.adversarial_peak
    base = f"{quote(card.key)}/{{}}/{side}.png"
    address = f"/media/map/{base.format(f'{card.site}/{card.channel}')}"
    photograph = html.Img(src=f"/media/examination/{base.format(0)}", alt=f"The {side} input")
    # The other side's field comes first, so that where both agree this side's outline lies on top.
    boxes = [_outline(peak, name) for name, peak in sorted(_peaks(card).items(), key=lambda item: item[0] == side)]
    activation = html.Img(
        src=address,
        alt=f"The feature map's activation on the {side} input, largest {number(own.value)}",
    )
    size = {"aspectRatio": f"{card.width} / {card.height}"}
    return html.Figure(
        [
            html.Figcaption([html.B(side.capitalize()), f" peak {number(own.value)}"]),
            html.Div([photograph, html.Img(src=address, alt="", className="over"), *boxes], className="framed seen"),
            html.Div(
                [activation, _outline(_cell(card, own), side)],
                className="framed answers",
                style=size,
                tabIndex=0,
                role="group",
                **aria(label=f"Positions of the channel on the {side} input: arrow keys move between them"),
            ),
        ],
        className=f"neuron-side {side}",
    )


def _peaks(card: NeuronCard) -> dict[str, Peak]:
    return {"clean": card.clean_peak, "adversarial": card.adversarial_peak}


def _cell(card: NeuronCard, peak: Peak) -> Peak:
    """Return the peak with its own position in the map as its box."""
    box = Box(peak.column, peak.row, peak.column + 1, peak.row + 1).scaled(1 / card.height, 1 / card.width)
    return Peak(peak.row, peak.column, peak.value, box)


def _outline(peak: Peak, side: str) -> Component:
    box = peak.box
    edges = {"left": box.left, "top": box.top, "width": box.width, "height": box.height}
    return html.Span(className=f"field {side}", style={name: f"{100 * edge:.2f}%" for name, edge in edges.items()})


def _reading(card: NeuronCard) -> str:
    moved = (card.clean_peak.row, card.clean_peak.column) != (card.adversarial_peak.row, card.adversarial_peak.column)
    sight = "the whole image" if card.sees_everything else f"{card.field_size[0]:g} × {card.field_size[1]:g} pixels"
    mean = f" Channels are means over {card.images} images; the first input is shown." if card.images > 1 else ""
    return (
        f"Boxes: what the peak position sees ({sight}), clean solid, adversarial dashed. "
        f"The peak {'moved' if moved else 'stayed in place'} under attack.{mean}"
    )


def _card_facts(card: NeuronCard) -> Component:
    facts = (
        f"{layer.GROUP_MARKS[card.group]} {layer.GROUP_NAMES[card.group]}",
        f"attack conductance {signed_percent(card.flow)} of the margin lost",
        f"change {number(card.change)}",
    )
    intervene = html.Button(
        "Test this channel",
        className="plain-button",
        **data(patch=f"map:{card.layer}:{card.channel}"),
        **term("test-channel"),
    )
    return html.Ul([*(html.Li(fact) for fact in facts), html.Li(intervene)], className="facts")


def _row(name: str, standing: Standing, channels: int) -> Component:
    values = (
        f"{standing.rank:,} of {channels:,}",
        percent(standing.share),
        signed(standing.contribution),
        "yes" if standing.is_kept else "no",
    )
    return html.Tr([html.Th(name, scope="row"), *(html.Td(value) for value in values)], className=name.lower())


def _patch(sheet: str, k: int, count: int, name: str) -> Component:
    columns = pictures.CELL_COLUMNS
    rows = -(-count // columns)
    place: dict[str, Any] = {
        "backgroundImage": f'url("{sheet}")',
        "backgroundSize": f"{100 * min(count, columns)}% {100 * rows}%",
        "backgroundPosition": f"{_percent_place(k % columns, columns)} {_percent_place(k // columns, rows)}",
    }
    return html.Li([html.Div(style=place), html.Span(name, title=name)])


def _percent_place(index: int, count: int) -> str:
    return f"{100 * index / (count - 1):.4f}%" if count > 1 else "0%"


def _neighbour_list(title: str, neighbours: tuple[Neighbour, ...], total: int, largest: float) -> Component:
    heading = html.H4(f"{title}: strongest {len(neighbours)} of {total:,}" if neighbours else f"{title}: nothing")
    items = [_neighbour_item(neighbour, largest) for neighbour in neighbours]
    return html.Div([heading, html.Ol(items)], className="neighbours")


def _neighbour_item(one: Neighbour, largest: float) -> Component:
    width = NARROWEST + (WIDEST - NARROWEST) * abs(one.contribution) / (largest or 1.0)
    kind = "class" if one.group is None else layer.GROUP_VALUES[one.group]
    looks = (kind, *(("is-against",) if one.contribution < 0 else ()), *(("is-inexact",) if one.inexact else ()))
    return html.Li(_neighbour(one), className=f"neighbour {' '.join(looks)}", **data(width=f"{width:.2f}"))


def _neighbour(one: Neighbour) -> list[Component | str]:
    value = f" {signed(one.contribution)}"
    mark: list[Component | str] = [", ", _not_exact(one.inexact)] if one.inexact else []
    if one.layer is None or one.group is None or one.tile is None:
        return [one.name, value, *mark]
    picked: dict[str, Any] = {"data-pick-layer": one.layer, "data-pick-channel": str(one.channel)}
    # assets/neuron.js cuts the pictures out of the layer's sheets.
    tile = data(tile=f"{one.tile.site} {one.tile.channel} {one.tile.columns} {one.tile.rows}")
    button = html.Button(one.name, type="button", **picked, **tile, **term("neighbour"))
    return [button, f"{value}, {layer.GROUP_NAMES[one.group]}", *mark]


def _not_exact(reason: str) -> Component:
    """Return the mark of what is not exact, whose reason the pointer and the keyboard's focus show (assets/tiles.css)."""
    return html.Span(
        "not exact", title=reason, className="not-exact", tabIndex=0, role="note", **aria(label=f"not exact: {reason}")
    )


def _response_section() -> html.Div:
    """Return the skeleton; assets/feature.js asks for it once a map has been looked at for a moment, and fills it."""
    graph = dcc.Graph(
        id=ids.RESPONSE,
        figure=channel_figure.empty_response("light"),
        config={"displayModeBar": False, "responsive": True},
        style={"height": channel_figure.RESPONSE_HEIGHT},
    )
    return html.Div([html.P(id=ids.RESPONSE_NOTE, className="fine-print"), html.Div(graph, **term("response"))])


def facts(auditor: Auditor, stored: protocol.Ask | None) -> tuple[dict[str, Any], go.Figure]:
    """Return the picture's part and what is said of the response as plain values, and the response's figure.

    `again` is true while either is still being made.
    """
    try:
        ask = protocol.neuron(stored or {})
        site = layer.site_index(auditor.explained(ask.key), ask.layer)
        picture, is_made = _picture(auditor, ask, site)
        note, figure, is_known = _response(auditor, ask, site)
    except EngineError as error:
        said = protocol.nothing(error)
        return {"picture": said, "note": "", "again": False}, channel_figure.empty_response("light")
    again = not (is_made and is_known)
    return {"picture": markup.pieces(picture), "note": note, "again": again}, figure


def _picture(auditor: Auditor, ask: protocol.NeuronAsk, site: int) -> tuple[Component, bool]:
    answer: Answer[FeatureVisualization] = auditor.feature_visualization(
        ask.request.model, ask.request.data, ask.layer, ask.channel
    )
    if answer.value is None:
        text = wording.awaited(answer, doing="Being made", failed="The picture could not be made")
        return html.P(text, className="nothing"), answer.state in FINISHED
    shown = channel_model.describe(answer.value)
    model = protocol.card("model", ask.request.model, auditor.models())
    data = protocol.card("data set", ask.request.data, auditor.datasets())
    names = "/".join(quote(card.name, safe="") for card in (model, data))
    version = f"{model.content_hash[:12]}-{data.content_hash[:12]}"
    image = html.Img(
        src=f"/media/feature/{names}/{site}/{ask.channel}.png?v={version}",
        alt="Picture made to excite this feature map",
    )
    results = [*(html.P(text, className="warning") for text in shown.caveats), *(html.P(text) for text in shown.told)]
    return html.Div([html.Div(image, className="framed"), html.Div(results)], className="synthesis"), True


def _response(auditor: Auditor, ask: protocol.NeuronAsk, site: int) -> tuple[str, go.Figure, bool]:
    answer = auditor.responses(ask.key)
    if answer.value is None:
        note = wording.awaited(answer, doing="Attacking at other epsilons", failed="Not to be had")
        return note, channel_figure.empty_response(ask.theme), answer.state in FINISHED
    shown = channel_model.response(answer.value, site, ask.channel, ask.request.attack.measure)
    return "", channel_figure.response_curve(shown, ask.theme), True


PANELS: Final = (
    protocol.Panel("neuron", answer, ids.DISTRIBUTION),
    protocol.Panel("feature", facts, ids.RESPONSE),
)
