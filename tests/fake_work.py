"""The real worker's dispatcher over made-up computations, without torch."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import features, models, proving, work
from engine.errors import Unsupported
from engine.jobs import Report
from engine.records import Certificate, Certificates, Examination, ExaminationRequest, Gallery, Roster, RosterRequest
from engine.store import Dataset, Store
from tests import fakes

HOMES = {
    "rosters": engine,
    "examination": engine,
    "certificates": proving,
    "demo": engine,
    "load": models,
    "gallery": features,
}


def perform(task: dict[str, Any], store_root: str) -> str:
    """Do a task with made-up computations."""
    for name, home in HOMES.items():
        module = module_of(name, Path(store_root))
        sys.modules[f"{home.__name__}.{name}"] = module
        setattr(home, name, module)
    return work.perform(task, store_root)


def module_of(name: str, root: Path) -> types.ModuleType:
    """A module with the functions that `engine.work` calls; each call is marked in the store's folder."""

    def mark(what: str) -> None:
        with (root / "calls").open("a") as calls:
            calls.write(f"{what}\n")

    def bundle(_store: Store, model: str) -> str:
        mark(f"bundle {model}")
        return f"bundle of {model}"

    def attack_class(_bundle: str, _dataset: Dataset, request: RosterRequest, report: Report) -> Roster:
        mark(f"roster {request.label}")
        report(1, 2, "Attacking")
        return fakes.FakeAuditor().roster(request).value

    def examine(
        bundle: str, _dataset: Dataset, request: ExaminationRequest, _report: Report
    ) -> tuple[Examination, dict[str, np.ndarray]]:
        mark(f"examine {bundle} {','.join(request.samples)}")
        if (root / "refuse").exists():
            raise Unsupported("This network cannot be traced.")
        sides = ("clean", "adversarial")
        maps = {f"{k:03d}/{side}": maps_of(k, side) for k in range(len(fakes.SITES)) for side in sides}
        return fakes.examination(request), maps

    def part(name: str, _bundle: str, _dataset: Dataset, examined: Examination, _report: Report) -> Certificates:
        mark(f"part {name} of {examined.key[:4]}")
        if name == "kinship" and (root / "no kinship").exists():
            raise Unsupported("The data set has too few classes.")
        return {
            "clean": Certificates(clean=Certificate(carries_at=8)),
            "weights": Certificates(clean=Certificate(random_weights_jaccard=0.1)),
        }.get(name, Certificates())

    def build(_bundle: str, _dataset: Dataset, _report: Report) -> Gallery:
        mark("gallery")
        return fakes.FakeAuditor().gallery("", "").value

    def install(store: Store) -> None:
        mark("demo")
        add_all(store)

    functions = (bundle, attack_class, examine, part, build, install)
    module = types.ModuleType(name)
    for function in functions:
        setattr(module, function.__name__, function)
    return module


def maps_of(site: int, side: str) -> np.ndarray:
    """Feature maps that tell their site and side."""
    described = fakes.SITES[site]
    shape = (described.channels, described.height, described.width)
    return np.full(shape, site + (0.5 if side == "adversarial" else 0.0), dtype=np.float32)


def add_all(store: Store) -> None:
    """Add two models and one data set of 40 images."""
    for card in fakes.MODELS:
        store.add_model(card, b"weights")
    add_data(store)


def add_data(store: Store, content_hash: str = "abcd") -> None:
    """Add the data set alone."""
    labels = np.arange(40) % 10
    images = np.random.default_rng(0).integers(0, 255, size=(40, 32, 32, 1), dtype=np.uint8)
    card = fakes.DatasetCard("digits", content_hash, 40, fakes.CLASSES, (4,) * 10, 1, (32, 32), "npz", "2026-11-22")
    store.add_data(card, images, labels, tuple(f"{k}.png" for k in range(40)))
