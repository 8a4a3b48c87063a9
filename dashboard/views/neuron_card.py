"""The pieces of the neuron panel that are made anew for each feature map."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dash import html
from dash.development.base_component import Component

from dashboard.figures import patches as patches_figure
from dashboard.viewmodels import layer
from dashboard.viewmodels.fields import Box
from dashboard.viewmodels.neighbourhood import Neighbour, Neighbourhood
from dashboard.viewmodels.neuron import NeuronCard, Patches, Peak, Standing
from dashboard.viewmodels.wording import number, percent, signed, signed_percent
from dashboard.views import tables
from dashboard.views.aria import aria, data
from engine import Answer, Gallery

NEIGHBOURHOOD_LEGEND = (
    "Left feeds this map, right is fed by it. Width: size of the contribution; dashed: it counts against. "
    "C clean only, S shared, A adversarial only, – in neither. Click a map to walk to it."
)
INEXACT_LEGEND = "Dotted and ≈: not exact, changing that one map alone does something else. The list says why."


def draw(card: NeuronCard) -> list[Component]:
    """Return inputs and maps side by side, and the key numbers."""
    return [
        html.Div([_side(card, "clean"), _side(card, "adversarial")], className="neuron-sides"),
        html.P(_reading(card), className="fine-print"),
        _numbers(card),
    ]


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
    """Return incoming and outgoing connections as lists of buttons."""
    return [
        _neighbour_list("Feeds this map", shown.incoming, shown.incoming_total),
        _neighbour_list("Fed by this map", shown.outgoing, shown.outgoing_total),
    ]


def neighbour_note(shown: Neighbourhood) -> str:
    """Return what dots mean where some connection is not exact, else nothing."""
    return INEXACT_LEGEND if any(one.inexact for one in (*shown.incoming, *shown.outgoing)) else ""


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
                **aria(label=f"Positions of the map on the {side} input: arrow keys move between them"),
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
    mean = f" Maps are means over {card.images} images; the first input is shown." if card.images > 1 else ""
    return (
        f"Boxes: what the peak position sees ({sight}), clean solid, adversarial dashed. "
        f"The peak {'moved' if moved else 'stayed in place'} under attack.{mean}"
    )


def _numbers(card: NeuronCard) -> Component:
    heads = ("Datapath", "Rank at this layer", "Share of all scores", "Contribution", "Kept")
    rows = [_row("Clean", card.clean, card.channels), _row("Adversarial", card.adversarial, card.channels)]
    facts = (
        f"{layer.GROUP_MARKS[card.group]} {layer.GROUP_NAMES[card.group]}",
        f"attack flow {signed_percent(card.flow)} of the margin that the attack took",
        f"change {number(card.change)}",
    )
    prove = html.Button("Prove this map", className="plain-button", **data(prove=f"map:{card.layer}:{card.channel}"))
    return html.Div(
        [
            html.Table([tables.head(heads), html.Tbody(rows)], className="numbers"),
            html.Ul([*(html.Li(fact) for fact in facts), html.Li(prove)], className="facts"),
        ]
    )


def _row(name: str, standing: Standing, channels: int) -> Component:
    values = (
        f"{standing.rank:,} of {channels:,}",
        percent(standing.share),
        signed(standing.contribution),
        "yes" if standing.is_kept else "no",
    )
    return html.Tr([html.Th(name, scope="row"), *(html.Td(value) for value in values)], className=name.lower())


def _patch(sheet: str, k: int, count: int, name: str) -> Component:
    columns = patches_figure.CELL_COLUMNS
    rows = -(-count // columns)
    place: dict[str, Any] = {
        "backgroundImage": f'url("{sheet}")',
        "backgroundSize": f"{100 * min(count, columns)}% {100 * rows}%",
        "backgroundPosition": f"{_percent_place(k % columns, columns)} {_percent_place(k // columns, rows)}",
    }
    return html.Li([html.Div(style=place), html.Span(name, title=name)])


def _percent_place(index: int, count: int) -> str:
    return f"{100 * index / (count - 1):.4f}%" if count > 1 else "0%"


def _neighbour_list(title: str, neighbours: tuple[Neighbour, ...], total: int) -> Component:
    heading = html.H4(f"{title}: strongest {len(neighbours)} of {total:,}" if neighbours else f"{title}: nothing")
    return html.Div([heading, html.Ol([html.Li(_neighbour(one)) for one in neighbours])], className="neighbours")


def _neighbour(one: Neighbour) -> list[Component | str]:
    value = f" {signed(one.contribution)}"
    mark: list[Component | str] = [", ", _not_exact(one.inexact)] if one.inexact else []
    if one.layer is None or one.group is None:
        return [one.name, value, *mark]
    picked: dict[str, Any] = {"data-pick-layer": one.layer, "data-pick-channel": str(one.channel)}
    return [html.Button(one.name, type="button", **picked), f"{value}, {layer.GROUP_NAMES[one.group]}", *mark]


def _not_exact(reason: str) -> Component:
    """Return the mark of what is not exact, whose reason the pointer and the keyboard's focus show (assets/tiles.css)."""
    return html.Span(
        "not exact", title=reason, className="not-exact", tabIndex=0, role="note", **aria(label=f"not exact: {reason}")
    )
