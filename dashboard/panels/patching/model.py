"""Which maps a link chooses to patched, and what doing so has shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dashboard.panels import inputs
from dashboard.panels.layer import model as layer
from dashboard.wording import bounds, percent
from engine import (
    COMPARED,
    CONTROLS,
    DECISIVE,
    HALF,
    TITLES,
    BadInput,
    CausalTest,
    Comparison,
    Control,
    Direction,
    Effect,
    Estimate,
    Explanation,
    MapSet,
    Prediction,
    standing_out,
)

RANKED = re.compile(r"(flow|standout):(\d{1,12})")
"""`standout` is the default ranking; `flow`, the plain one, was the default of version 0.1, and its links say so."""
GROUP = re.compile(r"(adversarial|shared|clean):(.{1,150})")
MAPS = re.compile(r"map:(.{1,150}):([\d.-]{1,1800})")
RUN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
JOIN = "~"
INJECT = "inject:"
"""Before a choice: adversarial maps into the clean run instead of clean ones into the adversarial run."""
WORDS = {"adversarial": "adversarial-only", "shared": "shared", "clean": "clean-only"}
Places = frozenset[tuple[int, int]]
"""Site index and channel of every chosen map."""
SIZES = (4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Asked:
    """A choice of maps as a link writes it."""

    chosen: MapSet
    direction: Direction
    title: str


def asked(text: str, explanation: Explanation, comparison: Comparison) -> Asked:
    """Return the choice of a link, the maps of all its terms together.

    Raises BadInput for what is not written so or names nothing, UnknownName for a layer or map that is not there.
    """
    direction: Direction = "inject" if text.startswith(INJECT) else "restore"
    whose = "adversarial" if direction == "inject" else "clean"
    terms = [_term(item, explanation, comparison) for item in text.removeprefix(INJECT).split(JOIN)]
    chosen = _gathered(frozenset().union(*(places for places, _ in terms)), explanation)
    what = terms[0][1] if len(terms) == 1 else f"{chosen.count} chosen channels of {_layers(len(chosen.sites))}"
    return Asked(chosen, direction, f"{whose} values of {what}")


def written(chosen: MapSet) -> str:
    """Return the link text of a set of maps."""
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return JOIN.join(f"map:{name}:{'.'.join(_runs(channels))}" for name, channels in pairs)


def _term(text: str, explanation: Explanation, comparison: Comparison) -> tuple[Places, str]:
    """Return the maps of one term, and what they are in words."""
    if result := RANKED.fullmatch(text):
        count, is_by_layer = int(result[2]), result[1] == "standout"
        most = (
            "whose attack conductance stands out most in their layers"
            if is_by_layer
            else "with the most attack conductance"
        )
        return _first(explanation, count, is_by_layer=is_by_layer), f"the {count} channels {most}"
    if result := GROUP.fullmatch(text):
        group, name = result.groups()
        site = layer.site_index(explanation, name)
        members = _members(comparison, site, group)
        return frozenset((site, member) for member in members), f"the {len(members)} {WORDS[group]} channels of {name}"
    if result := MAPS.fullmatch(text):
        name = result[1]
        site = layer.site_index(explanation, name)
        channels = _channels(result[2], explanation.sites[site].channels, name)
        what = f"feature map {channels[0]}" if len(channels) == 1 else f"{len(channels)} chosen channels"
        return frozenset((site, channel) for channel in channels), f"{what} of {name}"
    raise BadInput(
        f"'{text[:60]}' names no channels to patch; it is standout:NUMBER, adversarial:LAYER or map:LAYER:NUMBER."
    )


def _channels(text: str, count: int, name: str) -> list[int]:
    """Return the channels of `3.5-9`; raises BadInput for what is written otherwise or is not there."""
    result: set[int] = set()
    for part in text.split("."):
        run = RUN.fullmatch(part)
        first, last = (int(run[1]), int(run[2] or run[1])) if run else (0, -1)
        if not first <= last:
            raise BadInput(f"'{part[:20]}' is no feature map; channels are written like 3.5-9.")
        if last >= count:
            raise BadInput(f"{name} has feature maps 0 to {count - 1}, asked for {last}.")
        result.update(range(first, last + 1))
    return sorted(result)


def _runs(channels: Iterable[int]) -> list[str]:
    runs: list[list[int]] = []
    for channel in sorted(channels):
        if runs and channel == runs[-1][1] + 1:
            runs[-1][1] = channel
        else:
            runs.append([channel, channel])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


def _first(explanation: Explanation, count: int, *, is_by_layer: bool) -> Places:
    """Return the first channels by mean |conductance| over the images, divided by the layer's mean where `is_by_layer`."""
    total = sum(site.channels for site in explanation.sites if site.is_eligible)
    if not 1 <= count <= total:
        raise BadInput(f"From 1 to {total} channels can be patched, got {count}.")
    strength = np.concatenate([
        _strength(flow, is_by_layer=is_by_layer) if site.is_eligible else np.full(site.channels, -1.0)
        for site, flow in zip(explanation.sites, explanation.flow, strict=True)
    ])  # fmt: skip
    best = np.argsort(-strength, kind="stable")[:count]
    starts = np.cumsum([0] + [site.channels for site in explanation.sites])
    sites = np.searchsorted(starts, best, side="right") - 1
    return frozenset((int(site), int(one - starts[site])) for site, one in zip(sites, best, strict=True))


