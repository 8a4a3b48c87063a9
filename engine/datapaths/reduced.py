"""Whether scoring in bfloat16 is worth it for a model on this machine: measured on some of its images, never guessed.

Opt-in. Stored evidence must not depend on a stopwatch: two machines that decide differently would file different scores
under one key. The two-run passes of an examination also carry the connections, whose completeness needs float32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from engine import tracing
from engine.datapaths import scores
from engine.datapaths.scores import Question
from engine.models import precision
from engine.models.bundle import ModelBundle

ENOUGH = 0.98
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """How well and how fast the reduced twin scored in one comparison; JSON-able, to be kept with the model."""

    content_hash: str
    device: str
    rank_correlation: float
    """Spearman over the unsigned scores of all maps, mean over the images."""
    speed: float
    """Time of float32 over time of bfloat16, median of rounds in turn."""

    @property
    def is_reduced(self) -> bool:
        """Whether scores should come from the reduced twin."""
        return self.rank_correlation >= ENOUGH and self.speed > 1.0


def decide(bundle: ModelBundle, question: Question, starts: Tensor, *, references: int) -> Decision:
    """Return the comparison of float32 and bfloat16 two-run scores, each image's averaged over its references.

    question, starts: rows of images against reference images, image-major, `references` rows for each image.
    """
    pair = bundle, precision.reduced(bundle)
    runs = [tracing.record(each, starts) for each in pair]
    found = [scores.between_runs(each, question, run) for each, run in zip(pair, runs, strict=True)]
    speeds = []
    for _ in range(ROUNDS):
        seconds = []
        for each, run in zip(pair, runs, strict=True):
            started = time.perf_counter()
            # Copying one score to the host waits for the device.
            float(scores.between_runs(each, question, run).scores[0].sum())
            seconds.append(time.perf_counter() - started)
        speeds.append(seconds[0] / seconds[1])
    return Decision(
        content_hash=bundle.content_hash,
        device=str(bundle.device),
        rank_correlation=rank_correlation(*(_averaged(each.scores, references) for each in found)),
        speed=float(np.median(speeds)),
    )


def scorer(bundle: ModelBundle, decision: Decision) -> ModelBundle:
    """Return the bundle to score with, which must record the reference runs too; claims are evaluated on `bundle`."""
    return precision.reduced(bundle) if decision.is_reduced else bundle


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return the mean Spearman correlation of |first| and |second| over the images, each (images, all maps)."""
    pairs = zip(first.abs().float().cpu().numpy(), second.abs().float().cpu().numpy(), strict=True)
    return float(np.mean([stats.spearmanr(a, b).statistic for a, b in pairs]))


def _averaged(per_map: tracing.PerMap, references: int) -> Tensor:
    joined = tracing.join(per_map)
    return joined.view(-1, references, joined.shape[1]).mean(dim=1)
