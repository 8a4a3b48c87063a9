"""How far the work for one view has come: menus, counts and status line, asked again while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from dashboard import links, protocol
from dashboard.auditor import Auditor
from dashboard.links import GROUP, GROUP_SIZE, SHARES, Resolved, ViewState, epsilon_setting
from dashboard.wording import percent
from engine import (
    METHODS,
    Answer,
    AttackCard,
    Certificates,
    EngineError,
    Examination,
    ExaminationRequest,
    Outcome,
    Roster,
    class_handles,
    compare,
    flatten,
)

Status = Literal["fooled", "resisted", "clean_wrong", "unperturbed", "failed"]
ANY = "any"
NOTHING = "nothing"
"""What the menu of rivals says where none is drawn beside."""
MOST_SAMPLES = 500
"""Samples one menu offers; the rest are reached by link."""
COUNTED: tuple[Status, ...] = ("clean_wrong", "fooled", "resisted", "unperturbed", "failed")
ALWAYS_COUNTED = ("clean_wrong", "fooled", "resisted")
Option = dict[str, object]
Stage = str
"""`setup`, `roster`, `empty`, `examination`, `certificates`, `gallery`, `done` or `failed`."""
AGAIN = 600
"""Milliseconds between two looks while work goes on."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Menu:
    """One menu: its options in order and the value that is shown."""

    options: tuple[Option, ...]
    value: str | None


def build(resolved: Resolved) -> dict[str, Menu]:
    """Return the menus by the name of the view field they set."""
    view = resolved.view
    return {
        "model": Menu(_plain(card.name for card in resolved.models), view.model),
        "data": Menu(_plain(card.name for card in resolved.datasets), view.data),
        "label": Menu(_classes(resolved), view.label),
        "attack": Menu(_attacks(resolved.attacks), view.attack),
        "epsilon": Menu(_strengths(resolved), view.epsilon),
        "outcome": Menu(_outcomes(resolved), view.outcome),
        "sample": Menu(_samples(resolved), view.sample),
        "method": Menu(_methods(resolved.methods), view.method),
        "share": Menu(tuple(_option(f"{share:g}", percent(share)) for share in SHARES), f"{view.share:g}"),
        "versus": Menu(_rivals(resolved), view.versus or NOTHING),
        "layer": Menu(_plain(site.name for site in resolved.model.sites) if resolved.model else (), view.layer),
    }


def counts(roster: Roster) -> str:
    """Return how every attempted image of the class ended, as one line; nothing that happened is left out."""
    told = [f"{len(roster.outcomes)} attempted"]
    for status in COUNTED:
        number = len(roster.with_status(status))
        if number or status in ALWAYS_COUNTED:
            told.append(f"{number} {status.replace('_', ' ')}")
    return " · ".join(told)


def scales(attacks: Sequence[AttackCard]) -> dict[str, str]:
    """Return per attack the scale of its strength, `pixel`, `length` or `area`: a strength is kept only within one."""
    settings = {card.name: epsilon_setting(card) for card in attacks}
    return {name: links.scale(setting) for name, setting in settings.items() if setting}


def _option(value: str, label: str) -> Option:
    return {"value": value, "label": label}


def _plain(names: Iterable[str]) -> tuple[Option, ...]:
    return tuple(_option(name, name) for name in names)


def _strengths(resolved: Resolved) -> tuple[Option, ...]:
    setting = epsilon_setting(resolved.attack) if resolved.attack else None
    if setting is None:
        return ()
    return tuple(_option(text, links.strength_title(setting, text)) for text in links.strengths(resolved))


def _classes(resolved: Resolved) -> tuple[Option, ...]:
    if resolved.data is None:
        return ()
    pairs = zip(class_handles(resolved.data.classes), resolved.data.class_counts, strict=True)
    return (_option(ANY, "First class that fits"), *(_option(name, name) for name, count in pairs if count))


def _attacks(cards: Sequence[AttackCard]) -> tuple[Option, ...]:
    groups = (("Attacks", False), ("Noise controls", True))
    found: list[Option] = [
        {"group": title, "items": [_option(card.name, card.title) for card in cards if card.is_control is is_control]}
        for title, is_control in groups
    ]
    return tuple(group for group in found if group["items"])


def _rivals(resolved: Resolved) -> tuple[Option, ...]:
    found = links.rivals(resolved)
    return (_option(NOTHING, "nothing"), *(_option(value, title) for value, title in found.items())) if found else ()


def _outcomes(resolved: Resolved) -> tuple[Option, ...]:
    roster = resolved.roster.value if resolved.roster else None
    numbers = {"fooled": None, "resisted": None} if roster is None else _numbers(roster)
    return tuple(
        _option(name, name.capitalize() if number is None else f"{name.capitalize()} ({number})")
        for name, number in numbers.items()
    )


