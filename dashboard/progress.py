"""How far the work for one view has come: menus, counts and status line, asked again while it goes on."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from dashboard import links, protocol, strengths
from dashboard.auditor import Auditor
from dashboard.links import GROUP_SIZE, PAIR, SHARES, Resolved, ViewState
from dashboard.panels.network import verdict
from dashboard.wording import percent
from engine import (
    METHODS,
    Answer,
    AttackCard,
    AttackResults,
    EngineError,
    Explanation,
    ExplanationRequest,
    Faithfulness,
    Outcome,
    class_handles,
    compare,
    flatten,
    installed_versions,
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
"""`setup`, `attack results`, `empty`, `explanation`, `noise control`, `faithfulness`, `gallery`, `done` or `failed`."""
NOISE_CONTROL = "noise control"
"""Among what has arrived: what the datapaths of a pair are measured against."""
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


def counts(attack_results: AttackResults) -> str:
    """Return how every attempted image of the class ended, as one line; nothing that happened is left out."""
    results = [f"{len(attack_results.outcomes)} attempted"]
    for status in COUNTED:
        number = len(attack_results.with_status(status))
        if number or status in ALWAYS_COUNTED:
            results.append(f"{number} {status.replace('_', ' ')}")
    return " · ".join(results)


def scales(attacks: Sequence[AttackCard]) -> dict[str, str]:
    """Return per attack the scale of its strength, `pixel`, `length`, `sum` or `area`: a strength is kept only within one."""
    settings = {card.name: strengths.epsilon_setting(card) for card in attacks}
    return {name: strengths.scale(setting) for name, setting in settings.items() if setting}


def _option(value: str, label: str) -> Option:
    return {"value": value, "label": label}


def _plain(names: Iterable[str]) -> tuple[Option, ...]:
    return tuple(_option(name, name) for name in names)


def _strengths(resolved: Resolved) -> tuple[Option, ...]:
    setting = strengths.epsilon_setting(resolved.attack) if resolved.attack else None
    if setting is None:
        return ()
    return tuple(
        _option(text, strengths.strength_title(setting, text))
        for text in strengths.offered(resolved.attack, resolved.view.epsilon)
    )


def _classes(resolved: Resolved) -> tuple[Option, ...]:
    if resolved.data is None:
        return ()
    pairs = zip(class_handles(resolved.data.classes), resolved.data.class_counts, strict=True)
    return (_option(ANY, "First class that fits"), *(_option(name, name) for name, count in pairs if count))


def _attacks(cards: Sequence[AttackCard]) -> tuple[Option, ...]:
    groups = (("Attacks", False), ("Noise controls", True))
    attacks: list[Option] = [
        {"group": title, "items": [_option(card.name, card.title) for card in cards if card.is_control is is_control]}
        for title, is_control in groups
    ]
    return tuple(group for group in attacks if group["items"])


def _rivals(resolved: Resolved) -> tuple[Option, ...]:
    rivals = links.rivals(resolved)
    return (_option(NOTHING, "nothing"), *(_option(value, title) for value, title in rivals.items())) if rivals else ()


def _outcomes(resolved: Resolved) -> tuple[Option, ...]:
    attack_results = resolved.attack_results.value if resolved.attack_results else None
    numbers = {"fooled": None, "resisted": None} if attack_results is None else _numbers(attack_results)
    return tuple(
        _option(name, name.capitalize() if number is None else f"{name.capitalize()} ({number})")
        for name, number in numbers.items()
    )


def _numbers(attack_results: AttackResults) -> dict[str, int | None]:
    return {
        "fooled": len(attack_results.with_status("fooled")),
        "resisted": len(attack_results.with_status("resisted")),
    }


def _samples(resolved: Resolved) -> tuple[Option, ...]:
    outcomes = resolved.outcomes[:MOST_SAMPLES]
    if not outcomes or resolved.model is None:
        return ()
    groups = tuple(_option(value, _scope(value, keys)) for value, keys in links.scopes(resolved).items())
    singles = tuple(_option(entry.sample, _sample(entry, class_handles(resolved.model.classes))) for entry in outcomes)
    return (*groups, *singles) if len(outcomes) > 1 else singles


def _scope(value: str, samples: Sequence[str]) -> str:
    """Return what a menu calls a group, with how many of its images are looked at."""
    name = f"→ {value.removeprefix(PAIR)}" if value.startswith(PAIR) else "All targets"
    shown, count = min(GROUP_SIZE, len(samples)), len(samples)
    return f"{name}: {f'{shown} of {count}' if shown < count else f'all {count}'} together"


def scope(resolved: Resolved) -> str:
    """Return in words which images are looked at together, out of how many; nothing for a single one."""
    view, model = resolved.view, resolved.model
    known = links.scopes(resolved).get(view.sample or "")
    if not known or model is None:
        return ""
    shown = f"{min(GROUP_SIZE, len(known))} of {len(known)} {view.outcome} images of class '{view.label}'"
    if str(view.sample).startswith(PAIR):
        return f"{shown} that became '{str(view.sample).removeprefix(PAIR)}', together."
    counted = Counter(entry.after.label for entry in resolved.outcomes[:GROUP_SIZE])
    if len(counted) < 2:
        return f"{shown}, together."
    called = class_handles(model.classes)
    targets = ", ".join(f"'{called[label]}' {count}" for label, count in counted.most_common())
    return (
        f"{shown}, together: they became {targets}. For all of them the adversarial run is explained towards one, which the "
        "verdict names; choose one target to keep them apart."
    )


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
    """The request of the attack drawn beside, once it has been explained."""
    arrived: tuple[str, ...] = ()
    """Of a pair that is shown: its noise control, and the faithfulness checks that have arrived or failed."""
    gallery: str = ""
    """State of the gallery: `ready`, `working` or `failed`."""
    counts: str = ""
    scope: str = ""
    """Which images are looked at together; empty for a single one."""
    evidence: tuple[tuple[str, str], ...] = ()
    """What the shown evidence was made from, so that it can be made again: names and values."""
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
    attack_results = resolved.attack_results.value if resolved.attack_results else None
    other: Status = "resisted" if view.outcome == "fooled" else "fooled"
    there = len(attack_results.with_status(other)) if attack_results else 0
    hint = f"set the attack result to '{other}' ({there} here), " if there else ""
    changed = sum(len(attack_results.with_status(status)) for status in ("fooled", "resisted")) if attack_results else 0
    # Where rounding to 8 bits leaves nothing of a change, a smaller one helps nobody.
    turn = "lower" if view.outcome == "resisted" and changed else "raise"
    return {
        "title": f"No image of class '{view.label}' {'was fooled' if view.outcome == 'fooled' else 'resisted'}",
        "text": f"{counts(attack_results) if attack_results else 'Nothing attacked yet'}. To see something, {hint}{turn} "
        f"epsilon, or choose another class or attack.",
        "other": other if there else "",
        "button": f"Show the {there} that are '{other}'",
    }


def failed_state(message: str) -> dict[str, str]:
    """Why nothing is shown, and what can be done."""
    text = message or "The work ended without a result."
    return {"title": "This view could not be made", "text": f"{text} Try again, or change the filters."}


def attack_results_progress(resolved: Resolved, answer: Answer[Any]) -> Progress:
    """How far the attack on the images of the class is."""
    doing = answer.message or f"Attacking the images of class '{resolved.view.label}'"
    return _progress(doing, answer)


def explanation_progress(resolved: Resolved, answer: Answer[Any]) -> Progress:
    """How far the explanation of the sample is."""
    return _progress(answer.message or f"Explaining sample {resolved.view.sample}", answer)


def rival_progress(answer: Answer[Any]) -> Progress:
    """How far the explanation under the attack that is drawn beside is."""
    if answer.state == "failed":
        return Progress(f"The attack to compare with could not be explained: {answer.message}", can_retry=True)
    return _progress(answer.message or "Explaining the attack to compare with", answer)


def checks_progress(faithfulness_checks: Answer[Any], gallery: Answer[Any]) -> Progress:
    """How far the checks and the gallery are, once the datapaths can be seen."""
    if faithfulness_checks.state == "working":
        return _progress(
            faithfulness_checks.message or "Checking how far the datapaths can be trusted", faithfulness_checks
        )
    if gallery.state == "working":
        return _progress(gallery.message or "Collecting what every feature map looks for", gallery)
    failed = [answer.message for answer in (faithfulness_checks, gallery) if answer.state == "failed"]
    missing = faithfulness_checks.value.failed if faithfulness_checks.value else ()
    if failed or missing:
        return Progress(" ".join((*failed, *missing)) or "A check ended without a result.", can_retry=True)
    unavailable = faithfulness_checks.value.unavailable if faithfulness_checks.value else ()
    return Progress(" ".join(("All checks of this view have run.", *unavailable)), 1, 1)


def failure(message: str) -> Progress:
    """A piece of work ended without a result."""
    return Progress(message or "The work ended without a result.", can_retry=True)


def _progress(text: str, answer: Answer[Any]) -> Progress:
    counted = f"{text.rstrip('. …')} … {answer.done} of {answer.total}" if answer.total else f"{text.rstrip('. …')} …"
    return Progress(counted, answer.done, answer.total, is_working=True)


def default_layer(explanation: Explanation, diverges_at: str | None, detail: str = "sites") -> str:
    """Where to look first: the site where the datapaths part, else the last site that is not cut.

    Of blocks, whose inner sites have no column of their own, it is the output of its block.
    """
    names = [site.name for site in explanation.sites]
    open_sites = [site.name for site in explanation.sites if not site.is_cut]
    first = diverges_at or (open_sites or names)[-1]
    drawn = [site.name for site in explanation.sites[names.index(first) :] if site.role != "inner"]
    return drawn[0] if detail == "blocks" and drawn else first


def default_channel(explanation: Explanation, layer: str) -> int:
    """Which map to look at first: the strongest in either datapath, like the first tile of the layer level."""
    site = [place.name for place in explanation.sites].index(layer)
    clean, adversarial = explanation.clean.strength[site], explanation.adversarial.strength[site]
    strongest = [max(pair) for pair in zip(clean.tolist(), adversarial.tolist(), strict=True)]
    return strongest.index(max(strongest))


def answer(auditor: Auditor, ask: protocol.Ask) -> protocol.Facts:
    """Return how far the work for the view that is asked about is, as plain values."""
    result = look(ask.get("view"), auditor)
    return {**asdict(result), "again": result.progress.is_working}


def look(stored: object, auditor: Auditor) -> Work:
    """Return how far the work for a stored view is, asking for what is missing. An engine's error becomes its text."""
    view = ViewState.from_dict(stored)
    try:
        resolved = links.resolve(view, auditor, lambda request: _holds(request, auditor))
        result = _look(resolved, auditor)
    except EngineError as error:
        logger.warning("A view could not be answered: %s", error)
        return _failed(view, str(error))
    return replace(
        result,
        notices=(*links.complaints(stored), *resolved.notices),
        menus=build(replace(resolved, view=ViewState.from_dict(result.view))),
        scales=scales(resolved.attacks),
        evidence=evidence(resolved, result.key),
        scope=scope(resolved),
    )


