"""The speed and memory table: every figure with its reference, ratios measured in one run."""

from __future__ import annotations

import functools
import os
import platform
import resource
import time
from dataclasses import asdict
from typing import Any

import torch

from engine import examination, tracing
from engine.attacks.catalogue import PgdLinf
from engine.benchmark import measures, passes, peers, transplants
from engine.benchmark.measures import Row, Scale
from engine.datapaths import cases
from engine.features import gallery
from engine.models import load
from engine.models.bundle import ModelBundle
from engine.proving import certificates
from engine.records import ExaminationRequest, certificate_parts
from engine.store.dataset import Dataset
from engine.store.store import Store

ATTACK = PgdLinf()
PAIR_TARGET, CERTIFICATE_TARGET, MEMORY_TARGET = 2.0, 6.0, 1536.0
FULL = Scale()


def run(store: Store, model: str, data: str, scale: Scale = FULL) -> dict[str, Any]:
    """Return the table for a stored model and data set, as plain JSON values."""
    started = time.perf_counter()
    bundle, dataset = load.bundle(store, model), store.dataset(data)
    loaded = time.perf_counter() - started
    rows = [measures.row("model loaded", loaded, "s"), *_pair(bundle, dataset, scale)]
    rows.append(measures.row("gallery of every map", _once(lambda: gallery.build(bundle, dataset, _quiet)), "s"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(measures.row("peak memory of this process so far", peak, "MiB", MEMORY_TARGET))
    rows += transplants.measure(bundle, dataset, scale)
    rows += passes.measure(bundle, dataset, scale)
    rows += peers.measure(bundle, dataset, scale)
    return {"machine": _machine(), "model": model, "data": data, "rows": [asdict(row) for row in rows]}


def text(found: dict[str, Any]) -> str:
    """Return the table as text."""
    machine = found["machine"]
    lines = [
        f"{found['model']} on {found['data']}, {machine['cores']} cores, {machine['device']}, torch {machine['torch']}"
    ]
    for row in found["rows"]:
        reference = f"{row['reference']:>10.3g} {row['ratio']:>8.2f}x" if row["reference"] is not None else ""
        value = f"{row['value']:>10.3g} {row['unit']:<6}" if not row["note"] else ""
        lines.append(f"{row['name']:<72}{value}{reference}{row['note']}")
    return "\n".join(lines)


def _pair(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """A new pair from attack to connections, and its certificate, against the product's targets."""
    request = ExaminationRequest(bundle.name, dataset.card.name, ATTACK, (_first_correct(bundle, dataset),))
    found = examination.examine(bundle, dataset, request, _quiet)[0]
    repeats = min(3, scale.repeats)
    examined = measures.timed(lambda: examination.examine(bundle, dataset, request, _quiet), repeats)
    parts = [
        measures.timed(functools.partial(certificates.part, name, bundle, dataset, found, _quiet), repeats)
        for name in certificate_parts.PARTS
    ]
    return [
        measures.row("new pair: attack, datapaths, connections", examined, "s", PAIR_TARGET),
        measures.row("its certificate, all parts", sum(parts), "s", CERTIFICATE_TARGET),
        measures.row("longest certificate part", max(parts), "s"),
        measures.row("image-passes of the pair", found.passes, ""),
    ]


def _first_correct(bundle: ModelBundle, dataset: Dataset) -> str:
    limit = tracing.batch_limit(bundle)
    return cases.correct(bundle, dataset, range(min(limit, dataset.card.count)), 1, at_once=limit).samples[0]


def _once(work: measures.Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"cores": os.cpu_count(), "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _quiet(done: int, total: int, message: str) -> None:
    """Progress would be timed too."""