def _numbers(roster: Roster) -> dict[str, int | None]:
    return {"fooled": len(roster.with_status("fooled")), "resisted": len(roster.with_status("resisted"))}


def _samples(resolved: Resolved) -> tuple[Option, ...]:
    outcomes = resolved.outcomes[:MOST_SAMPLES]
    if not outcomes or resolved.model is None:
        return ()
    group = _option(GROUP, f"First {min(GROUP_SIZE, len(outcomes))} together")
    singles = tuple(_option(entry.sample, _sample(entry, class_handles(resolved.model.classes))) for entry in outcomes)
    return (group, *singles) if len(outcomes) > 1 else singles


def _sample(entry: Outcome, classes: tuple[str, ...]) -> str:
    into = f" → {classes[entry.after.label]}" if entry.after.label != entry.before.label else ""
    return f"{entry.sample}{into} · {percent(entry.after.confidence)}"


def _methods(names: Sequence[str]) -> tuple[Option, ...]:
    return tuple(_option(name, METHODS[name].title) for name in names)


@dataclass(frozen=True, slots=True)
class Progress:
    """The status line and its bar."""

    text: str
    done: int = 0
    total: int = 0
    is_working: bool = False
    can_retry: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """One answer to the page. Plain values only: it travels as JSON."""

    view: dict[str, Any] | None
    stage: Stage
    progress: Progress
    key: str | None = None
    request: dict[str, Any] | None = None
    rival: dict[str, Any] | None = None
    """The request of the attack drawn beside, once it has been examined."""
    arrived: tuple[str, ...] = ()
    """Certificate parts that have arrived or failed."""
    gallery: str = ""
    """State of the gallery: `ready`, `working` or `failed`."""
    counts: str = ""
    notices: tuple[str, ...] = ()
    menus: dict[str, Menu] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    empty: dict[str, str] | None = None
    """Title and text of the empty state, when there is nothing to show."""


def setup() -> tuple[Stage, Progress, dict[str, str]]:
    """The store holds no model, or no data that fits it."""
    text = "Waiting for a model and a data set that fits it."
    empty = {
        "title": "No model to show yet",
        "text": "This store holds no model with a data set that fits it. On a first start the demonstration is being "
        "prepared, which takes a minute; otherwise add them with `python -m engine model add` and "
        "`python -m engine data add`. This page goes on by itself.",
    }
    return "setup", Progress(text, is_working=True), empty


def empty_state(resolved: Resolved) -> dict[str, str]:
    """Why there is no image of the chosen outcome: the counts, and what to change."""
    view = resolved.view
    roster = resolved.roster.value if resolved.roster else None
    other: Status = "resisted" if view.outcome == "fooled" else "fooled"
    there = len(roster.with_status(other)) if roster else 0
    hint = f"set the outcome to '{other}' ({there} here), " if there else ""
    turn = "raise" if view.outcome == "fooled" else "lower"
    return {
        "title": f"No image of class '{view.label}' {'was fooled' if view.outcome == 'fooled' else 'resisted'}",
        "text": f"{counts(roster) if roster else 'Nothing attacked yet'}. To see something, {hint}{turn} "
        f"epsilon, or choose another class or attack.",
    }


def failed_state(message: str) -> dict[str, str]:
    """Why nothing is shown, and what can be done."""
    text = message or "The work ended without a result."
    return {"title": "This view could not be made", "text": f"{text} Try again, or change the filters."}


def roster_progress(resolved: Resolved, answer: Answer[Any]) -> Progress:
    """How far the attack on the images of the class is."""
    doing = answer.message or f"Attacking the images of class '{resolved.view.label}'"
    return _progress(doing, answer)


def examination_progress(resolved: Resolved, answer: Answer[Any]) -> Progress:
    """How far the examination of the sample is."""
    return _progress(answer.message or f"Examining sample {resolved.view.sample}", answer)


def rival_progress(answer: Answer[Any]) -> Progress:
    """How far the examination under the attack that is drawn beside is."""
    if answer.state == "failed":
        return Progress(f"The attack to draw beside could not be examined: {answer.message}", can_retry=True)
    return _progress(answer.message or "Examining the attack to draw beside", answer)


def checks_progress(certificates: Answer[Any], gallery: Answer[Any]) -> Progress:
    """How far the checks and the gallery are, once the datapaths can be seen."""
    if certificates.state == "working":
        return _progress(certificates.message or "Checking how far the datapaths can be trusted", certificates)
    if gallery.state == "working":
        return _progress(gallery.message or "Collecting what every feature map looks for", gallery)
    failed = [answer.message for answer in (certificates, gallery) if answer.state == "failed"]
    missing = certificates.value.failed if certificates.value else ()
    if failed or missing:
        return Progress(" ".join((*failed, *missing)) or "A check ended without a result.", can_retry=True)
    unavailable = certificates.value.unavailable if certificates.value else ()
    return Progress(" ".join(("All checks of this view have run.", *unavailable)), 1, 1)


