"""Causal tests of a run's weak maps on held-out images, as texts and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from dashboard.panels.audits import model as audits
from dashboard.panels.patching import model as patching
from dashboard.wording import measured
from engine import DECISIVE, CausalTest, Control, Estimate, Halves, HeldOutTest, RunView, Scope, class_handles

SIZES: Final = (4, 8, 16, 32, 64)
"""Numbers of maps that a button tests."""
VERDICTS: Final = {
    "supported": "Supported",
    "same layers": "Not supported: any channels of these layers do the same",
    "controls": "Not supported: another control does it too",
    "too few": "Too few trials to tell",
    "no effect": "No effect",
    "trivial": "No claim: everything runs through one of the layers",
    "untested": "No claim: the control that decides was not run",
}
"""What a test says, in the few words of a table; its whole sentence stands below."""
HOW: Final = (
    "The channels whose attack conductance stands out most in their layers, in the mean over the ranking half, are patched with "
    "their clean values into the attacked run of the held-out images, which the attack fools anew by the run's seeds. Supported "
    "only where the paired difference to layer-matched random channels lies above zero with its interval, and every other control "
    "does less."
)


@dataclass(frozen=True, slots=True)
class TestRow:
    """One finished test."""

    restored: str
    low: float
    value: float
    high: float
    matched: str
    excess: str
    n: str
    verdict: str
    is_supported: bool


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One intervention of a test."""

    name: str
    margin: str
    labels: str
    low: float
    value: float
    high: float


def lead(view: RunView, scope: Scope, condition: str, halves: Halves) -> str:
    """Return which images rank and which are held out."""
    names = class_handles(view.manifest.classes)
    chosen = [names[label] for label in scope.classes]
    classes = f"class{'es' if len(chosen) > 1 else ''} {', '.join(chosen)}" if chosen else "all classes"
    count = len(halves.tested)
    tested = f", {count} of which are tested" if count < len(halves.held_out) else ""
    other = " Another attack is tested by choosing it alone above." if len(_attacks(view, scope)) > 1 else ""
    return (
        f"{view.manifest.model(scope.role).name}, {audits.short_name(condition)}, {classes}: ranked on n = {len(halves.ranking):,} "
        f"fooled images, held out n = {len(halves.held_out):,}{tested}.{other}"
    )


def _attacks(view: RunView, scope: Scope) -> list[str]:
    own = view.manifest.of(scope.role)
    return [
        one.name
        for place, one in enumerate(own)
        if one.kind == "attack" and (place in scope.attacks or not scope.attacks)
    ]


def row(found: HeldOutTest) -> TestRow:
    """Return a finished test as one row."""
    test = found.test
    effect, matched = test.effect, decisive(test)
    return TestRow(
        measured(effect.flipped, effect.flipped_low, effect.flipped_high),
        effect.flipped_low,
        effect.flipped,
        effect.flipped_high,
        "–" if matched is None else _labels(matched),
        "–" if matched is None or matched.excess is None else _points(matched.excess),
        f"{len(test.labels):,}",
        VERDICTS[test.verdict],
        test.is_supported,
    )


def decisive(test: CausalTest) -> Control | None:
    """Return layer-matched random maps, the control that decides; None where it could not be run."""
    return next((control for control in test.controls if control.name == DECISIVE), None)


def _labels(control: Control) -> str:
    effect = control.effect
    return measured(effect.flipped, effect.flipped_low, effect.flipped_high)


def _points(gap: Estimate) -> str:
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (gap.value, gap.low, gap.high)]
    return f"{points[0]} [{points[1]}, {points[2]}]"


def controls(test: CausalTest) -> tuple[ControlRow, ...]:
    """Return the chosen maps and every control."""
    named = [
        ("Ranked channels", test.effect),
        *((patching.TITLES[one.name].capitalize(), one.effect) for one in test.controls),
    ]
    return tuple(
        ControlRow(
            name, patching.recovery(effect), f"{patching.share(effect)}, n = {effect.n:,}", effect.flipped_low, effect.flipped,
            effect.flipped_high,
        )
        for name, effect in named
    )  # fmt: skip


def channels(test: CausalTest) -> str:
    """Return the patched maps by layer."""
    pairs = zip(test.chosen.sites, test.chosen.channels, strict=True)
    return "; ".join(f"{site}: {', '.join(map(str, own))}" for site, own in pairs)


def lost(found: HeldOutTest, halves: Halves) -> str:
    """Return how many of the held-out images the attack did not fool anew; empty where it fooled all."""
    missing = len(halves.tested) - len(found.test.labels)
    return f" {missing:,} of them were not fooled when they were attacked anew, and are left out." if missing else ""


def link(view: RunView, scope: Scope, condition: str, test: CausalTest) -> str:
    """Return the query that patches the same maps in an image of the scope; empty where the levels cannot show it."""
    names = class_handles(view.manifest.classes)
    classes = [names[label] for label in scope.classes]
    query = audits.example_query(view, scope.role, [condition], classes, "fooled")
    return f"{query}&{urlencode({'patch': patching.written(test.chosen)})}" if query else ""
