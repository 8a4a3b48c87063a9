"""What an audit run stored of its images under one condition, named where an attack is named. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Final

from engine import parameters
from engine.errors import BadSetting
from engine.parameters import Measure
from engine.specs import threat_model
from engine.specs.threat_model import Attack, Family, Norm

PREFIX: Final = "run:"
FORM: Final = re.compile(r"run:([0-9a-f]{32})/(candidate|baseline)/([^/\s][^\s]{0,199})")


@dataclass(frozen=True, slots=True)
class OfRun(Attack):
    """The stored 8-bit images of one model of a run under one condition: nothing is attacked anew.

    Norm and budget are those of the condition's attack; a precomputed set has none here. The run's id is the hash of its manifest,
    so the text says completely what was planned; what was stored, the hash of each image says.
    """

    family: ClassVar[Family] = "stored"

    run: str
    role: str
    condition: str
    """As the run calls it: the full id of an attack, or the name of a precomputed set."""
    own: Attack | None
    """The condition's attack; None for a precomputed set."""

    def __post_init__(self) -> None:
        """Its form is checked where it is read; what it names, where the run is."""

    @property
    def text(self) -> str:
        """The text that `catalogue.attack` reads back: `run:RUN/ROLE/CONDITION`."""
        return f"{PREFIX}{self.run}/{self.role}/{self.condition}"

    @property
    def name(self) -> str:  # type: ignore[override]
        """What its attack or its set is called."""
        return self.condition if self.own is None else self.own.name

    @property
    def title(self) -> str:  # type: ignore[override]
        """The condition and the beginning of the run's id."""
        return f"{self.condition}, stored by run {self.run[:12]}"

    @property
    def norm(self) -> Norm:  # type: ignore[override]
        """In which the condition's budget is counted."""
        return threat_model.NO_NORM if self.own is None else self.own.norm

    @property
    def is_control(self) -> bool:  # type: ignore[override]
        """Whether the condition looks at no network."""
        return self.own is not None and self.own.is_control

    @property
    def epsilon(self) -> Fraction | None:  # type: ignore[override]
        """The budget of the condition."""
        return None if self.own is None else self.own.epsilon

    @property
    def without_epsilon(self) -> str:
        """The same as the text: a stored image has no other strength."""
        return self.text

    @property
    def epsilon_text(self) -> str:
        """The condition's strength as ids write it."""
        return "" if self.own is None else self.own.epsilon_text

    @property
    def measure(self) -> Measure:
        """How people read the condition's strength."""
        return parameters.MEASURES[""] if self.own is None else self.own.measure

    @property
    def is_standard(self) -> bool:
        """Never: it is no attack that could be run with other settings."""
        return False

    def at(self, epsilon: Fraction) -> Attack:  # type: ignore[override]
        """Return the condition's attack at another strength, which is run anew; raises BadSetting."""
        if self.own is None:
            raise BadSetting(f"The precomputed set '{self.condition}' has no other strength.")
        return self.own.at(epsilon)

    def limit(self, values: int) -> float | None:
        """Return how large a change may be by the condition's attack; None where nobody attacked here."""
        return None if self.own is None else self.own.limit(values)


def read(text: str, catalogue: Mapping[str, type[Attack]]) -> OfRun:
    """Return what `OfRun.text` says. Raises BadSetting for another form, UnknownName for an attack that is not there."""
    match = FORM.fullmatch(text)
    if match is None:
        raise BadSetting(
            f"Stored images are named run:RUN/ROLE/CONDITION with the whole id of the run; got '{text[:80]}'."
        )
    run, role, condition = match.groups()
    # Ids of attacks carry their settings; names of sets hold no colon.
    own = parameters.parse(condition, catalogue) if ":" in condition else None
    return OfRun(run, role, condition, own)