def _strength(flow: np.ndarray, *, is_by_layer: bool) -> np.ndarray:
    """Return (channels,) of (images, channels): as `engine.patching.trials` ranks a group."""
    size: np.ndarray = standing_out(flow) if is_by_layer else np.abs(flow)
    return size.mean(axis=0)


def _members(comparison: Comparison, site: int, group: str) -> tuple[int, ...]:
    sets = comparison.sites[site]
    members = {"adversarial": sets.adversarial_only, "shared": sets.shared, "clean": sets.clean_only}[group]
    if not members:
        raise BadInput(f"{sets.site} has no {WORDS[group]} channel to patch.")
    return members


def _gathered(places: Places, explanation: Explanation) -> MapSet:
    """Return the maps by site, both in the order of the network."""
    used = sorted({site for site, _ in places})
    return MapSet(
        tuple(explanation.sites[site].name for site in used),
        tuple(tuple(sorted(channel for at, channel in places if at == site)) for site in used),
    )


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"


MORE = "Test all fooled images of the class, or more classes."


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
class Member:
    """One image: what the network said of both runs, and says with the maps put in."""

    sample: str
    clean: str
    adversarial: str
    """Addresses of the pictures."""
    clean_text: str
    adversarial_text: str
    supported_text: str
    recovery: str
    is_reached: bool
    """Whether it now gives the answer aimed at."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A finished causal test."""

    title: str
    verdict: str
    claim: str
    """One sentence for a report, or why there is none."""
    lines: tuple[Line, ...]
    missing: tuple[str, ...]
    receiving: str
    """Which run the maps were put into."""
    members: tuple[Member, ...]

    @property
    def margin_head(self) -> str:
        """Heading of the shares of the margin: what is recovered, or taken where the maps of the attack are put in."""
        return "Margin recovered" if self.receiving == "adversarial" else "Margin taken"


def build(causal_test: CausalTest, title: str, explanation: Explanation) -> Panel:
    """Return the panel of a finished causal test."""
    aim = "the clean answer comes back" if causal_test.direction == "restore" else "the attack's answer comes out"
    lines = (
        _line("Chosen channels", f"How often {aim}.", causal_test.effect, ""),
        *(_control(control) for control in causal_test.controls),
    )
    members = tuple(_member(causal_test, explanation, row) for row in range(len(causal_test.labels)))
    receiving = "adversarial" if causal_test.direction == "restore" else "clean"
    of = title if len(members) == 1 else f"{title}, one set for all {len(members)} images"
    return Panel(
        of, verdict(causal_test), claim(causal_test, explanation), lines, causal_test.missing, receiving, members
    )


def share(effect: Effect) -> str:
    """Return how many trials gave the class aimed at, with its interval."""
    return f"{percent(effect.flipped)} {bounds(effect.flipped_low, effect.flipped_high)}"


