"""One line of the benchmark and how it is measured: paired times, peak memory, and the ratio of the two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is value / reference (a target or a measured baseline), below one is better."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rows: int = 32
    """Largest batch of the passes: a quarter as many images, each against four references."""
    repeats: int = 5
    exchange_images: int = 64
    """Fooled images in which random maps are put back."""
    peer_images: int = 64
    peer_steps: int = 10
    agreement_steps: int = 100
    """Steps at which values are compared with captum's, for two images."""


def row(name: str, value: float, unit: str, reference: float | None = None) -> Row:
    """Return a row with its ratio to a reference."""
    return Row(name, float(value), unit, reference, float(value / reference) if reference else None)


def timed(work: Work, repeats: int) -> float:
    """Return the median wall time in seconds after one warm-up."""
    work()
    return statistics.median(_seconds(work) for _ in range(repeats))


def paired(name: str, work: Work, reference: Work, *, repeats: int, count: int) -> Row:
    """Return milliseconds per image of `work` and of `reference`, run in turn; the ratio is the median of the rounds'.

    Turn by turn, because a shared machine changes its speed by more than the ratios that are looked for. Each turn's first
    call is not counted: it finds the memory that the other one has just given back, and pays for it.
    """
    rounds = [(_warm_seconds(work), _warm_seconds(reference)) for _ in range(repeats)]
    own, other = (statistics.median(times) / count * 1000 for times in zip(*rounds, strict=True))
    return Row(name, own, "ms", other, statistics.median(a / b for a, b in rounds))


def _warm_seconds(work: Work) -> float:
    work()
    return _seconds(work)


def memory(name: str, work: Work, reference: Work) -> Row:
    """Return the peak MiB of tensors that `work` allocates, beside that of `reference`."""
    return row(name, peak(work), "MiB", peak(reference))


def peak(work: Work) -> float:
    """Return the peak MiB of tensors allocated while `work` runs, what was there before not counted."""
    work()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest / 2**20


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
