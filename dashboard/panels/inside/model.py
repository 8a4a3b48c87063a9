"""What a run says of the inside of its model, as texts and rows: what can be chosen, what is shown, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component

from dashboard.links import CHOICES, LISTS
from dashboard.markup import aria, data, term
from dashboard.panels.audits import model as audits
from dashboard.wording import number
from engine import ATTACKING, BadInput, Condition, Estimate, Inside, RunView, Scope, WeakMap, class_handles

OUTCOMES: Final = {"fooled": "fooled", "kept": "resisted"}
"""What the levels call images of each group."""
CLAIM: Final = (
    "Conductance says where a change passes, not that undoing it restores the label: the causal test of Explain decides "
    "that, against random channels of the same layers."
)
LAYERS: Final = (
    "Above: net attack conductance of a layer, as a share of all conductance of an image, whatever its sign. Below: the share "
    "of all scores that falls on the layer, under attack minus clean. Grey: the same under the noise controls, over images "
    "that stayed right. Layers overlap; one that every path crosses carries the whole margin, so such layers have equal "
    "bars. Without intervals: the run stores sums by feature map, which do not say how the maps of one image vary together."
)
SCALE: Final = (
    "1 is what a feature map carries on average in the same image, whatever its sign: above noise means a larger part of the "
    "change, not a larger change. Sorted by mean conductance; in Student's t over images and in Welch's test an image is one, "
    "however many attacks or noises it met."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One button of a group: what it sets, and whether it is set."""

    value: str
    """Empty for the one that takes a choice back."""
    title: str
    full: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Choices:
    """A group of buttons that sets one field of the view."""

    field: str
    title: str
    options: tuple[Choice, ...]
    takes_several: bool


@dataclass(frozen=True, slots=True)
class MapRow:
    """One feature map of the table."""

    name: str
    link: str
    """Query of Explain at this layer and channel; empty where the levels cannot show it."""
    flow: str
    layer_mean: str
    noise: str
    p: str
    n: str
    is_above: bool
    """Whether more goes through it than under noise, by the adjusted p."""


@dataclass(frozen=True, slots=True)
class Described:
    """The parts that stand beside the charts."""

    lead: str
    notes: tuple[str, ...]
    """What is missing, one sentence each."""
    clusters: str
    maps: tuple[MapRow, ...]
    maps_title: str


def scope(stored: Mapping[str, Any]) -> Scope:
    """Return the checked part of a run that the page asks about; raises BadInput."""
    role, ended = stored.get("role"), stored.get("ended")
    if role not in (None, "", *CHOICES["role"]) or ended not in (None, "", *CHOICES["ended"]):
        raise BadInput("The page asked for a part of the run that does not exist; reload it.")
    return Scope(
        "baseline" if role == "baseline" else "candidate",
        _places(stored, "attacks"),
        _places(stored, "classes"),
        "kept" if ended == "kept" else "fooled",
        _layer(stored),
    )


def _layer(stored: Mapping[str, Any]) -> str:
    layer = stored.get("within")
    if layer is not None and not isinstance(layer, str):
        raise BadInput("The page asked for a layer that has no name; reload it.")
    return layer or ""


def _places(stored: Mapping[str, Any], name: str) -> tuple[int, ...]:
    text = stored.get(name)
    if text in (None, ""):
        return ()
    if not isinstance(text, str) or not LISTS[name].fullmatch(text):
        raise BadInput(f"The page asked for {name} '{str(text)[:40]}', which is no list of numbers; reload it.")
    return tuple(sorted({int(part) for part in text.split(",")}))


def attacks(view: RunView, role: str) -> dict[int, Condition]:
    """Return the conditions of a model that were made to fool and whose feature maps were scored, by their place."""
    planned = enumerate(one for one in view.manifest.conditions if one.role == role)
    return {place: one for place, one in planned if one.kind in ATTACKING and view.manifest.scores(one)}


def choices(view: RunView, scope: Scope) -> tuple[Choices, ...]:
    """Return what can be chosen: the model where there are two, how the images ended, attacks and classes."""
    models = [(model.role, f"{model.name} ({model.role})") for model in view.manifest.models]
    known, names = attacks(view, scope.role), class_handles(view.manifest.classes)
    groups = [_one("role", "Model", models, scope.role)] if len(models) > 1 else []
    groups.append(_one("ended", "Images", [("fooled", "Fooled"), ("kept", "Kept their answer")], scope.group))
    if len(known) > 1:
        own = [(place, audits.short_name(one.name), one.name) for place, one in known.items()]
        groups.append(_several("attacks", "Attacks", own, scope.attacks))
    classes = [(label, name, name) for label, name in enumerate(names)]
    return (*groups, _several("classes", "True classes", classes, scope.classes))


def _one(field: str, title: str, options: Sequence[tuple[str, str]], chosen: str) -> Choices:
    # The first is what a link without the field shows.
    values = ["", *(value for value, _ in options[1:])]
    shown = (Choice(value, text, text, own == chosen) for value, (own, text) in zip(values, options, strict=True))
    return Choices(field, title, tuple(shown), takes_several=False)


