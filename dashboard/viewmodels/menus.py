"""What the header's menus offer, and the counts that always stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dashboard import resolution
from dashboard.resolution import Resolved, epsilon_setting
from dashboard.state import GROUP, GROUP_SIZE, SHARES
from engine import METHODS, AttackCard, Outcome, Roster, class_handles

Status = Literal["fooled", "resisted", "clean_wrong", "unperturbed", "failed"]
ANY = "any"
NOTHING = "nothing"
"""What the menu of rivals says where none is drawn beside."""
MOST_SAMPLES = 500
"""Samples one menu offers; the rest are reached by link."""
COUNTED: tuple[Status, ...] = ("clean_wrong", "fooled", "resisted", "unperturbed", "failed")
ALWAYS_COUNTED = ("clean_wrong", "fooled", "resisted")
Option = dict[str, object]


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
        "epsilon": Menu(_plain(resolution.strengths(resolved)), view.epsilon),
        "outcome": Menu(_outcomes(resolved), view.outcome),
        "sample": Menu(_samples(resolved), view.sample),
        "method": Menu(_methods(resolved.methods), view.method),
        "share": Menu(tuple(_option(f"{share:g}", f"{100 * share:.0f} %") for share in SHARES), f"{view.share:g}"),
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
    """Return per attack whether its strength is a `pixel` change or a `length`: a strength is kept only within one."""
    settings = {card.name: epsilon_setting(card) for card in attacks}
    return {name: resolution.scale(setting) for name, setting in settings.items() if setting}


def _option(value: str, label: str) -> Option:
    return {"value": value, "label": label}


def _plain(names: Iterable[str]) -> tuple[Option, ...]:
    return tuple(_option(name, name) for name in names)


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
    found = resolution.rivals(resolved)
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
    return f"{entry.sample}{into} · {100 * entry.after.confidence:.0f} %"


def _methods(names: Sequence[str]) -> tuple[Option, ...]:
    return tuple(_option(name, METHODS[name].title) for name in names)
