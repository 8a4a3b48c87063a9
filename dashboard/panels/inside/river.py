"""The river of a run: both datapaths of all images of a choice, drawn as Explain draws those of one image, and its table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from dash import dcc, html
from dash.development.base_component import Component
from plotly.graph_objects import Figure

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.links import SHARES, ViewState
from dashboard.markup import aria, data, term
from dashboard.panels.inside import model as insides
from dashboard.panels.inside.model import Choice, Choices
from dashboard.panels.network import figure as network_figure
from dashboard.panels.network import model as network
from dashboard.panels.network.view import legend
from dashboard.wording import number, percent
from engine import ClassSimilarity, EngineError, IntoClasses, RunRiver, RunView, class_handles

HEIGHT: Final = 420
RIVAL_SHARE: Final = 0.66
"""Of the height that the first river takes where another stands below it."""
INTO: Final = "class"
"""Value of `versus` that draws the classes fooled into beside."""
RULE: Final = (
    "A layer's bar holds the channels with the largest mean |score|, the rule of an explanation; each image weighs the same, and "
    "clean and noisy images count by class as often as attacked ones. Distances are of these means and have no interval, so no "
    "layer is said to be where the datapaths diverge; the band is the range over the noise controls. Of a run's datapaths no "
    "faithfulness check is made: the causal test of Explain decides what restores a label."
)
NOT_FILTERED: Final = (
    "Images are not filtered by the class they were fooled into: the sums that the run stored hold no such part."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page asks of the river beside the scope."""

    share: float
    detail: str
    folded: frozenset[str]
    versus: str
    theme: str


def asked(stored: protocol.Ask) -> Asked:
    """Return how the river is to be drawn; what no link of this page says takes its default."""
    view = ViewState.from_dict(stored)
    versus = INTO if view.versus == INTO else ""
    return Asked(view.share, view.detail, frozenset((view.folded or "").split(",")) - {""}, versus, view.theme)