def _several(field: str, title: str, options: Sequence[tuple[int, str, str]], chosen: Sequence[int]) -> Choices:
    shown = (Choice(str(place), text, full, place in chosen) for place, text, full in options)
    return Choices(field, title, (Choice("", "All", "All of them", not chosen), *shown), takes_several=True)


GROUPS: Final = {
    "role": "inside-role",
    "ended": "inside-ended",
    "attacks": "inside-attacks",
    "classes": "inside-classes",
    "detail": "detail",
    "share": "share-select",
    "versus": "versus-select",
}
"""The term of each group of buttons."""


def group_of_buttons(group: Choices) -> Component:
    """Return a group of buttons; assets/inside.js makes a step of the link of each click."""
    buttons = [
        html.Button(
            option.title,
            className="plain-button",
            title=option.full,
            **data(inside=group.field, value=option.value),
            **aria(pressed="true" if option.is_chosen else "false"),
            **term(GROUPS[group.field]),
        )
        for option in group.options
    ]
    name = html.Span(group.title, className="control-label")
    return html.Div([name, html.Div(buttons, className="inside-options")], className="inside-choice", role="group",
                    **aria(label=group.title))  # fmt: skip


def described(view: RunView, inside: Inside) -> Described:
    """Return what a run says of a scope, in words."""
    return Described(
        lead(view, inside),
        _missing(inside),
        _clusters(inside),
        tuple(_map(view, inside, one) for one in inside.maps),
        _maps_title(inside),
    )


def _maps_title(inside: Inside) -> str:
    layer = inside.scope.layer
    own = next((one.channels for one in inside.layers if one.layer == layer), inside.tested)
    where = f" of layer {layer}" if layer else ""
    return f"{len(inside.maps)} of {own:,} feature maps{where}, those that carry most of the attack"


def lead(view: RunView, inside: Inside) -> str:
    """Return what is shown and how many images are behind it, or that there are none."""
    interim = "Interim, of the parts that are done: " if view.summary.is_interim else ""
    model = f"{interim}{view.manifest.model(inside.scope.role).name}"
    under = f"{_attacks(view, inside)}, {_classes(view, inside)}"
    if not inside.n:
        how = "was fooled" if inside.scope.group == "fooled" else "kept its right answer"
        return f"{interim}No image {how}: {model.removeprefix(interim)}, {under}.{_broken(view, inside)}"
    how = "fooled" if inside.scope.group == "fooled" else "kept right"
    times = f" (an image counts once for each of {len(inside.attacks)} attacks)" if len(inside.attacks) > 1 else ""
    noise = f"; noise n = {inside.noise_n:,}" if inside.controls else ""
    return f"{model}, images {how}: {under}. n = {inside.n:,}{times}{noise}; clean n = {inside.clean_n:,}.{_broken(view, inside)}"


def _broken(view: RunView, inside: Inside) -> str:
    """Return which of the chosen attacks broke down, and on how many images; empty where none did."""
    known = attacks(view, inside.scope.role)
    names = {known[place].name for place in inside.attacks}
    told = [
        f" {audits.short_name(one.name)} broke down on {one.statuses['failed']:,} of {one.attempted:,} images, which count nowhere."
        for model in view.summary.models
        if model.role == inside.scope.role
        for one in model.conditions
        if one.name in names and one.statuses.get("failed")
    ]
    return "".join(told)


def _attacks(view: RunView, inside: Inside) -> str:
    known = attacks(view, inside.scope.role)
    if len(inside.attacks) == len(known) > 1:
        return "both attacks" if len(known) == 2 else f"all {len(known)} attacks"
    return ", ".join(audits.short_name(known[place].name) for place in inside.attacks)


def _classes(view: RunView, inside: Inside) -> str:
    names = class_handles(view.manifest.classes)
    chosen = [names[label] for label in inside.scope.classes]
    if not chosen:
        return "all classes"
    return f"class{'es' if len(chosen) > 1 else ''} {', '.join(chosen)}"


def _missing(inside: Inside) -> tuple[str, ...]:
    if not inside.controls:
        return ("This run has no noise control, so no floor is drawn and no feature map is tested against noise.",)
    if not inside.noise_n:
        return ("No image of these classes stayed right under noise, so no floor is drawn.",)
    return ()


def _clusters(inside: Inside) -> str:
    shown, clusters = len(inside.classes), inside.clusters
    cut = f"The {shown} classes with the most images, of {inside.with_images}. " if shown < inside.with_images else ""
    scale = "Bars: attack conductance by layer, divided by the sum of its sizes. "
    if clusters is None:
        return f"{cut}{scale}Fewer than four classes are shown, too few to say whether they cluster."
    fit = (
        f"cophenetic correlation {number(clusters.correlation)}, p = {number(clusters.p_value)} over {clusters.mixtures} "
        "random mixtures of the classes, in which layers vary together as they do here"
    )
    if not clusters.is_better:
        return f"{cut}{scale}Classes cluster no better than classes mixed at random, so they stand in their own order ({fit})."
    return f"{cut}{scale}Classes that fail in the same layers stand together, more clearly than in classes mixed at random ({fit})."