def estimate(share: Estimate) -> str:
    """Return a share with its interval."""
    return f"{percent(share.value)} {bounds(share.low, share.high)}"


def recovery(effect: Effect) -> str:
    """Return the share of the margin that was made good, with its interval where there is one."""
    if effect.recovery_low is None or effect.recovery_high is None:
        return percent(effect.recovery)
    interval = f"[{100 * effect.recovery_low:.0f}, {100 * effect.recovery_high:.0f}]"
    return f"{percent(effect.recovery)} {interval.replace('-', '−')}"


def claim(causal_test: CausalTest, explanation: Explanation) -> str:
    """Return the sentence a report may carry, made of stored evidence only; without the control that decides there is none."""
    matched = next((item for item in causal_test.controls if item.name == DECISIVE), None)
    if matched is None or matched.excess is None:
        return "No claim: layer-matched random channels, the control that decides, have not been tried."
    if causal_test.trivial:
        return (
            f"No claim: everything runs through {', '.join(causal_test.trivial)}, which restores whatever is put there."
        )
    images, effect = len(causal_test.labels), causal_test.effect
    count, total = causal_test.chosen.count, sum(site.channels for site in explanation.sites if site.is_eligible)
    interval = (
        ""
        if effect.recovery_low is None
        else f" [{percent(effect.recovery_low)}, {percent(effect.recovery_high or 0.0)}]"
    )
    restored = round(effect.flipped * effect.n)
    named = _named(causal_test) or f"{count} of {total} feature maps"
    what = (
        f"patching the clean values of {named} into the adversarial run recovers {percent(effect.recovery)}{interval} of the "
        f"margin and the label in {restored} of {images} images"
        if causal_test.direction == "restore"
        else f"patching the adversarial values of {named} into the clean run takes "
        f"{percent(effect.recovery)}{interval} of the margin and gives the attack's answer in {restored} of {images} images"
    )
    what = f"{_change(causal_test)}{what}"
    answer = "the label" if causal_test.direction == "restore" else "the attack's answer"
    control = f"{recovery(matched.effect)} of the margin, {answer} in {share(matched.effect)}, n = {matched.effect.n}"
    return f"{_who(explanation)}, {what}; as many random channels of the same layers: {control}."


def _named(causal_test: CausalTest) -> str:
    """Return the chosen maps by name where they are few, else nothing."""
    if not causal_test.responses:
        return ""
    pairs = zip(causal_test.chosen.sites, causal_test.chosen.channels, strict=True)
    return "; ".join(
        f"feature map{'s' * (len(maps) > 1)} {', '.join(map(str, maps))} of {site}" for site, maps in pairs
    )


def _change(causal_test: CausalTest) -> str:
    """Return how a single chosen map answers to the attack, where it does so in most of the images."""
    if len(causal_test.responses) != 1:
        return ""
    (one,), images = causal_test.responses, len(causal_test.labels)
    results = {
        "no longer responds (its peak falls to half or less)": one.silenced,
        "responds at least twice as strongly": one.roused,
    }
    text, count = max(results.items(), key=lambda item: item[1])
    name = f"feature map {one.channel} of {one.site}"
    return f"{name} {text} in {count} of them; " if 2 * count > images else f"{name} keeps its peak in most of them; "


def _who(explanation: Explanation) -> str:
    """Return which images a claim is of; those of a group may have been fooled into several classes."""
    classes, outcomes = explanation.classes, explanation.outcomes
    into = Counter(classes[outcome.after.label] for outcome in outcomes).most_common()
    counts = ", ".join(f"'{name}' {count}" for name, count in into)
    goal = f"into '{into[0][0]}'" if len(into) == 1 else f"into {len(into)} classes ({counts})"
    images = f"{len(outcomes)} image{'s' if len(outcomes) > 1 else ''}"
    return f"In {images} of class '{classes[explanation.clean.target]}' fooled {goal} by {explanation.request.attack}"


