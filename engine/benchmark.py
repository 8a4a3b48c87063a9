"""Speed and memory, every figure beside a scale measured in the same run."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from engine.attribution import baselines, edges, explain, scorers
from engine.attribution.baselines import Case
from engine.attribution.scorers import Question
from engine.errors import BadInput
from engine.features import gallery
from engine.models import hooks, register
from engine.models import network as bundles
from engine.models.hooks import Trace
from engine.models.network import ModelBundle
from engine.patching import controls, faithfulness, patch, subjects
from engine.specs.catalogue import PgdLinf
from engine.store.store import Dataset, Store
from engine.types import faithfulness as faithfulness_parts
from engine.types.core import ExplanationRequest
from engine.types.patching import FooledRequest

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
    """Fooled images in which random maps are patched."""
    peer_images: int = 64
    peer_steps: int = 10
    agreement_steps: int = 100
    """Steps at which values are compared with captum's, for two images."""


def measured(name: str, value: float, unit: str, reference: float | None = None) -> Row:
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
    return measured(name, peak(work), "MiB", peak(reference))


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


ATTACK = PgdLinf()
SIZES = (8, 16, 32, 64, 128)
DRAWS = 20
TARGET = 20.0
"""Seconds for `DRAWS` sets of each size on 64 images of CIFAR-10, ResNet-20, two cores."""
CANDIDATES = 2
"""Images attacked for each that is wanted fooled."""


