"""The verdict bar: what happened, where it takes hold, what restores it, how the checks ended, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dash import html

from dashboard import guide, ids
from dashboard.links import PAIR
from dashboard.markup import aria
from dashboard.panels import faithfulness
from engine import Comparison, Explanation, Faithfulness, class_handles

WITH_A_LIMIT: Final = ("near 0", "near 100 %", "low")
"""What "good" is of a check that can speak against a datapath; the others are facts."""

DECIDING: Final = frozenset({"clean", "adversarial", "restoration", "localisation"})
"""The parts of the faithfulness checks that can change a claim."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One cell of the verdict bar."""

    title: str
    state: faithfulness.Standing
    """Measured as it stands; a claim that its checks bear out; one they speak against; one not decided yet."""
    text: str
    detail: str
    """What the claim rests on, and what else is known of it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an auditor would do next."""

    text: str
    pick: dict[str, str] = field(default_factory=dict)
    """The fields of the view that lead there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict bar: what happened, where, what restores it, and how the checks ended."""

    claims: tuple[Claim, Claim, Claim]
    held: int
    failed: int
    undecided: int
    against: str
    """What speaks against the datapaths, in one sentence; empty where nothing does."""
    step: Step | None
    """None while checks still run, since they may change it."""


def verdict(explanation: Explanation, comparison: Comparison, faithfulness_checks: Faithfulness) -> Verdict:
    """Return the headline as cells: a claim that is refuted or undecided never stands as one.

    Where it takes hold has one causal answer, which comes first; where the datapaths diverge and converge are other,
    descriptive questions and stand behind it.
    """
    happened, *described, localised, restores = faithfulness.headline(explanation, comparison, faithfulness_checks)
    against = faithfulness.against(explanation, faithfulness_checks)
    held, failed, undecided = counted_checks(explanation, faithfulness_checks)
    where = " ".join(filter(None, (localised.detail, *(clause.text for clause in described))))
    claims = (
        Claim("What happened", happened.state, happened.claim, happened.detail),
        Claim("Where it takes hold", localised.state, localised.claim, where),
        Claim("What restores it", restores.state, restores.claim, restores.detail),
    )
    step = next_step(explanation, faithfulness_checks, claims, failed)
    return Verdict(claims, held, failed, undecided, against[0].text if against else "", step)


def next_step(
    explanation: Explanation, faithfulness_checks: Faithfulness, claims: tuple[Claim, Claim, Claim], failed: int
) -> Step | None:
    """Return what to do next: what is doubtful first, then more images, then the whole data set."""
    if faithfulness.keeps_class(explanation):
        return Step("Choose an image that was fooled", {"outcome": "fooled", "sample": ""})
    if not set(faithfulness_checks.done) >= DECIDING:
        return None
    if failed:
        return Step("Read the checks that fail", {"drawer": "checks"})
    if len(explanation.outcomes) == 1:
        into = class_handles(explanation.classes)[explanation.adversarial.target]
        return Step("Ask all images of this kind together", {"sample": f"{PAIR}{into}"})
    if claims[1].state == "refuted" or claims[2].state == "refuted":
        return Step("See what each layer alone decides", {"lane": "localisation"})
    if claims[2].state == "held":
        return Step("Audit the model on its whole data", {"page": "audits"})
    return Step("Search the smallest sets that restore", {"drawer": "study", "study": "smallest"})


def counted_checks(explanation: Explanation, faithfulness_checks: Faithfulness) -> tuple[int, int, int]:
    """Return how many checks of both datapaths hold, fail and are undecided; what has no limit is a fact, not a check."""
    limited = [
        check
        for check in faithfulness.build_card(explanation, faithfulness_checks).checks
        if check.good in WITH_A_LIMIT
    ]
    cells = [cell for check in limited for cell in (check.clean, check.adversarial)]
    cells = [cell for cell in cells if cell != faithfulness.NOT_APPLICABLE]
    failed = sum(cell.startswith(faithfulness.AGAINST) for cell in cells)
    undecided = sum(cell == faithfulness.NOT_RUN or cell.startswith(faithfulness.UNDECIDED) for cell in cells)
    return len(cells) - failed - undecided, failed, undecided


def bar() -> html.Section:
    """Return the verdict bar's skeleton; assets/verdict.js fills it."""
    return html.Section(
        guide.meaning("verdict"),
        id=ids.VERDICT,
        className="panel verdict-bar",
        **aria(label="Verdict", live="polite"),
    )
