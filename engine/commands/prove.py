"""From a store to the file of a proof over a group: what was asked, who was fooled, and every study as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import class_names, serial, tasks
from engine.answering.answers import Answers
from engine.attacks.spec import Attack
from engine.commands import at_once, studied
from engine.commands.prove_options import STUDIES
from engine.errors import BadInput, BadSetting, UnknownName
from engine.records.restoration import (
    CorrectRequest,
    FooledRequest,
    GroupProofRequest,
    SiteChoice,
    StrongestRequest,
)

OF_GROUP: Final[dict[str, tasks.Task]] = {
    "smallest": tasks.SMALLEST,
    "curve": tasks.CURVE,
    "profile": tasks.PROFILE,
    "defence": tasks.DEFENCE,
}
"""Studies that take a group alone."""


@dataclass(frozen=True, slots=True)
class Images:
    """Which images to attack: the named ones, those of a class, or correctly classified ones from an index on."""

    samples: tuple[str, ...] = ()
    label: str | None = None
    """Name or index of a class, or both as `name@index`; None for images of any class."""
    count: int = 100
    first: int = 128


@dataclass(frozen=True, slots=True)
class Study:
    """What to find out of which model."""

    model: str
    data: str
    attack: Attack
    images: Images
    maps: int
    """Maps with the most attack flow over the group, put back by the proof."""
    studies: tuple[str, ...] = STUDIES
    sites: SiteChoice = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.studies:
            if name not in STUDIES:
                raise UnknownName("study", name, STUDIES)
        if self.images.count < 1 or self.images.first < 0 or self.maps < 1:
            raise BadSetting("--images and --maps must be at least 1, and --first not negative.")


def prove(answers: Answers, study: Study, out: Path) -> dict[str, Any]:
    """Answer, write the JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    started = time.perf_counter()
    studied.require_new(out)
    samples = _samples(answers, study)
    group = FooledRequest(study.model, study.data, study.attack, samples, study.seed, study.sites)
    found = {
        "model": study.model,
        "data": study.data,
        "attack": study.attack.text,
        "seed": study.seed,
        "site_choice": study.sites,
        "attempted": list(samples),
        **{name: _answered(answers, group, name, study.maps) for name in study.studies},
        "seconds": time.perf_counter() - started,
    }
    studied.write(out, found, "writing a proof")
    return found


def _answered(answers: Answers, group: FooledRequest, name: str, maps: int) -> dict[str, Any]:
    if name == "proof":
        return _proof(answers, group, maps)
    return serial.flatten(at_once.result(answers, OF_GROUP[name], group)).value


def _proof(answers: Answers, group: FooledRequest, maps: int) -> dict[str, Any]:
    """The group's maps with the most attack flow put back, beside the six controls; `is_proven` says what they say."""
    chosen = at_once.result(answers, tasks.STRONGEST, StrongestRequest(group, maps))
    found = at_once.result(answers, tasks.GROUP_PROOF, GroupProofRequest(group, chosen, "restore"))
    return {**serial.flatten(found).value, "is_proven": found.is_proven}


def _samples(answers: Answers, study: Study) -> tuple[str, ...]:
    images, dataset = study.images, answers.store.dataset(study.data)
    if images.samples:
        return images.samples
    if images.label is None:
        request = CorrectRequest(study.model, study.data, images.count, images.first)
        return at_once.result(answers, tasks.CORRECT, request).samples
    card = answers.store.model_card(study.model)
    label = class_names.index(images.label, card.classes)
    rows = np.flatnonzero(dataset.labels_for(card) == label)[: images.count]
    if not len(rows):
        raise BadInput(f"The data set holds no image of class '{images.label}'.")
    return tuple(dataset.keys[k] for k in rows)