def _holds(request: ExplanationRequest, auditor: Auditor) -> bool:
    """Return whether some checks of a stored explanation hold and none speaks against it."""
    explanation, checks = auditor.explanation(request).value, auditor.faithfulness_checks(request).value
    if explanation is None or checks is None:
        return False
    held, failed, _ = verdict.counted_checks(explanation, checks)
    return held > 0 and not failed


def evidence(resolved: Resolved, key: str | None) -> tuple[tuple[str, str], ...]:
    """Return what the shown evidence was made from, as names and values; nothing where nothing is shown."""
    model, data, request = resolved.model, resolved.data, resolved.request
    if key is None or model is None or data is None or request is None:
        return ()
    images = ", ".join(request.samples)
    return (
        ("Evidence", key),
        ("Model", f"{model.name}, {model.architecture}, content {model.content_hash}, added {model.added[:10]}"),
        ("Data", f"{data.name}, content {data.content_hash}, added {data.added[:10]}"),
        ("Images", f"{len(request.samples)} of class '{resolved.view.label}': {images}"),
        ("Attack", request.attack.text),
        ("Attribution", f"{METHODS[request.method.name].title}, top {percent(resolved.view.share)} per layer"),
        ("Seed", str(request.seed)),
        ("Versions", _versions()),
    )