def measure_transplants(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return the rows; one with the reason where the attack fools no image."""
    wanted = scale.exchange_images
    request = FooledRequest(bundle.name, dataset.card.name, ATTACK, dataset.keys[: CANDIDATES * wanted])
    try:
        group = subjects.gather_group(bundle, dataset, request)
    except BadInput as error:
        return [Row("random controls of a group", float("nan"), "", note=str(error))]
    group = group.rows(torch.arange(min(wanted, group.images.count), device=bundle.device))
    pairs, images = patch.exchanges(group, "restore"), group.images.count
    most = int(scorers.eligible(bundle).sum())
    sizes = [size for size in SIZES if size <= most]

    def random_sets() -> None:
        ranks = controls.random_ranks(bundle, DRAWS, images, 0)
        for size in sizes:
            pairs.tried(ranks < size).effect(group.true)

    started = time.perf_counter()
    random_sets()
    seconds = time.perf_counter() - started
    one = controls.random_ranks(bundle, 1, images, 0) < sizes[-1]
    return [
        measured(f"{DRAWS} random sets of {len(sizes)} sizes patched in {images} images", seconds, "s", TARGET),
        paired(
            "one transplant, against a plain forward pass",
            lambda: pairs.tried(one),
            lambda: bundle.logits(group.images.adversarial),
            repeats=scale.repeats,
            count=images,
        ),
    ]


REFERENCES = baselines.REFERENCES


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images repeated against references, as an extraction lays them out."""

    bundle: ModelBundle
    question: Question
    starts: Tensor
    """The reference image of every row."""
    run: Trace
    """The run of `starts`."""

    @property
    def rows(self) -> int:
        """Images in the batch, repetitions counted."""
        return len(self.starts)

    def plain(self) -> None:
        """Forward and backward to the images, as any training framework would do it."""
        leaf = self.question.images.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(self.bundle.logits(leaf), self.question.targets, reduction="sum")
        torch.autograd.grad(loss, leaf)

    def one_pass(self) -> None:
        """The contributions of all sites at one point of the path."""
        network = bundles.folded(self.bundle)
        gates = hooks.uniform_gates(network, self.rows, 0.5)
        unwanted = hooks.GradientMean(frozenset(), 1)
        scorers._gate_gradients(network, self.question, gates, self.run.maps, unwanted)

    def two_run(self) -> None:
        """Two-run scores alone."""
        scorers.between_runs(self.bundle, self.question, self.run)

    def two_run_with_edges(self) -> scorers.Contributions:
        """Two-run scores and the gradients that connections need."""
        return scorers.between_runs(self.bundle, self.question, self.run, taps=edges.taps(self.bundle))

    def flow(self) -> None:
        """The attack conductance between the two images of each row."""
        scorers.conductance(self.bundle, self.question, self.starts)

    def mask(self) -> None:
        """The trained mask of every row's image."""
        scorers.train(self.bundle, Case(self.question.images, self.question.targets), seed=0)


def repeated(bundle: ModelBundle, dataset: Dataset, rows: int) -> Batch:
    """Return a batch of the data set's first images, each against `REFERENCES` others, `rows` rows at most."""
    few = max(1, min(rows, hooks.batch_limit(bundle), 2 * dataset.card.count) // REFERENCES)
    pictures = baselines.load(bundle, dataset, dataset.keys[: few + REFERENCES])
    own = torch.arange(few).repeat_interleave(REFERENCES)
    other = few + torch.arange(REFERENCES).repeat(few)
    return _batch(bundle, pictures, own, other)


def distinct(bundle: ModelBundle, dataset: Dataset, rows: int) -> Batch:
    """Return a batch in which no two images are the same, nor any two references."""
    few = min(rows, hooks.batch_limit(bundle), dataset.card.count // 2)
    pictures = baselines.load(bundle, dataset, dataset.keys[: 2 * few])
    return _batch(bundle, pictures, torch.arange(few), few + torch.arange(few))


def _batch(bundle: ModelBundle, pictures: Tensor, own: Tensor, other: Tensor) -> Batch:
    run = hooks.record(bundle, pictures)
    labels = run.logits.argmax(1)
    # A margin of a class against itself would be zero whatever the maps hold.
    rivals = torch.where(labels[own] == labels[other], -1, labels[other])
    return Batch(bundle, Question(pictures[own], labels[own], rivals), pictures[other], run.rows(other))


def measure_passes(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return times and peak memory of every part, each beside a plain forward and backward run in turn with it."""
    batch, apart = repeated(bundle, dataset, scale.rows), distinct(bundle, dataset, scale.rows)
    return [*_times(batch, apart, scale), *_memories(batch, apart), *_reduced(batch, scale)]


def _times(batch: Batch, apart: Batch, scale: Scale) -> list[Row]:
    def against_plain(name: str, work: Work, of: Batch, passes: int = 1) -> Row:
        def plain() -> None:
            for _ in range(passes):
                of.plain()

        return paired(name, work, plain, repeats=scale.repeats, count=of.rows)

    return [
        measured("image-passes of a two-run score", scorers.STEPS, ""),
        against_plain("contributions of all layers in one pass", batch.one_pass, batch),
        against_plain(f"two-run score, against {scorers.STEPS} plain passes", batch.two_run, batch, scorers.STEPS),
        against_plain("all connections, images against references", _edges(batch), batch),
        against_plain("all connections, every image another", _edges(apart), apart),
        against_plain(
            f"mask training, against {scorers.MASK_STEPS} plain passes", batch.mask, batch, scorers.MASK_STEPS
        ),
    ]


def _memories(batch: Batch, apart: Batch) -> list[Row]:
    return [
        memory("peak memory: two-run score", batch.two_run, batch.plain),
        memory("peak memory: with gradients for connections", batch.two_run_with_edges, batch.plain),
        memory("peak memory: connections, images against references", _edges(batch), batch.plain),
        memory("peak memory: connections, every image another", _edges(apart), apart.plain),
        memory("peak memory: attack conductance", batch.flow, batch.plain),
        memory("peak memory: mask training", batch.mask, batch.plain),
    ]


def _reduced(batch: Batch, scale: Scale) -> list[Row]:
    """The reduced twin beside float32, and whether it would be chosen."""
    network = bundles.reduced(batch.bundle)
    run = hooks.record(network, batch.starts)
    narrow = Batch(network, batch.question, batch.starts, run)
    decision = scorers.decide(batch.bundle, batch.question, batch.starts, references=REFERENCES)
    return [
        paired(
            "two-run score in bfloat16, against float32",
            narrow.two_run,
            batch.two_run,
            repeats=scale.repeats,
            count=batch.rows,
        ),
        measured("rank correlation of bfloat16 with float32", decision.rank_correlation, ""),
        measured("bfloat16 would be chosen (1 yes, 0 no)", decision.is_reduced, ""),
    ]


def _edges(batch: Batch) -> Work:
    gradients = batch.two_run_with_edges().gradients
    return lambda: edges.between(batch.bundle, batch.question.images, batch.starts, gradients)


MISSING = "captum is not installed (requirements-dev.txt); its rows are left out"


class Answering(nn.Module):
    """A bundle as captum wants it: a module from images in [0, 1] to logits, its sites' taps as layers."""

    def __init__(self, bundle: ModelBundle) -> None:
        super().__init__()
        self.network = bundle.network
        self.answer = bundle.logits
        self.layers: list[nn.Module] = list(bundle.taps[: len(bundle.sites)])

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        return self.answer(images)


def is_there() -> bool:
    """Tell whether captum can be imported."""
    return importlib.util.find_spec("captum") is not None


def layer_conductance(bundle: ModelBundle, question: Question, steps: int) -> list[Tensor]:
    """Return captum's LayerConductance from a black image, one call a site, summed over positions: per site (batch, channels)."""
    from captum.attr import LayerConductance

    model = Answering(bundle)
    results = []
    for layer in model.layers:
        peer = LayerConductance(model, layer)
        values = peer.attribute(question.images, target=question.targets, n_steps=steps, baselines=0.0)
        results.append(values.detach().sum(dim=(2, 3)))
    return results


def gradient_times_activation(bundle: ModelBundle, question: Question) -> list[Tensor]:
    """Return captum's gradient x activation of all layers in one call, sum of absolute values over positions."""
    from captum.attr import LayerGradientXActivation

    model = Answering(bundle)
    images = question.images.clone().requires_grad_()
    values = LayerGradientXActivation(model, model.layers).attribute(images, target=question.targets)
    return [site.detach().abs().sum(dim=(2, 3)) for site in values]


def correlation(first: tuple[Tensor, ...] | list[Tensor], second: tuple[Tensor, ...] | list[Tensor]) -> float:
    """Return Pearson's correlation over all images and maps."""
    joined = torch.stack([hooks.join(list(each)).flatten().float() for each in (first, second)])
    return float(torch.corrcoef(joined)[0, 1])


def question(bundle: ModelBundle, dataset: Dataset, count: int) -> Question:
    """Return the plain logit of the network's own answer to the data set's first images."""
    images = baselines.load(bundle, dataset, dataset.keys[:count])
    targets = hooks.record(bundle, images).logits.argmax(1)
    return Question(images, targets, torch.full_like(targets, -1))


def measure_peers(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return ours against captum's, times in milliseconds per image; one row with the reason where captum is missing."""
    if not is_there():
        return [Row("comparison with captum", float("nan"), "", note=MISSING)]
    asked, few = question(bundle, dataset, scale.peer_images), question(bundle, dataset, 2)
    steps, black = scale.peer_steps, torch.zeros_like(asked.images)
    fast = bundles.reduced(bundle)

    def theirs() -> None:
        layer_conductance(bundle, asked, steps)

    def row(name: str, work: Work, reference: Work, repeats: int) -> Row:
        return paired(name, work, reference, repeats=repeats, count=len(asked.images))

    repeats, name = min(2, scale.repeats), f"conductance of all layers, {steps} steps, against captum"
    fine = scorers.conductance(bundle, few, torch.zeros_like(few.images), steps=scale.agreement_steps).scores
    peer = layer_conductance(bundle, few, scale.agreement_steps)
    return [
        row(f"{name}, same precision", lambda: scorers.conductance(bundle, asked, black, steps=steps), theirs, repeats),
        row(f"{name}, bfloat16 here", lambda: scorers.conductance(fast, asked, black, steps=steps), theirs, repeats),
        row(
            "gradient x activation of all layers, against captum",
            lambda: scorers.at_once(bundle, asked),
            lambda: gradient_times_activation(bundle, asked),
            scale.repeats,
        ),
        measured(f"correlation with captum's conductance, {scale.agreement_steps} steps", correlation(fine, peer), ""),
    ]


PAIR_TARGET, FAITHFULNESS_TARGET, MEMORY_TARGET = 2.0, 6.0, 1536.0
FULL = Scale()


def run(store: Store, model: str, data: str, scale: Scale = FULL) -> dict[str, Any]:
    """Return the table for a stored model and data set, as plain JSON values."""
    started = time.perf_counter()
    bundle, dataset = register.bundle(store, model), store.dataset(data)
    loaded = time.perf_counter() - started
    rows = [measured("model loaded", loaded, "s"), *_pair(bundle, dataset, scale)]
    rows.append(measured("gallery of every map", _once(lambda: gallery.build(bundle, dataset, _quiet)), "s"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(measured("peak memory of this process so far", peak, "MiB", MEMORY_TARGET))
    rows += measure_transplants(bundle, dataset, scale)
    rows += measure_passes(bundle, dataset, scale)
    rows += measure_peers(bundle, dataset, scale)
    return {"machine": _machine(), "model": model, "data": data, "rows": [asdict(row) for row in rows]}


def text(values: dict[str, Any]) -> str:
    """Return the table as text."""
    machine = values["machine"]
    lines = [
        f"{values['model']} on {values['data']}, {machine['cores']} cores, {machine['device']}, torch {machine['torch']}"
    ]
    for row in values["rows"]:
        reference = f"{row['reference']:>10.3g} {row['ratio']:>8.2f}x" if row["reference"] is not None else ""
        value = f"{row['value']:>10.3g} {row['unit']:<6}" if not row["note"] else ""
        lines.append(f"{row['name']:<72}{value}{reference}{row['note']}")
    return "\n".join(lines)


def _pair(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """A new pair from attack to connections, and its faithfulness checks, against the product's targets."""
    request = ExplanationRequest(bundle.name, dataset.card.name, ATTACK, (_first_correct(bundle, dataset),))
    result = explain.explain(bundle, dataset, request, _quiet)[0]
    repeats = min(3, scale.repeats)
    explained = timed(lambda: explain.explain(bundle, dataset, request, _quiet), repeats)
    parts = [
        timed(functools.partial(faithfulness.part, name, bundle, dataset, result, _quiet), repeats)
        for name in faithfulness_parts.PARTS
    ]
    return [
        measured("new pair: attack, datapaths, connections", explained, "s", PAIR_TARGET),
        measured("its faithfulness checks, all parts", sum(parts), "s", FAITHFULNESS_TARGET),
        measured("longest faithfulness check", max(parts), "s"),
        measured("image-passes of the pair", result.passes, ""),
    ]


def _first_correct(bundle: ModelBundle, dataset: Dataset) -> str:
    limit = hooks.batch_limit(bundle)
    return baselines.correct(bundle, dataset, range(min(limit, dataset.card.count)), 1, at_once=limit).samples[0]


def _once(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"cores": os.cpu_count(), "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _quiet(done: int, total: int, message: str) -> None:
    """Progress would be timed too."""
