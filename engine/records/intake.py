"""The intake report: what was checked of a model before anything is claimed about it. Names, order, texts and records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.records import credibility
from engine.records.credibility import Check, CheckOutcome, CheckResult, Verdict
from engine.schemas import Schema
from engine.statistics import Estimate

INTAKE_CHECKS: tuple[Check, ...] = (
    Check(
        "loads", "Loads", "The weights do not fit the architecture, or the network does not answer one logit per class."
    ),
    Check("hash", "Unchanged", "The stored weights are not those that were checked when the model was added."),
    Check("sites", "Feature maps", "Fewer than two places with feature maps can be read and replaced."),
    Check(
        "function",
        "Same function as handed in",
        "The network that is audited answers a picture otherwise than the module that was handed in, in a batch or alone.",
    ),
    Check(
        "edges",
        "Connections are exact",
        "They do not add up to what arrives, or a map's are not what changing it alone does, though no gate or norm explains it.",
    ),
    Check(
        "fields",
        "Receptive fields",
        "A position depends on pixels that its receptive field does not hold, or the field is larger than what it depends on.",
    ),
    Check("evaluation", "Evaluation mode", "The answer to an image depends on the other images of its batch."),
    Check("deterministic", "Same answer twice", "Two passes over the same images answer differently."),
    Check("finite", "Finite answers", "An image, black, white or noise is answered with a value that is not finite."),
    Check(
        "logits",
        "Logits, not probabilities",
        "The network answers with probabilities, percentages or their logarithms.",
    ),
    Check(
        "gradients", "Gradients are there", "On an image the gradient of the loss is zero everywhere, or not finite."
    ),
    Check("accuracy", "Clean accuracy", "It is no better than chance, or clearly below what was declared."),
    Check(
        "preprocessing",
        "Preprocessing",
        "Another preprocessing or numbering of classes gives clearly more right answers.",
    ),
)
"""In the order they are shown."""
PROOFS = ("function", "edges", "fields")
"""The checks that prove that the network that is audited is the one handed in, and is read exactly."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """An obvious mistake that would explain wrong answers, and what changes when it is undone."""

    mistake: str
    """One sentence: what was probably overlooked."""
    remedy: str
    """What to say when the model or the data is added, such as `--channels bgr`."""
    before: Estimate
    """Share of right answers as declared."""
    after: Estimate
    """Share of right answers on the same images with the remedy."""
    gain: Estimate
    """Their paired difference."""


@dataclass(frozen=True, slots=True)
class InexactLink:
    """A link between two sites whose edges are not what changing one map alone does."""

    source: int
    target: int
    """Indices into the model's sites; as many as there are sites for the logits."""
    error: float
    """Of a changed map's edges, as a share of the largest mass of edges into one map."""
    reason: str
    """Gates and norms on the way, or that several layers compute the logits; empty where nothing explains it."""


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """All intake checks of one model, in order."""

    SCHEMA: ClassVar[Schema] = Schema("model-validation/1", "IntakeReport")

    model: str
    content_hash: str
    data: str
    """Labelled images it was checked on; empty for none, then on noise."""
    images: int
    results: tuple[CheckResult, ...]
    suspicions: tuple[Suspicion, ...] = ()
    """The likeliest first."""
    inexact: tuple[InexactLink, ...] = ()
    """Links that are drawn as not exact."""

    def with_outcome(self, outcome: CheckOutcome) -> tuple[str, ...]:
        """Return the names of the checks that came out so."""
        return credibility.with_outcome(self.results, outcome)

    @property
    def verdict(self) -> Verdict:
        """`fail` if any check failed; `pass` only if all were run and passed."""
        return credibility.verdict(self.results)


def lines(report: IntakeReport) -> tuple[str, ...]:
    """Return the report for people, one line per check and suspicion."""
    titles = {check.name: check.title for check in INTAKE_CHECKS}
    checks = [f"  {one.outcome:8} {titles[one.check]}: {one.sentence}" for one in report.results]
    return (*checks, *(f"  remedy   {one.mistake} Say {one.remedy}." for one in report.suspicions))
