"""The inputs panel: clean, adversarial and perturbation side by side, with what the model said of each."""

from __future__ import annotations

from dataclasses import dataclass

from dash import html

from dashboard import ids
from dashboard.markup import aria, save, term
from dashboard.wording import percent
from engine import MEASURES, Explanation, Outcome

MOST_CLASSES = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One class before and after the attack; None reads "not among the first five"."""

    name: str
    before: float | None
    after: float | None
    is_true: bool


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a group, as a thumbnail that leads to it."""

    sample: str
    picture: str
    text: str


@dataclass(frozen=True, slots=True)
class Strip:
    """All that stands in the inputs strip; of a group the pictures and bars show its first image."""

    title: str
    clean: str
    adversarial: str
    perturbation: str
    amplification: int
    clean_text: str
    adversarial_text: str
    change: str
    bars: tuple[Bar, ...]
    members: tuple[Member, ...]


def picture(key: str, row: int, side: str) -> str:
    """Return the address of a picture of an explanation; side is clean, adversarial, noise or perturbation."""
    return f"/media/examination/{key}/{row}/{side}.png"


def build(explanation: Explanation, amplification: int) -> Strip:
    """Return the strip; `amplification` is the factor by which the perturbation picture is enlarged."""
    outcome, classes, key = explanation.outcomes[0], explanation.classes, explanation.key
    is_group = len(explanation.outcomes) > 1
    return Strip(
        title=f"{len(explanation.outcomes)} images, first: {outcome.sample}"
        if is_group
        else f"Sample {outcome.sample}",
        clean=picture(key, 0, "clean"),
        adversarial=picture(key, 0, "adversarial"),
        perturbation=picture(key, 0, "perturbation"),
        amplification=amplification,
        clean_text=f"{classes[outcome.before.label]} · {percent(outcome.before.confidence)}",
        adversarial_text=f"{classes[outcome.after.label]} · {percent(outcome.after.confidence)}",
        change=_change(explanation),
        bars=_bars(outcome, classes),
        members=tuple(_member(explanation, row) for row in range(len(explanation.outcomes))) if is_group else (),
    )


def _change(explanation: Explanation) -> str:
    """Return the size of the first image's change, in what the attack is held to and in L2."""
    outcome, norm = explanation.outcomes[0], explanation.request.attack.norm.name
    if norm == "area":
        return f"{MEASURES['area'].text(outcome.area)} · L2 {outcome.l2:.3g}"
    if norm == "l1" and outcome.l1 is not None:
        return f"L1 {outcome.l1:.3g} · L2 {outcome.l2:.3g}"
    return f"L∞ {outcome.linf * 255:.3g}/255 · L2 {outcome.l2:.3g}"


def _bars(outcome: Outcome, classes: tuple[str, ...]) -> tuple[Bar, ...]:
    before, after = dict(outcome.before.top), dict(outcome.after.top)
    labels = sorted({*before, *after}, key=lambda label: -max(before.get(label, 0), after.get(label, 0)))
    return tuple(
        Bar(classes[label], before.get(label), after.get(label), label == outcome.label)
        for label in labels[:MOST_CLASSES]
    )


def _member(explanation: Explanation, row: int) -> Member:
    outcome, classes = explanation.outcomes[row], explanation.classes
    into = classes[outcome.after.label]
    text = f"{outcome.sample}: {classes[outcome.before.label]} → {into}, {percent(outcome.after.confidence)}"
    return Member(outcome.sample, picture(explanation.key, row, "adversarial"), text)


def layout() -> html.Section:
    """Return the panel; its body is drawn in the browser when the network's facts arrive (see panels/network/view.py)."""
    return html.Section(
        [
            html.H2("Case", className="sr-only"),
            html.Button(
                "Case", id=ids.CASE_TOGGLE, className="plain-button", **aria(expanded="false"), **term("case-toggle")
            ),
            html.Div(id=ids.INPUTS_BODY, className="inputs-body"),
            html.Div(id=ids.SCOPE, className="scope", role="group", **aria(label="Images looked at"), **term("scope")),
            html.P(id=ids.COUNTS, className="counts", tabIndex=0, **term("counts")),
            html.Div(
                id=ids.STRIP,
                className="strip",
                role="group",
                **aria(label="Samples of this class and attack result"),
                **term("strip"),
            ),
            save("case"),
        ],
        id=ids.INPUTS,
        className="panel inputs",
        **aria(label="Case"),
    )
