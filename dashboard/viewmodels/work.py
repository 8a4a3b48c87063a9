"""How far the work for one view has come: what the page's status line, menus and panels are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dashboard.resolution import Resolved
from dashboard.viewmodels import menus
from dashboard.viewmodels.menus import Menu
from engine import Answer, Examination

Stage = str
"""`setup`, `roster`, `empty`, `examination`, `certificates`, `gallery`, `done` or `failed`."""


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
    other: menus.Status = "resisted" if view.outcome == "fooled" else "fooled"
    there = len(roster.with_status(other)) if roster else 0
    hint = f"set the outcome to '{other}' ({there} here), " if there else ""
    turn = "raise" if view.outcome == "fooled" else "lower"
    return {
        "title": f"No image of class '{view.label}' {'was fooled' if view.outcome == 'fooled' else 'resisted'}",
        "text": f"{menus.counts(roster) if roster else 'Nothing attacked yet'}. To see something, {hint}{turn} "
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
