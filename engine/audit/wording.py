"""What people read of a run: the same words on the command line and on the screen."""

from __future__ import annotations

from typing import Final

from engine.audit import summary, tiers
from engine.audit.summary import ConditionResult, Summary, Verdict
from engine.records import Status

HOUR, MINUTE = 3600, 60
ORDER: Final[tuple[Status, ...]] = ("clean_wrong", "fooled", "resisted", "unperturbed", "failed", "broken_before")
STATUS: Final[dict[Status, str]] = {
    "clean_wrong": "clean wrong",
    "fooled": "fooled",
    "resisted": "resisted",
    "unperturbed": "unperturbed",
    "failed": "failed",
    "broken_before": "not attacked: broken already",
}
UNATTACKED: Final[dict[Status, str]] = {**STATUS, "unperturbed": "right", "clean_wrong": "wrong"}
"""The same without an attack."""

VERDICTS: Final[dict[Verdict, str]] = {
    "pass": "PASS: every threshold is met.",
    "fail": "FAIL: not every threshold is met.",
    "inconclusive": "INCONCLUSIVE: not every threshold could be told; why stands beside it.",
    "nothing to decide": "none: no thresholds were agreed before this run, so it decides nothing.",
}
ON_SURVIVORS: Final = (
    "On survivors: only what the attacks before left unbroken was attacked; what those broke counts as not right."
)


def duration(seconds: float) -> str:
    """Return a length of time in the two largest units."""
    whole = round(seconds)
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // MINUTE} min {whole % MINUTE} s" if whole >= MINUTE else f"{whole} s"


def about(seconds: float) -> str:
    """Return a length of time as exactly as an estimate deserves: whole seconds below two minutes, then whole minutes."""
    return (
        f"{seconds:.0f} s" if seconds < 2 * MINUTE else duration(MINUTE * round(seconds / MINUTE)).removesuffix(" 0 s")
    )


def run_verdict(found: Summary) -> str:
    """Return what the thresholds of a run say together, in one line."""
    if found.is_interim:
        return "not decided yet: the run is not finished."
    return VERDICTS[summary.verdict(found)]


def left_out(tier: str, classes: int) -> str:
    """Return which attacks of a tier do not apply to a model of so many classes, and why; empty where all do."""
    found = tiers.left_out(tier, classes)
    return f"Left out of the tier '{tier}': {' '.join(found)}" if found else ""


def status_counts(found: ConditionResult) -> str:
    """Return how the images of a condition ended, for example `85 clean wrong, 915 fooled`."""
    words = UNATTACKED if found.kind == "clean" else STATUS
    told = [f"{found.statuses[name]} {words[name]}" for name in ORDER if found.statuses.get(name)]
    if found.outside_budget:
        told.append(f"{found.outside_budget} outside their budget, left out")
    return ", ".join(told)


def condition_name(found: ConditionResult) -> str:
    """Return a condition's name, and that it ran on survivors where it did."""
    return f"{found.name} (on survivors)" if found.is_cumulative else found.name
