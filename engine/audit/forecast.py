"""What a run will cost, told before it starts: passes per image and time on one worker. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from engine.audit import tiers, wording
from engine.audit.manifest import CANDIDATE, Condition, Manifest, Role
from engine.audit.paces import Pace
from engine.audit.tiers import Cost
from engine.records.credibility import Setup

SURVIVORS: Final = (0.02, 0.5)
"""Shares of images that the attacks on every image leave, between which the estimate runs: an ordinary network, a robust one."""
SOME_BUDGET: Final = Fraction(8, 255)
"""What the checks cost does not depend on their budget."""
JUDGED: Final[dict[str, Cost]] = {"clean": Cost(0, 1), "premade": Cost(0, 2)}
"""What images cost that are not attacked here, by kind of condition."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run costs: from few survivors to many. Attacks that stop early make it less."""

    images: int
    passes_low: float
    """Per image and over all models, in units of one forward with backward; scoring feature maps is not in it."""
    passes_high: float
    seconds_low: float
    """In all, on one worker, with the scoring of feature maps."""
    seconds_high: float
    checks_seconds: float
    """Of the credibility checks, which are made once somebody opens the run's page; at most."""


def forecast(manifest: Manifest, paces: Mapping[Role, Pace]) -> Forecast:
    """Return what a run costs at the measured pace of each of its models."""
    costs = [list(_costs(manifest, paces, share)) for share in SURVIVORS]
    passes = [sum(one[0] for one in own) for own in costs]
    images = len(manifest.images.samples)
    seconds = [images * sum(one[1] for one in own) for own in costs]
    return Forecast(images, passes[0], passes[1], seconds[0], seconds[1], _checks(manifest, paces[CANDIDATE]))


def forecast_text(name: str, found: Forecast) -> str:
    """Return an estimate in one line, for example `standard: 51 to 93 passes per image, 12 to 25 min on one worker`."""
    passes = _between(f"{found.passes_low:.0f}", f"{found.passes_high:.0f}")
    time = _between(wording.about(found.seconds_low), wording.about(found.seconds_high))
    checks = f"its page's checks take another {wording.about(found.checks_seconds)}"
    return f"{name}: {found.images:,} images, {passes} passes per image, about {time} on one worker; {checks}"


def _costs(manifest: Manifest, paces: Mapping[Role, Pace], share: float) -> Iterator[tuple[float, float]]:
    """Yield passes and seconds per image of every condition if a share of the images survives what comes before."""
    for condition in manifest.conditions:
        pace, cost = paces[condition.role], _cost(condition, len(manifest.classes))
        weight = share if condition.after else 1.0
        seconds = _seconds(cost, pace)
        explained = pace.explain_seconds if manifest.scores(condition) else 0.0
        yield weight * seconds / pace.pass_seconds, weight * (seconds + explained)


def _cost(condition: Condition, classes: int) -> Cost:
    return JUDGED.get(condition.kind) or tiers.cost(condition.attack, classes)


def _checks(manifest: Manifest, pace: Pace) -> float:
    every, left = tiers.check_cost(Setup("", SOME_BUDGET), len(manifest.classes))
    images = min(len(manifest.images.samples), tiers.CHECKED_IMAGES)
    return images * (_seconds(every, pace) + SURVIVORS[1] * _seconds(left, pace))


def _seconds(cost: Cost, pace: Pace) -> float:
    """Per image."""
    return cost.passes * pace.pass_seconds + cost.forwards * pace.forward_seconds


def _between(low: str, high: str) -> str:
    """Return a range; a unit that both ends share is written once."""
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    is_shared = unit and high.count(" ") == 1 and high.endswith(f" {unit}")
    return f"{number if is_shared else low} to {high}"
