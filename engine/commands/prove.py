"""From a store to the file of a proof over a group: what was asked, who was fooled, and every study as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import class_names, serial
from engine.attacks.spec import Attack
from engine.commands import studied
from engine.commands.prove_options import STUDIES
from engine.commands.studied import Place
from engine.datapaths import cases, choosing
from engine.errors import BadInput, BadSetting, UnknownName
from engine.evaluation import pairing
from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.proving import causal, exchanges, flows, studies
from engine.proving import fooled as fooled_images
from engine.records.proof import MapSet, Proof
from engine.records.restoration import FooledRequest, GroupProofRequest
from engine.store.dataset import Dataset
from engine.store.store import Store


@dataclass(frozen=True, slots=True)
class Images:
    """Which images to attack: the named ones, those of a class, or correctly classified ones from an index on."""

    samples: tuple[str, ...] = ()
    label: str | None = None
    """Name or index of a class, or both as `name@index`; None for images of any class."""
    count: int = 100
    first: int = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """What to find out."""

    attack: Attack
    images: Images
    maps: int
    """Maps with the most attack flow over the group, put back by the proof."""
    studies: tuple[str, ...] = STUDIES
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.studies:
            if name not in STUDIES:
                raise UnknownName("study", name, STUDIES)
        if self.images.count < 1 or self.images.first < 0 or self.maps < 1:
            raise BadSetting("--images and --maps must be at least 1, and --first not negative.")


def prove(store: Store, place: Place, asked: Asked, report: Report) -> dict[str, Any]:
    """Answer, write the JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    started = time.perf_counter()
    bundle, dataset = studied.opened(store, place)
    samples = _samples(bundle, dataset, asked)
    request = FooledRequest(place.model, place.data, asked.attack, samples, asked.seed)
    found = {
        "model": place.model,
        "data": place.data,
        "attack": asked.attack.text,
        "seed": asked.seed,
        "site_choice": place.sites,
        "attempted": list(samples),
        **{name: _study(bundle, dataset, request, name, asked.maps, report) for name in asked.studies},
        "seconds": time.perf_counter() - started,
    }
    studied.write(place, found, "writing a proof")
    return found


def _study(
    bundle: ModelBundle, dataset: Dataset, request: FooledRequest, name: str, maps: int, report: Report
) -> dict[str, Any]:
    if name == "proof":
        return _proof(bundle, dataset, request, maps, report)
    return serial.flatten(studies.STUDIES[name](bundle, dataset, request, report)).value


def _proof(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, maps: int, report: Report) -> dict[str, Any]:
    """The group's maps with the most attack flow put back, beside the six controls; `is_proven` says what they say."""
    chosen = strongest(bundle, dataset, request, maps)
    found: Proof = causal.prove_group(bundle, dataset, GroupProofRequest(request, chosen, "restore"), report)
    return {**serial.flatten(found).value, "is_proven": found.is_proven}


def strongest(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, count: int) -> MapSet:
    """Return the maps with the most attack flow over the fooled images of a request; raises BadSetting for too many."""
    available = int(choosing.claimable(bundle).sum())
    if not 1 <= count <= available:
        raise BadSetting(f"From 1 to {available} maps can be put back, got {count}.")
    group = fooled_images.gather(bundle, dataset, request)
    return exchanges.map_set(bundle, (flows.shared_ranks(group, flows.attack_flow(group)) < count)[0])


def _samples(bundle: ModelBundle, dataset: Dataset, asked: Asked) -> tuple[str, ...]:
    images = asked.images
    if images.samples:
        for sample in images.samples:
            dataset.row(sample)
        return images.samples
    if images.label is None:
        return pairing.right(bundle, dataset, images.count, first=images.first).samples
    label = class_names.index(images.label, bundle.classes)
    rows = np.flatnonzero(cases.labels(bundle, dataset) == label)[: images.count]
    if not len(rows):
        raise BadInput(f"The data set holds no image of class '{images.label}'.")
    return tuple(dataset.keys[k] for k in rows)
