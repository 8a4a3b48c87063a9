"""Several attacks on the same images: who broke what first, and the worst case of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.attacks import catalogue
from engine.attacks import run as attack_run
from engine.attacks.gradient import Classifier
from engine.attacks.spec import Attack
from engine.errors import BadInput
from engine.records import Outcome, Status

SEVERITY: tuple[Status, ...] = ("unperturbed", "resisted", "failed", "fooled")
"""From mild to severe. An attack that gave no result on an image never lets that image count as robust."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images to attack: (batch, channels, height, width) float32 in [0, 1], (batch,) int64 labels, a key for each."""

    pictures: Tensor
    labels: Tensor
    samples: tuple[str, ...]

    def at(self, rows: Sequence[int]) -> Batch:
        """Return some of them."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        places = chosen.to(self.labels.device)
        return Batch(self.pictures[chosen.to(self.pictures.device)], self.labels[places], _pick(self.samples, rows))


@dataclass(frozen=True, slots=True)
class Stage:
    """One attack of a cascade."""

    attack: str
    """Full id."""
    obstacle: str
    """Why the attack does not apply to the model, as a sentence; empty where it was run."""
    rows: tuple[int, ...]
    """Which images of the batch it was run on."""
    outcomes: tuple[Outcome, ...]
    """One per row."""


@dataclass(frozen=True, eq=False, slots=True)
class Cascade:
    """How every image of a batch fared under several attacks."""

    stages: tuple[Stage, ...]
    images: np.ndarray
    """(batch, channels, height, width) uint8: of each image its worst case."""
    outcomes: tuple[Outcome, ...]
    """The same judged; `resisted` or `unperturbed` only where no attack broke the image and none failed on it."""
    broken_at: tuple[int | None, ...]
    """Index of the first stage that fooled each image, or None."""


def over_survivors(bundle: Classifier, batch: Batch, specs: Sequence[Attack], seeds: Tensor) -> Cascade:
    """Run attacks in order, each only on the images that were right and that no earlier one fooled.

    seeds: (attacks, batch) int64. Raises BadInput for a control and where no attack applies to the model.
    """
    return _over(bundle, batch, specs, seeds, lambda outcome: outcome.status not in ("fooled", "clean_wrong"))


def over_all(bundle: Classifier, batch: Batch, specs: Sequence[Attack], seeds: Tensor) -> Cascade:
    """Run every attack on every image; otherwise as `over_survivors`."""
    return _over(bundle, batch, specs, seeds, lambda _outcome: True)


def _over(
    bundle: Classifier, batch: Batch, specs: Sequence[Attack], seeds: Tensor, goes_on: Callable[[Outcome], bool]
) -> Cascade:
    _check(specs, seeds, len(batch.samples), len(bundle.classes))
    worst = _Worst(len(batch.samples))
    stages = []
    for number, spec in enumerate(specs):
        obstacle = catalogue.obstacle(spec, len(bundle.classes))
        rows = () if obstacle else worst.rows(goes_on)
        outcomes: tuple[Outcome, ...] = ()
        if rows:
            chosen = batch.at(rows)
            own = seeds[number][torch.tensor(rows)]
            found = attack_run.run(bundle, chosen.pictures, chosen.labels, spec, own, samples=chosen.samples)
            worst.take(number, rows, found)
            outcomes = found.outcomes
        stages.append(Stage(spec.text, obstacle, rows, outcomes))
    return worst.cascade(tuple(stages))


def _check(specs: Sequence[Attack], seeds: Tensor, count: int, classes: int) -> None:
    controls = [spec.name for spec in specs if spec.is_control]
    if controls:
        raise BadInput(f"A worst case is taken over attacks; {controls[0]} is a control.")
    if all(catalogue.obstacle(spec, classes) for spec in specs):
        raise BadInput(f"None of the attacks applies to a model of {classes} classes.")
    if tuple(seeds.shape) != (len(specs), count):
        raise BadInput(f"There must be a seed per attack and image, ({len(specs)}, {count}); got {tuple(seeds.shape)}.")


class _Worst:
    """The worst case of each image so far."""

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.images: list[np.ndarray | None] = [None] * count
        self.broken_at: list[int | None] = [None] * count

    def rows(self, goes_on: Callable[[Outcome], bool]) -> tuple[int, ...]:
        """The images that were not attacked yet or go on."""
        return tuple(row for row, outcome in enumerate(self.outcomes) if outcome is None or goes_on(outcome))

    def take(self, stage: int, rows: tuple[int, ...], found: attack_run.Attacked) -> None:
        """Put in what one stage did to some images."""
        for row, outcome, image in zip(rows, found.outcomes, found.images, strict=True):
            known = self.outcomes[row]
            if outcome.status == "fooled" and self.broken_at[row] is None:
                self.broken_at[row] = stage
            if known is None or _is_worse(outcome, known):
                self.outcomes[row], self.images[row] = outcome, image

    def cascade(self, stages: tuple[Stage, ...]) -> Cascade:
        """The finished record."""
        images = np.stack([image for image in self.images if image is not None])
        images.setflags(write=False)
        outcomes = tuple(outcome for outcome in self.outcomes if outcome is not None)
        return Cascade(stages, images, outcomes, tuple(self.broken_at))


def _is_worse(outcome: Outcome, known: Outcome) -> bool:
    """Return whether an outcome is worse than a known one of the same image; of equals the first stays."""
    if "clean_wrong" in (outcome.status, known.status):
        return False
    one, other = SEVERITY.index(outcome.status), SEVERITY.index(known.status)
    if one == other and outcome.status == "resisted":
        return outcome.after.confidence < known.after.confidence
    return one > other


def _pick(samples: tuple[str, ...], rows: Sequence[int]) -> tuple[str, ...]:
    return tuple(samples[row] for row in rows)
