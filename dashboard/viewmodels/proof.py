"""Proof by putting maps back: which maps a link names, what came of it beside the controls, and the claim it supports."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dashboard.viewmodels import layer
from dashboard.viewmodels.headline import percent
from engine import CONTROLS, BadInput, Comparison, Control, Direction, Effect, Examination, MapSet, Proof

FLOW = re.compile(r"flow:(\d{1,5})")
GROUP = re.compile(r"(adversarial|shared|clean):(.{1,150})")
MAP = re.compile(r"map:(.{1,150}):(\d{1,6})")
INJECT = "inject:"
"""Before a choice: adversarial maps into the clean run instead of clean ones into the adversarial run."""
SIZES = (4, 8, 16, 32, 64, 128)
WORDS = {"adversarial": "adversarial-only", "shared": "shared", "clean": "clean-only"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A choice of maps as a link writes it."""

    chosen: MapSet
    direction: Direction
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """One intervention in the table."""

    name: str
    help: str
    recovery: str
    flipped: str
    low: float
    value: float
    high: float
    """Of the share that flipped, for the bar."""
    note: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A finished proof."""

    title: str
    verdict: str
    claim: str
    """One sentence for a report, or why there is none."""
    lines: tuple[Line, ...]
    missing: tuple[str, ...]
    after: str
    """What the network says of the first image with the maps put in."""


def asked(text: str, examination: Examination, comparison: Comparison) -> Asked:
    """Return the choice of a link: `flow:32`, `adversarial:LAYER`, `map:LAYER:CHANNEL`, each also after `inject:`.

    Raises BadInput for what is not written so or names nothing, UnknownName for a layer that is not there.
    """
    direction: Direction = "inject" if text.startswith(INJECT) else "restore"
    wanted = text.removeprefix(INJECT)
    whose = "adversarial" if direction == "inject" else "clean"
    if found := FLOW.fullmatch(wanted):
        count = int(found[1])
        return Asked(
            _by_flow(examination, count), direction, f"{whose} values of the {count} maps with the most attack flow"
        )
    if found := GROUP.fullmatch(wanted):
        group, name = found.groups()
        members = _members(examination, comparison, name, group)
        title = f"{whose} values of the {len(members)} {WORDS[group]} maps of {name}"
        return Asked(MapSet((name,), (members,)), direction, title)
    if found := MAP.fullmatch(wanted):
        name, channel = found[1], int(found[2])
        layer.site_index(examination, name)
        return Asked(MapSet((name,), ((channel,),)), direction, f"{whose} values of feature map {channel} of {name}")
    raise BadInput(
        f"'{text[:60]}' names no maps to put back; it is flow:NUMBER, adversarial:LAYER or map:LAYER:NUMBER."
    )


def build(found: Proof, title: str, examination: Examination) -> Panel:
    """Return the panel of a finished proof."""
    aim = "the clean answer comes back" if found.direction == "restore" else "the attack's answer comes out"
    lines = (_line("Chosen maps", f"How often {aim}.", found.effect, ""), *(_control(one) for one in found.controls))
    label, confidence = found.labels[0], found.confidences[0]
    after = f"With them the network says '{examination.classes[label]}' at {percent(confidence)} of the first image."
    return Panel(title, _verdict(found), claim(found, examination), lines, found.missing, after)


def claim(found: Proof, examination: Examination) -> str:
    """Return the sentence a report may carry, made of stored evidence only; without its control there is none."""
    random = next((one for one in found.controls if one.name == "random"), None)
    if random is None:
        return "No claim: equally many random maps have not been tried."
    if found.trivial:
        return f"No claim: everything runs through {', '.join(found.trivial)}, which restores whatever is put there."
    images, effect = len(found.labels), found.effect
    true, into = (examination.classes[path.target] for path in (examination.clean, examination.adversarial))
    count, total = found.chosen.count, sum(site.channels for site in examination.sites if site.is_claimable)
    interval = (
        ""
        if effect.recovery_low is None
        else f" [{percent(effect.recovery_low)}, {percent(effect.recovery_high or 0.0)}]"
    )
    restored = round(effect.flipped * effect.n)
    what = (
        f"putting the clean values of {count} of {total} feature maps back recovers {percent(effect.recovery)}{interval} of the "
        f"margin and the label in {restored} of {images} images"
        if found.direction == "restore"
        else f"putting the adversarial values of {count} of {total} feature maps into the clean run takes "
        f"{percent(effect.recovery)}{interval} of the margin and gives the attack's answer in {restored} of {images} images"
    )
    who = f"In {images} image{'s' if images > 1 else ''} of class '{true}' fooled into '{into}' by {examination.request.attack}"
    control = f"{percent(random.effect.recovery)} of the margin, the label in {percent(random.effect.flipped)}"
    return f"{who}, {what}; equally many random maps: {control}."


def _verdict(found: Proof) -> str:
    if found.trivial:
        return "Proves nothing: everything runs through a chosen layer."
    if found.is_proven:
        return "Proven: every control does less, beyond both 95 % intervals. (The largest change is another choice, no control.)"
    if len(found.labels) == 1:
        return "One image: the effect is real for it, but no interval tells it from the controls. Choose a group to prove more."
    return "Not proven: at least one control's interval reaches that of the chosen maps, or a control is missing."


def _by_flow(examination: Examination, count: int) -> MapSet:
    """The maps that claims may use with the largest mean |attack flow| over the images; ties go to the earlier one."""
    sizes = [site.channels if site.is_claimable else 0 for site in examination.sites]
    if not 1 <= count <= sum(sizes):
        raise BadInput(f"From 1 to {sum(sizes)} maps can be put back, got {count}.")
    strength = np.concatenate([
        np.abs(flow).mean(axis=0) if site.is_claimable else np.full(site.channels, -1.0)
        for site, flow in zip(examination.sites, examination.flow, strict=True)
    ])  # fmt: skip
    best = np.sort(np.argsort(-strength, kind="stable")[:count])
    starts = np.concatenate([[0], np.cumsum([site.channels for site in examination.sites])])
    inside = [best[(best >= starts[k]) & (best < starts[k + 1])] - starts[k] for k in range(len(examination.sites))]
    used = [k for k, members in enumerate(inside) if len(members)]
    return MapSet(tuple(examination.sites[k].name for k in used), tuple(tuple(int(c) for c in inside[k]) for k in used))


def _members(examination: Examination, comparison: Comparison, name: str, group: str) -> tuple[int, ...]:
    sets = comparison.sites[layer.site_index(examination, name)]
    members = {"adversarial": sets.adversarial_only, "shared": sets.shared, "clean": sets.clean_only}[group]
    if not members:
        raise BadInput(f"{name} has no {WORDS[group]} map to put back.")
    return members


def _control(control: Control) -> Line:
    own = "" if control.their_own is None else f"{percent(control.their_own)} give that image's class"
    return _line(control.name.capitalize(), CONTROLS[control.name], control.effect, own)


def _line(name: str, help_: str, effect: Effect, note: str) -> Line:
    recovery = percent(effect.recovery) if effect.recovery >= 0 else f"−{percent(-effect.recovery)}"
    if effect.recovery_low is not None and effect.recovery_high is not None:
        recovery += f" [{100 * effect.recovery_low:.0f}, {100 * effect.recovery_high:.0f}]".replace("-", "−")
    flipped = (
        f"{percent(effect.flipped)} [{100 * effect.flipped_low:.0f}, {100 * effect.flipped_high:.0f}], n = {effect.n}"
    )
    return Line(name, help_, recovery, flipped, effect.flipped_low, effect.flipped, effect.flipped_high, note)