def _map(view: RunView, inside: Inside, one: WeakMap) -> MapRow:
    noise = measured(one.noise) if one.noise else "–"
    counted = f"{one.flow.n:,}" + (f", noise {one.noise.n:,}" if one.noise else "")
    p = "–" if one.p_value is None else probability(one.p_value)
    return MapRow(
        f"{one.layer} · {one.channel}",
        link(view, inside, one),
        measured(one.flow),
        number(one.layer_mean),
        noise,
        p,
        counted,
        one.is_above_noise,
    )


def measured(estimate: Estimate) -> str:
    """Return a mean with its interval; of fewer than two images the mean alone."""
    if estimate.low != estimate.low:  # NaN
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def probability(p_value: float) -> str:
    """Return a p as the tables of a run write it."""
    return f"< {audits.SMALLEST_P}" if p_value < audits.SMALLEST_P else f"{p_value:.3f}"


def link(view: RunView, inside: Inside, one: WeakMap) -> str:
    """Return the query of an image of the scope at a feature map; empty where the levels can show no such image."""
    query = layer_query(view, inside, one.layer)
    return f"{query}&{urlencode({'channel': one.channel})}" if query else ""


def layer_query(view: RunView, inside: Inside, layer: str) -> str:
    """Return the query of an image of the scope at a layer; empty where the levels can show no such image."""
    known, names = attacks(view, inside.scope.role), class_handles(view.manifest.classes)
    query = audits.example_query(
        view,
        inside.scope.role,
        [known[place].name for place in inside.attacks],
        [names[label] for label in inside.scope.classes],
        OUTCOMES[inside.scope.group],
    )
    return f"{query}&{urlencode({'layer': layer})}" if query else ""


def images_query(view: RunView, inside: Inside, label: int | None = None) -> str:
    """Return the query of the images that a scope counts, or of those of one class."""
    scope = inside.scope
    classes = scope.classes if label is None else (label,)
    fields = {
        "page": "audits", "run": view.card.run, "role": "" if scope.role == "candidate" else scope.role,
        "attacks": ",".join(map(str, scope.attacks)), "classes": ",".join(map(str, classes)),
        "ended": "" if scope.group == "fooled" else scope.group,
    }  # fmt: skip
    return urlencode({name: value for name, value in fields.items() if value})


Table = tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]
"""Heads and rows of a file."""


def layers_table(view: RunView, inside: Inside) -> Table:
    """Return every layer's shares in full."""
    heads = ("role", "model", "outcome", "layer", "channels", "conductance_share", "noise_conductance_share", "score_share_change",
             "noise_score_share_change", "n", "noise_n", "clean_n")  # fmt: skip
    rows = tuple(
        (
            *_of(view, inside), one.layer, one.channels, one.flow, one.noise_flow, one.score,
            one.noise_score, inside.n, inside.noise_n, inside.clean_n,
        )
        for one in inside.layers
    )  # fmt: skip
    return heads, rows


def classes_table(view: RunView, inside: Inside) -> Table:
    """Return every shown class's share at every layer in full."""
    names, layers = class_handles(view.manifest.classes), view.manifest.model(inside.scope.role).sites
    heads = ("role", "model", "outcome", "class", "n", "cluster", "layer", "conductance_share")
    rows = tuple(
        (*_of(view, inside), names[own.label], own.n, own.cluster or None, layer, share)
        for own in inside.classes
        for (layer, _), share in zip(layers, own.layers, strict=True)
    )
    return heads, rows


def maps_table(view: RunView, inside: Inside) -> Table:
    """Return the strongest feature maps in full."""
    heads = ("role", "model", "outcome", "layer", "channel", "conductance", "low", "high", "noise", "noise_low", "noise_high",
             "p_holm", "n", "noise_n", "interval", "of_maps", "layer_mean")  # fmt: skip
    rows = tuple(
        (
            *_of(view, inside), one.layer, one.channel, *_ends(one.flow), *_ends(one.noise), one.p_value,
            inside.n, inside.noise_n, "Student's t, 95 %", inside.tested, one.layer_mean,
        )
        for one in inside.maps
    )  # fmt: skip
    return heads, rows


def _of(view: RunView, inside: Inside) -> tuple[str, str, str]:
    role = inside.scope.role
    return role, view.manifest.model(role).name, inside.scope.group


def _ends(estimate: Estimate | None) -> tuple[float | None, ...]:
    if estimate is None:
        return None, None, None
    return tuple(None if value != value else value for value in (estimate.value, estimate.low, estimate.high))


TABLES: Final = {"inside-layers": layers_table, "inside-classes": classes_table, "inside-maps": maps_table}
"""By the name of the file."""