def layout() -> html.Div:
    """Return the part's skeleton; assets/inside-river.js fills it."""
    graph = dcc.Graph(
        id=ids.INSIDE_RIVER,
        figure=network_figure.empty(),
        config={"displayModeBar": False, "responsive": True},
        style={"height": HEIGHT},
    )
    return html.Div(
        [
            html.Div(
                [html.H4("Which feature maps clean and attacked images rely on"), legend()], className="inside-within"
            ),
            html.Div(id=ids.INSIDE_RIVER_CONTROLS, className="inside-controls"),
            html.P(id=ids.INSIDE_RIVER_LEAD, role="status"),
            graph,
            html.Div(id=ids.INSIDE_RIVER_NOTE),
        ],
        id=ids.INSIDE_RIVER_PART,
        hidden=True,
        **term("inside-river"),
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> tuple[protocol.Facts, Figure]:
    """Return what stands around the river of a choice, and the river; where there is none, one sentence why."""
    how = asked(stored)
    try:
        run = stored.get("run")
        view = auditor.audits.view(run if isinstance(run, str) else "")
        scope = replace(insides.scope(stored), layer="")
        if not view.manifest.is_scored or view.card.state.state != "finished":
            # The parts below say why there is nothing.
            return {"state": "none", "again": view.card.state.state == "running"}, network_figure.empty()
        river = auditor.audits.river(view.card.run, scope, how.share)
    except EngineError as error:
        return {"state": "none", "lead": str(error)}, network_figure.empty()
    drawn = network.build_river(river, river.comparison, how.detail, how.folded)
    figure = network_figure.draw(_drawing(view, river, drawn), theme=how.theme, height=_height(river, how))
    if how.versus and river.into:
        figure = network_figure.add(figure, _rival(river, river.into, how), theme=how.theme)
    facts = {
        "state": "ready",
        "controls": markup.pieces([insides.group_of_buttons(group) for group in controls(river, how)]),
        "lead": lead(view, river),
        "note": markup.pieces(_notes(view, river, drawn)),
        "line": f"run {view.card.name} ({view.card.run[:12]}), {lead(view, river)}",
        "height": int(figure.layout.height),
    }
    return facts, figure


def _height(river: RunRiver, how: Asked) -> int:
    return round(RIVAL_SHARE * HEIGHT) if how.versus and river.into else HEIGHT


def controls(river: RunRiver, how: Asked) -> tuple[Choices, ...]:
    """Return how the river can be drawn: layers, share, and what is drawn beside."""
    detail = [("", "Blocks", "blocks"), ("sites", "Every layer", "sites")]
    shares = [("" if share == ViewState().share else f"{share:g}", percent(share), f"{share:g}") for share in SHARES]
    beside = [("", "Nothing", ""), (INTO, "Clean images of the classes fooled into", INTO)]
    return (
        _group("detail", "Layers", detail, how.detail),
        _group("share", "Top-k per layer", shares, f"{how.share:g}"),
        *([_group("versus", "Compare with", beside, how.versus)] if river.into else []),
    )


def _group(field: str, title: str, options: list[tuple[str, str, str]], chosen: str) -> Choices:
    buttons = tuple(Choice(value, text, text, own == chosen) for value, text, own in options)
    return Choices(field, title, buttons, takes_several=False)


def lead(view: RunView, river: RunRiver) -> str:
    """Return how many images are behind the bars and behind the bands."""
    inside = river.inside
    model = view.manifest.model(inside.scope.role).name
    bars = (
        f"{model}, top {percent(river.comparison.share)} of each layer: {inside.clean_n:,} clean and {inside.n:,} attacked images"
        f"{f', {inside.noise_n:,} under noise' if inside.noise_n else ''}"
    )
    if river.without:
        return f"{bars}."
    sample = river.connected
    return f"{bars}; connections: {sample['clean']} clean and {sample['adversarial']} attacked ones of the sample."


def _drawing(view: RunView, river: RunRiver, drawn: network.River) -> network_figure.Drawing:
    similarity, names = likeness(river), answers(view, river)
    curves = network.curves_of(river, river.comparison, drawn, similarity, names)
    unit = "all conductance of an image"
    no_noise = "the run has no noise control" if not river.inside.controls else "no image under noise"
    curves = replace(curves, flow_unit=unit, no_noise=no_noise)
    return network_figure.Drawing(
        drawn, curves, frozenset({"clean", "adversarial"}), names, click="click to list the channels of the layer"
    )


def answers(view: RunView, river: RunRiver) -> tuple[str, str]:
    """Return what clean and attacked images are called: their class where one is chosen."""
    labels = river.inside.scope.classes
    names = class_handles(view.manifest.classes)
    true = names[labels[0]] if len(labels) == 1 else "true class"
    return true, true if river.keeps_class else "other class"


def likeness(river: RunRiver) -> ClassSimilarity:
    """Return how alike the adversarial datapath is to the clean one of its classes, and to that of the classes fooled into."""
    own = tuple(1.0 - site.distance for site in river.comparison.sites)
    other = river.into.likeness if river.into else own
    return ClassSimilarity(own, other, river.inside.clean_n, None)


def _rival(river: RunRiver, into: IntoClasses, how: Asked) -> network_figure.Drawing:
    """Return the clean images of the classes fooled into in the clean images' place; of their connections nothing is known."""
    unknown = tuple(replace(link, clean=np.zeros_like(link.clean)) for link in river.connections)
    rival = replace(river, comparison=into.comparison, connections=unknown)
    drawn = network.build_river(rival, rival.comparison, how.detail, how.folded)
    names = ("other class", "other class")
    curves = network.curves_of(rival, rival.comparison, drawn, None, names)
    curves = replace(curves, flow=(None,) * len(curves.flow))
    title = f"clean images of {into.classes} classes fooled into (n = {into.clean_n:,})"
    return network_figure.Drawing(drawn, curves, frozenset({"clean", "adversarial"}), names, title)


def _notes(view: RunView, river: RunRiver, drawn: network.River) -> list[Component]:
    inexact = [band for band in drawn.bands if band.inexact]
    reasons = list(dict.fromkeys(reason for band in inexact for reason in band.inexact))
    parts = [
        river.without,
        f"{drawn.hidden} weak connections (under {percent(network.HIDDEN_BELOW)}) are not drawn."
        if drawn.hidden
        else "",
        f"{len(inexact)} of {len(drawn.bands)} bands are not exact (dotted outlines): {reasons[0]}." if inexact else "",
        _sample(view, river),
        NOT_FILTERED if river.into else "",
    ]
    text = " ".join(part for part in parts if part)
    return [*([html.P(text, className="note")] if text else []), html.P(RULE, className="note"), _table(view, river)]


def _sample(view: RunView, river: RunRiver) -> str:
    if river.without:
        return ""
    held = len(view.manifest.connected)
    return (
        f"Bands: exact connections, mean over the images of this choice among the {held} of {len(view.manifest.images.samples):,} "
        "that the run's manifest names for it; an image counts once for each attack that it met."
    )


HEADS: Final = ("Layer", "Channels", "Clean only", "Shared", "Adversarial only", "Also under noise", "Distance",
                "Distance, noise", "Likeness to fooled-into", "Example")  # fmt: skip


def _table(view: RunView, river: RunRiver) -> html.Details:
    rows = []
    for k, (site, sets) in enumerate(zip(river.sites, river.comparison.sites, strict=True)):
        layer = html.Button(
            site.name, className="plain-button", **data(inside="within", value=site.name), **term("within")
        )
        noise = "–" if sets.floor_low != sets.floor_low else f"{number(sets.floor_low)} to {number(sets.floor_high)}"
        counts = (site.channels, *map(len, (sets.clean_only, sets.shared, sets.adversarial_only, sets.noise_also)))
        query = insides.layer_query(view, river.inside, site.name)
        example = html.A("Explain", href=f"/?{query}", **aria(label=f"Explain {site.name}")) if query else "–"
        like = number(river.into.likeness[k]) if river.into else "–"
        cells = [*(f"{count:,}" for count in counts), number(sets.distance), noise, like, example]
        rows.append(html.Tr([html.Th(layer, scope="row"), *map(html.Td, cells)]))
    frame = html.Div(html.Table([markup.head(HEADS), html.Tbody(rows)]), className="table-scroll", tabIndex=0, role="region",
                     **aria(label="The river as a table"))  # fmt: skip
    return html.Details([html.Summary("As a table", **term("inside-river")), frame], className="twin")


PANELS: Final = (protocol.Panel("inside-river", answer, ids.INSIDE_RIVER, again=5000),)