@functools.cache
def _versions() -> str:
    """Return what runs here, in words; looked up once, for the page asks twice a second."""
    return ", ".join(f"{name} {version}" for name, version in installed_versions() if version)


def _look(resolved: Resolved, auditor: Auditor) -> Work:
    view, attack_results = asdict(resolved.view), resolved.attack_results
    if attack_results is None:
        stage, progress, empty = setup()
        return Work(view, stage, progress, empty=empty)
    if attack_results.state == "failed":
        return _failed(resolved.view, attack_results.message)
    if attack_results.value is None or attack_results.state != "ready":
        return Work(view, "attack results", attack_results_progress(resolved, attack_results))
    ended = counts(attack_results.value)
    if resolved.request is None:
        return Work(view, "empty", Progress("Nothing to show."), counts=ended, empty=empty_state(resolved))
    result = replace(_explained(resolved, resolved.request, auditor), counts=ended)
    return _beside(result, resolved.rival, auditor) if result.key and resolved.rival else result


def _beside(work: Work, rival: ExplanationRequest, auditor: Auditor) -> Work:
    """Add the attack that is drawn beside, or how far its explanation is."""
    answer = auditor.explanation(rival)
    if answer.state != "ready":
        return replace(work, progress=rival_progress(answer))
    return replace(work, rival=flatten(rival).value)


