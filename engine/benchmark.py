"""The speed and memory table: every figure with its reference, ratios measured in one run."""

from __future__ import annotations

import functools
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine import certificate_parts, certificates, connections, examination, tracing
from engine.datapaths import cases, scores
from engine.features import gallery
from engine.models import load
from engine.models.bundle import ModelBundle
from engine.records import ExaminationRequest
from engine.store.dataset import Dataset
from engine.store.store import Store

ATTACK = "pgd-linf"
REPEATS = 3
BATCH = 32
PAIR_TARGET, CERTIFICATE_TARGET, MEMORY_TARGET = 2.0, 6.0, 1536.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is value / reference (a target or a measured baseline), below one is better."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None


def run(store: Store, model: str, data: str) -> dict[str, Any]:
    """Return the table for a stored model and data set, as plain JSON values."""
    started = time.perf_counter()
    bundle, dataset = load.bundle(store, model), store.dataset(data)
    loaded = time.perf_counter() - started
    rows = [_row("model loaded", loaded, "s"), *_pair(bundle, dataset), *_passes(bundle, dataset)]
    rows.append(_row("gallery of every map", _timed(lambda: gallery.build(bundle, dataset, _quiet), 1), "s"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(_row("peak memory of this process", peak, "MiB", MEMORY_TARGET))
    return {"machine": _machine(), "model": model, "data": data, "rows": [asdict(row) for row in rows]}


def table(found: dict[str, Any]) -> str:
    """Return the table as text."""
    machine = found["machine"]
    lines = [
        f"{found['model']} on {found['data']}, {machine['cores']} cores, {machine['device']}, torch {machine['torch']}"
    ]
    for row in found["rows"]:
        reference = f"{row['reference']:>10.3g} {row['ratio']:>8.2f}x" if row["reference"] is not None else ""
        lines.append(f"{row['name']:<48}{row['value']:>10.3g} {row['unit']:<6}{reference}")
    return "\n".join(lines)


def _pair(bundle: ModelBundle, dataset: Dataset) -> list[Row]:
    """A new pair from attack to connections, and its certificate, against the product's targets."""
    request = ExaminationRequest(bundle.name, dataset.card.name, ATTACK, (_first_correct(bundle, dataset),))
    found = examination.examine(bundle, dataset, request, _quiet)[0]
    examined = _timed(lambda: examination.examine(bundle, dataset, request, _quiet))
    rows = [_row("new pair: attack, datapaths, connections", examined, "s", PAIR_TARGET)]
    parts = [
        _timed(functools.partial(certificates.part, name, bundle, dataset, found, _quiet))
        for name in certificate_parts.PARTS
    ]
    rows.append(_row("its certificate, all parts", sum(parts), "s", CERTIFICATE_TARGET))
    return [
        *rows,
        _row("longest certificate part", max(parts), "s"),
        _row("image-passes of the pair", found.passes, ""),
    ]


def _passes(bundle: ModelBundle, dataset: Dataset) -> list[Row]:
    """The parts of an extraction against a plain forward and backward of the same batch."""
    count = min(BATCH, tracing.batch_limit(bundle), dataset.card.count)
    images = cases.load(bundle, dataset, dataset.keys[:count])
    reference = tracing.record(bundle, images.flip(0))
    labels = tracing.record(bundle, images).logits.argmax(1)
    question = scores.Question(images, labels, labels.flip(0))
    plain = _timed(lambda: _plain(bundle, images, labels))
    gates = tracing.uniform_gates(bundle, count, 0.5)
    one = _timed(lambda: scores._gate_gradients(bundle, question, gates, reference.maps, frozenset()))
    found = scores.between_runs(bundle, question, reference, taps=connections.taps(bundle))
    edges = _timed(lambda: connections.between(bundle, images, images.flip(0), found.gradients))
    return [
        _row("plain forward and backward, per image", plain / count * 1000, "ms"),
        _row("contributions of all sites in one pass, per image", one / count * 1000, "ms", plain / count * 1000),
        _row("all connections, per image", edges / count * 1000, "ms", plain / count * 1000),
    ]


def _plain(bundle: ModelBundle, images: torch.Tensor, labels: torch.Tensor) -> None:
    leaf = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(bundle.logits(leaf), labels, reduction="sum")
    torch.autograd.grad(loss, leaf)


def _first_correct(bundle: ModelBundle, dataset: Dataset) -> str:
    keys = dataset.keys[: tracing.batch_limit(bundle)]
    right = tracing.record(bundle, cases.load(bundle, dataset, keys)).logits.argmax(1).cpu()
    truth = torch.as_tensor(cases.labels(bundle, dataset)[: len(keys)])
    return keys[int((right == truth).nonzero()[0, 0])]


def _timed(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median wall time in seconds after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _row(name: str, value: float, unit: str, reference: float | None = None) -> Row:
    return Row(name, float(value), unit, reference, float(value / reference) if reference else None)


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"cores": os.cpu_count(), "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _quiet(done: int, total: int, message: str) -> None:
    """Progress would be timed too."""