def failure(message: str) -> Progress:
    """A piece of work ended without a result."""
    return Progress(message or "The work ended without a result.", can_retry=True)


def _progress(text: str, answer: Answer[Any]) -> Progress:
    counted = f"{text.rstrip('. …')} … {answer.done} of {answer.total}" if answer.total else f"{text.rstrip('. …')} …"
    return Progress(counted, answer.done, answer.total, is_working=True)


def default_layer(examination: Examination, parts_at: str | None) -> str:
    """Where to look first: the site where the datapaths part, else the last site that is not cut."""
    open_sites = [site.name for site in examination.sites if not site.is_cut]
    return parts_at or (open_sites or [site.name for site in examination.sites])[-1]


def default_channel(examination: Examination, layer: str) -> int:
    """Which map to look at first: the strongest in either datapath, like the first tile of the layer level."""
    site = [place.name for place in examination.sites].index(layer)
    clean, adversarial = examination.clean.strength[site], examination.adversarial.strength[site]
    strongest = [max(pair) for pair in zip(clean.tolist(), adversarial.tolist(), strict=True)]
    return strongest.index(max(strongest))


def answer(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Return how far the work for the view that is asked about is, as plain values."""
    found = look(ask.get("view"), auditor)
    return {**asdict(found), "again": found.progress.is_working}


def look(stored: object, auditor: Auditor) -> Work:
    """Return how far the work for a stored view is, asking for what is missing. An engine's error becomes its text."""
    view = ViewState.from_dict(stored)
    try:
        resolved = links.resolve(view, auditor)
        found = _look(resolved, auditor)
    except EngineError as error:
        logger.warning("A view could not be answered: %s", error)
        return _failed(view, str(error))
    return replace(
        found,
        notices=(*links.complaints(stored), *resolved.notices),
        menus=build(replace(resolved, view=ViewState.from_dict(found.view))),
        scales=scales(resolved.attacks),
    )


def _look(resolved: Resolved, auditor: Auditor) -> Work:
    view, roster = asdict(resolved.view), resolved.roster
    if roster is None:
        stage, progress, empty = setup()
        return Work(view, stage, progress, empty=empty)
    if roster.state == "failed":
        return _failed(resolved.view, roster.message)
    if roster.value is None or roster.state != "ready":
        return Work(view, "roster", roster_progress(resolved, roster))
    ended = counts(roster.value)
    if resolved.request is None:
        return Work(view, "empty", Progress("Nothing to show."), counts=ended, empty=empty_state(resolved))
    found = replace(_examined(resolved, resolved.request, auditor), counts=ended)
    return _beside(found, resolved.rival, auditor) if found.key and resolved.rival else found


def _beside(found: Work, rival: ExaminationRequest, auditor: Auditor) -> Work:
    """Add the attack that is drawn beside, or how far its examination is."""
    answer = auditor.examination(rival)
    if answer.value is None:
        return replace(found, progress=rival_progress(answer))
    return replace(found, rival=flatten(rival).value)


def _failed(view: ViewState, message: str) -> Work:
    return Work(asdict(view), "failed", failure(message), empty=failed_state(message))


def _examined(resolved: Resolved, request: ExaminationRequest, auditor: Auditor) -> Work:
    answer = auditor.examination(request)
    if answer.state == "failed":
        return _failed(resolved.view, answer.message)
    if answer.value is None:
        return Work(asdict(resolved.view), "examination", examination_progress(resolved, answer))
    return _checked(_focused(resolved.view, answer.value), answer.value, auditor)


def _checked(view: ViewState, examination: Examination, auditor: Auditor) -> Work:
    request = examination.request
    certificates = auditor.certificates(request)
    gallery = auditor.gallery(request.model, request.data)
    known = certificates.value or Certificates()
    return Work(
        asdict(view),
        _stage(certificates, gallery),
        checks_progress(certificates, gallery),
        key=examination.key,
        request=flatten(request).value,
        arrived=(*known.done, *known.failed),
        gallery=gallery.state,
    )


def _stage(certificates: Answer[Any], gallery: Answer[Any]) -> str:
    if certificates.state == "working":
        return "certificates"
    return "gallery" if gallery.state == "working" else "done"


def _focused(view: ViewState, examination: Examination) -> ViewState:
    """Choose the layer and map to look at first, where the view names none."""
    layer = view.layer
    if layer is None:
        layer = default_layer(examination, compare(examination, view.share).parts_at)
    channel = default_channel(examination, layer) if view.channel is None else view.channel
    return replace(view, layer=layer, channel=channel)


PANELS: Final = (protocol.plain("work", answer, again=AGAIN),)
