"""The real worker's dispatcher over made-up computations, without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from engine.errors import Unsupported
from engine.jobs import Report
from engine.service import worker
from engine.service.tasks import EXPLANATION, Task
from engine.service.worker import Bench, Bundles, Kept
from engine.store import Store
from engine.types.core import AttackResults, AttackResultsRequest, Explanation, ExplanationRequest, Gallery
from engine.types.faithfulness import DatapathChecks, Faithfulness
from engine.types.requests import FaithfulnessRequest, Nothing, Place
from tests import fakes


def bundle(store: Store, model: str, _sites: str) -> str:
    """Stand for a network."""
    mark(store, f"bundle {model}")
    return f"bundle of {model}"


LOADED = Bundles(bundle)


def perform(ordered: dict[str, Any], store_root: str, *, report: Report | None = None) -> str:
    """Do a task with made-up computations; each is marked in the store's folder."""
    return worker.perform(ordered, store_root, report=report, compute=compute)


def compute(task: Task[Any, Any], bench: Bench, request: Any) -> Any:
    """Make up what a task computes."""
    return COMPUTATIONS[task.kind](dataclasses.replace(bench, loaded=LOADED), request)


def mark(store: Store, what: str) -> None:
    with (store.root / "calls").open("a") as calls:
        calls.write(f"{what}\n")


def attack_results(bench: Bench, request: AttackResultsRequest) -> AttackResults:
    bench.both(request)
    mark(bench.store, f"roster {request.label}")
    bench.report(1, 2, "Attacking")
    return fakes.FakeAuditor().attack_results(request).value


def explanation(bench: Bench, request: ExplanationRequest) -> Kept[Explanation]:
    mark(bench.store, f"examine {bench.both(request)[0]} {','.join(request.samples)}")
    if (bench.store.root / "refuse").exists():
        raise Unsupported("This network cannot be traced.")
    sides = ("clean", "adversarial")
    maps = {f"{k:03d}/{side}": maps_of(k, side) for k in range(len(fakes.SITES)) for side in sides}
    return Kept(dataclasses.replace(fakes.explanation(request), key=bench.key), {"maps": maps})


def faithfulness_part(bench: Bench, request: FaithfulnessRequest) -> Faithfulness:
    explained = bench.stored(EXPLANATION, request.explanation)
    bench.both(explained.request)
    mark(bench.store, f"part {request.part} of {explained.key[:4]}")
    if request.part == "kinship" and (bench.store.root / "no kinship").exists():
        raise Unsupported("The data set has too few classes.")
    found = {
        "clean": Faithfulness(clean=DatapathChecks(carries_at=8)),
        "weights": Faithfulness(clean=DatapathChecks(random_weights_jaccard=0.1)),
    }.get(request.part, Faithfulness())
    return dataclasses.replace(found, done=(request.part,))


def gallery(bench: Bench, request: Place) -> Gallery:
    bench.both(request)
    mark(bench.store, "gallery")
    return fakes.FakeAuditor().gallery("", "").value


def demo(bench: Bench, request: Nothing) -> Nothing:
    mark(bench.store, "demo")
    add_all(bench.store)
    return request


COMPUTATIONS = {
    "roster": attack_results,
    "examination": explanation,
    "certificate": faithfulness_part,
    "gallery": gallery,
    "demo": demo,
}


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