def _failed(view: ViewState, message: str) -> Work:
    return Work(asdict(view), "failed", failure(message), empty=failed_state(message))


def _explained(resolved: Resolved, request: ExplanationRequest, auditor: Auditor) -> Work:
    answer = auditor.explanation(request)
    if answer.state == "failed":
        return _failed(resolved.view, answer.message)
    if answer.value is None:
        return Work(asdict(resolved.view), "explanation", explanation_progress(resolved, answer))
    if answer.state == "working":
        return _shown_early(resolved, answer, answer.value)
    return _checked(_focused(resolved.view, answer.value), answer.value, auditor)


def _shown_early(resolved: Resolved, answer: Answer[Any], explanation: Explanation) -> Work:
    """The datapaths are there, what they are measured against is not."""
    return Work(
        asdict(_focused(resolved.view, explanation)),
        NOISE_CONTROL,
        explanation_progress(resolved, answer),
        key=explanation.key,
        request=flatten(explanation.request).value,
    )


def _checked(view: ViewState, explanation: Explanation, auditor: Auditor) -> Work:
    request = explanation.request
    faithfulness_checks = auditor.faithfulness_checks(request)
    gallery = auditor.gallery(request.model, request.data)
    known = faithfulness_checks.value or Faithfulness()
    return Work(
        asdict(view),
        _stage(faithfulness_checks, gallery),
        checks_progress(faithfulness_checks, gallery),
        key=explanation.key,
        request=flatten(request).value,
        arrived=(NOISE_CONTROL, *known.done, *known.failed),
        gallery=gallery.state,
    )


def _stage(faithfulness_checks: Answer[Any], gallery: Answer[Any]) -> str:
    if faithfulness_checks.state == "working":
        return "faithfulness"
    return "gallery" if gallery.state == "working" else "done"


def _focused(view: ViewState, explanation: Explanation) -> ViewState:
    """Choose the layer and map to look at first, where the view names none."""
    layer = view.layer
    if layer is None:
        layer = default_layer(explanation, compare(explanation, view.share).diverges_at, view.detail)
    channel = default_channel(explanation, layer) if view.channel is None else view.channel
    return replace(view, layer=layer, channel=channel)


PANELS: Final = (protocol.plain("work", answer, again=AGAIN),)
