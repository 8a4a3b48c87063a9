"""What people read of a run: the same words on the command line and on the screen."""

from __future__ import annotations

from typing import Final

from engine.audit.summary import ConditionResult
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
