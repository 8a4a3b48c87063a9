"""The parts of an extraction against a plain forward and backward of the same batch: time, memory, reduced precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import connections, tracing
from engine.benchmark import measures
from engine.benchmark.measures import Row, Scale, Work
from engine.datapaths import cases, masks, reduced, scores
from engine.datapaths.cases import Case
from engine.datapaths.scores import Question
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset
from engine.tracing import Trace

REFERENCES = cases.REFERENCES


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
        network = precision.folded(self.bundle)
        gates = tracing.uniform_gates(network, self.rows, 0.5)
        unwanted = tracing.GradientMean(frozenset(), 1)
        scores._gate_gradients(network, self.question, gates, self.run.maps, unwanted)

    def two_run(self) -> None:
        """Two-run scores alone."""
        scores.between_runs(self.bundle, self.question, self.run)

    def two_run_with_edges(self) -> scores.Contributions:
        """Two-run scores and the gradients that connections need."""
        return scores.between_runs(self.bundle, self.question, self.run, taps=connections.taps(self.bundle))

    def flow(self) -> None:
        """The attack flow between the two images of each row."""
        scores.conductance(self.bundle, self.question, self.starts)

    def mask(self) -> None:
        """The trained mask of every row's image."""
        masks.train(self.bundle, Case(self.question.images, self.question.targets), seed=0)


def repeated(bundle: ModelBundle, dataset: Dataset, rows: int) -> Batch:
    """Return a batch of the data set's first images, each against `REFERENCES` others, `rows` rows at most."""
    few = max(1, min(rows, tracing.batch_limit(bundle), 2 * dataset.card.count) // REFERENCES)
    pictures = cases.load(bundle, dataset, dataset.keys[: few + REFERENCES])
    own = torch.arange(few).repeat_interleave(REFERENCES)
    other = few + torch.arange(REFERENCES).repeat(few)
    return _batch(bundle, pictures, own, other)


def distinct(bundle: ModelBundle, dataset: Dataset, rows: int) -> Batch:
    """Return a batch in which no two images are the same, nor any two references."""
    few = min(rows, tracing.batch_limit(bundle), dataset.card.count // 2)
    pictures = cases.load(bundle, dataset, dataset.keys[: 2 * few])
    return _batch(bundle, pictures, torch.arange(few), few + torch.arange(few))


def _batch(bundle: ModelBundle, pictures: Tensor, own: Tensor, other: Tensor) -> Batch:
    run = tracing.record(bundle, pictures)
    labels = run.logits.argmax(1)
    # A margin of a class against itself would be zero whatever the maps hold.
    rivals = torch.where(labels[own] == labels[other], -1, labels[other])
    return Batch(bundle, Question(pictures[own], labels[own], rivals), pictures[other], run.rows(other))


def measure(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return times and peak memory of every part, each beside a plain forward and backward run in turn with it."""
    batch, apart = repeated(bundle, dataset, scale.rows), distinct(bundle, dataset, scale.rows)
    return [*_times(batch, apart, scale), *_memories(batch, apart), *_reduced(batch, scale)]


def _times(batch: Batch, apart: Batch, scale: Scale) -> list[Row]:
    def against_plain(name: str, work: Work, of: Batch, passes: int = 1) -> Row:
        def plain() -> None:
            for _ in range(passes):
                of.plain()

        return measures.paired(name, work, plain, repeats=scale.repeats, count=of.rows)

    return [
        measures.row("image-passes of a two-run score", scores.STEPS, ""),
        against_plain("contributions of all sites in one pass", batch.one_pass, batch),
        against_plain(f"two-run score, against {scores.STEPS} plain passes", batch.two_run, batch, scores.STEPS),
        against_plain("all connections, images against references", _edges(batch), batch),
        against_plain("all connections, every image another", _edges(apart), apart),
        against_plain(f"mask training, against {masks.STEPS} plain passes", batch.mask, batch, masks.STEPS),
    ]


def _memories(batch: Batch, apart: Batch) -> list[Row]:
    return [
        measures.memory("peak memory: two-run score", batch.two_run, batch.plain),
        measures.memory("peak memory: with gradients for connections", batch.two_run_with_edges, batch.plain),
        measures.memory("peak memory: connections, images against references", _edges(batch), batch.plain),
        measures.memory("peak memory: connections, every image another", _edges(apart), apart.plain),
        measures.memory("peak memory: attack flow", batch.flow, batch.plain),
        measures.memory("peak memory: mask training", batch.mask, batch.plain),
    ]


def _reduced(batch: Batch, scale: Scale) -> list[Row]:
    """The reduced twin beside float32, and whether it would be chosen."""
    network = precision.reduced(batch.bundle)
    run = tracing.record(network, batch.starts)
    narrow = Batch(network, batch.question, batch.starts, run)
    decision = reduced.decide(batch.bundle, batch.question, batch.starts, references=REFERENCES)
    return [
        measures.paired(
            "two-run score in bfloat16, against float32",
            narrow.two_run,
            batch.two_run,
            repeats=scale.repeats,
            count=batch.rows,
        ),
        measures.row("rank correlation of bfloat16 with float32", decision.rank_correlation, ""),
        measures.row("bfloat16 would be chosen (1 yes, 0 no)", decision.is_reduced, ""),
    ]


def _edges(batch: Batch) -> Work:
    gradients = batch.two_run_with_edges().gradients
    return lambda: connections.between(batch.bundle, batch.question.images, batch.starts, gradients)
