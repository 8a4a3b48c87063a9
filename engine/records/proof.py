"""The nouns of a causal proof: which maps were put where, what it did, and what its controls did. Frozen, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from engine.schemas import Schema

Direction = Literal["restore", "inject"]
"""`restore`: clean maps into the adversarial run; `inject`: adversarial maps into the clean run."""
ControlName = Literal["random", "same layers", "largest change", "third class", "noisy copy", "another image"]
CONTROLS: dict[ControlName, str] = {
    "random": "As many maps, drawn from all layers that claims may use.",
    "same layers": "As many maps of the same layers, drawn from those that were not chosen.",
    "largest change": "The maps that the attack changed most, as many.",
    "third class": "The maps with the most attack flow towards a class that plays no part; counted is that class.",
    "noisy copy": "The same maps, from a copy of the receiving image under noise of the attack's length.",
    "another image": "The same maps, from a clean image of another class.",
}
"""What each control puts in; each but `COMPARED` must do less than the chosen maps."""
COMPARED: ControlName = "largest change"
"""Another way to choose, not a control: that it restores too does not speak against the chosen maps."""


@dataclass(frozen=True, slots=True)
class MapSet:
    """Feature maps by site, both in the order of the network; no map twice."""

    SCHEMA: ClassVar[Schema] = Schema("channel-set/1", "MapSet")

    sites: tuple[str, ...]
    channels: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Maps in all."""
        return sum(len(one) for one in self.channels)


@dataclass(frozen=True, slots=True)
class Effect:
    """What one intervention did to the images; `n` trials."""

    n: int
    recovery: float
    """Share of the margin that the attack took (or, injecting, that is taken), mean over trials; 1 is all of it."""
    recovery_low: float | None
    recovery_high: float | None
    """95 % bootstrap interval over images; None for a single one."""
    flipped: float
    """Share of trials that give the class aimed at."""
    flipped_low: float
    flipped_high: float
    """95 % interval: Wilson over trials, or bootstrap over images where several trials of an image make that the wider one."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a control did; `their_own` is the share that gave the class of the values put in, where they have one."""

    name: ControlName
    effect: Effect
    draws: int
    """Interventions per image."""
    their_own: float | None = None


@dataclass(frozen=True, slots=True)
class MapResponse:
    """How one map answers to the images under attack, beside its answer to the clean ones."""

    site: str
    channel: int
    silenced: int
    """Images in which its largest absolute value falls to half or less."""
    roused: int
    """Images in which it at least doubles."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One intervention on the images of an examination, beside its controls."""

    SCHEMA: ClassVar[Schema] = Schema("patching-test/1", "Proof")

    examination: str
    direction: Direction
    chosen: MapSet
    effect: Effect
    recoveries: tuple[float, ...]
    """Per image."""
    labels: tuple[int, ...]
    """Per image, what the network says with the chosen maps put in."""
    confidences: tuple[float, ...]
    controls: tuple[Control, ...]
    missing: tuple[str, ...]
    """Controls that could not be run, each with its reason."""
    trivial: tuple[str, ...]
    """Chosen sites through which everything runs (stem, the classes' own evidence): they restore whatever is put there."""
    samples: tuple[str, ...] = ()
    """Keys of the images, in the order of `recoveries`."""
    responses: tuple[MapResponse, ...] = ()
    """Of the chosen maps, where they are few enough to be named in a sentence."""

    @property
    def is_proven(self) -> bool:
        """Whether every control that was run did less than the chosen maps, beyond both intervals, and random ones were run.

        `COMPARED` has no say.
        """
        if self.trivial or "random" not in {one.name for one in self.controls}:
            return False
        refuting = [one for one in self.controls if one.name != COMPARED]
        return all(one.effect.flipped_high < self.effect.flipped_low for one in refuting)