def verdict(causal_test: CausalTest) -> str:
    """Return what the controls allow to be said, in words; `CausalTest.verdict` decides."""
    if causal_test.verdict == "supported":
        return _supported(causal_test)
    answer = "the clean answer" if causal_test.direction == "restore" else "the attack's answer"
    return {
        "trivial": "No claim: everything runs through one of the chosen layers.",
        "untested": "No claim: layer-matched random channels, the control that decides, have not been tried.",
        "no effect": f"No effect: the chosen channels do not bring {answer}.",
        "same layers": f"Not supported: any channels of these layers do the same. {_against_matched(causal_test)}",
        "controls": f"Not supported: {_refuting(causal_test)} brings {answer} too.",
        "too few": f"Too few trials to tell: {_undecided(causal_test)} cannot decide. {MORE}",
    }[causal_test.verdict]


def _supported(causal_test: CausalTest) -> str:
    other = "(The largest change is another choice, no control.)"
    if len(causal_test.labels) == 1:
        return (
            f"Supported for this image. {_against_matched(causal_test)} Test all fooled images of the class to go "
            f"beyond it. {other}"
        )
    names = ", ".join(TITLES[text.partition(":")[0]] for text in causal_test.missing)
    head = f"Supported as far as it was tested (not run: {names})" if names else "Supported"
    return f"{head}. {_against_matched(causal_test)} Every other control does less, beyond both 95 % intervals. {other}"


def _against_matched(causal_test: CausalTest) -> str:
    """Return what as many random channels of the same layers do, and the difference."""
    matched = next((control for control in causal_test.controls if control.name == DECISIVE), None)
    if matched is None or matched.excess is None:
        return ""
    excess = matched.excess
    points = f"{100 * excess.value:+.0f} points [{100 * excess.low:.0f}, {100 * excess.high:.0f}]".replace("-", "−")
    return f"Layer-matched random channels do it in {share(matched.effect)}; the difference is {points}."


def _limit(causal_test: CausalTest) -> float:
    """Return what a control must stay below: one half of the trials of one image, of a group what the chosen maps reach."""
    return HALF if len(causal_test.labels) == 1 else causal_test.effect.flipped_low


def _refuting(causal_test: CausalTest) -> str:
    """Return the controls that do not stay below the chosen maps."""
    limit = _limit(causal_test)
    refuting = [control for control in _others(causal_test) if control.effect.flipped >= limit]
    return ", ".join(f"{TITLES[control.name]} ({share(control.effect)})" for control in refuting)


def _undecided(causal_test: CausalTest) -> str:
    """Return the controls whose interval reaches from below the limit beyond it."""
    limit = _limit(causal_test)
    wide = [
        control
        for control in (*_others(causal_test), *(one for one in causal_test.controls if one.name == DECISIVE))
        if control.effect.flipped < limit <= control.effect.flipped_high
    ]
    return ", ".join(f"{control.effect.n} trials of {TITLES[control.name]}" for control in wide)


def _others(causal_test: CausalTest) -> list[Control]:
    return [control for control in causal_test.controls if control.name not in (COMPARED, DECISIVE)]


def _member(causal_test: CausalTest, explanation: Explanation, row: int) -> Member:
    outcome, classes = explanation.outcomes[row], explanation.classes
    aim = outcome.before.label if causal_test.direction == "restore" else outcome.after.label
    now = f"{classes[causal_test.labels[row]]} · {percent(causal_test.confidences[row])}"
    return Member(
        outcome.sample,
        inputs.picture(causal_test.explanation, row, "clean"),
        inputs.picture(causal_test.explanation, row, "adversarial"),
        _says(outcome.before, classes),
        _says(outcome.after, classes),
        now,
        percent(causal_test.recoveries[row]),
        causal_test.labels[row] == aim,
    )


def _says(prediction: Prediction, classes: tuple[str, ...]) -> str:
    return f"{classes[prediction.label]} · {percent(prediction.confidence)}"


def _control(control: Control) -> Line:
    own = "" if control.their_own is None else f"{percent(control.their_own)} give that image's class"
    return _line(TITLES[control.name].capitalize(), CONTROLS[control.name], control.effect, own)


def _line(name: str, help_: str, effect: Effect, note: str) -> Line:
    flipped = f"{share(effect)}, n = {effect.n}"
    return Line(name, help_, recovery(effect), flipped, effect.flipped_low, effect.flipped, effect.flipped_high, note)
