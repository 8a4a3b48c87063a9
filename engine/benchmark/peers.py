"""The same quantities by captum, called layer by layer over the same sites and steps, in the same run."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from engine import tracing
from engine.benchmark import measures
from engine.benchmark.measures import Row, Scale
from engine.datapaths import cases, scores
from engine.datapaths.scores import Question
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset

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
    found = []
    for layer in model.layers:
        peer = LayerConductance(model, layer)
        values = peer.attribute(question.images, target=question.targets, n_steps=steps, baselines=0.0)
        found.append(values.detach().sum(dim=(2, 3)))
    return found


def gradient_times_activation(bundle: ModelBundle, question: Question) -> list[Tensor]:
    """Return captum's gradient x activation of all sites in one call, sum of absolute values over positions."""
    from captum.attr import LayerGradientXActivation

    model = Answering(bundle)
    images = question.images.clone().requires_grad_()
    values = LayerGradientXActivation(model, model.layers).attribute(images, target=question.targets)
    return [site.detach().abs().sum(dim=(2, 3)) for site in values]


def correlation(first: tuple[Tensor, ...] | list[Tensor], second: tuple[Tensor, ...] | list[Tensor]) -> float:
    """Return Pearson's correlation over all images and maps."""
    joined = torch.stack([tracing.join(list(each)).flatten().float() for each in (first, second)])
    return float(torch.corrcoef(joined)[0, 1])


def question(bundle: ModelBundle, dataset: Dataset, count: int) -> Question:
    """Return the plain logit of the network's own answer to the data set's first images."""
    images = cases.load(bundle, dataset, dataset.keys[:count])
    targets = tracing.record(bundle, images).logits.argmax(1)
    return Question(images, targets, torch.full_like(targets, -1))


def measure(bundle: ModelBundle, dataset: Dataset, scale: Scale) -> list[Row]:
    """Return ours against captum's, times in milliseconds per image; one row with the reason where captum is missing."""
    if not is_there():
        return [Row("comparison with captum", float("nan"), "", note=MISSING)]
    asked, few = question(bundle, dataset, scale.peer_images), question(bundle, dataset, 2)
    steps, black = scale.peer_steps, torch.zeros_like(asked.images)
    fast = precision.reduced(bundle)

    def theirs() -> None:
        layer_conductance(bundle, asked, steps)

    def row(name: str, work: measures.Work, reference: measures.Work, repeats: int) -> Row:
        return measures.paired(name, work, reference, repeats=repeats, count=len(asked.images))

    repeats, name = min(2, scale.repeats), f"conductance of all sites, {steps} steps, against captum"
    fine = scores.conductance(bundle, few, torch.zeros_like(few.images), steps=scale.agreement_steps).scores
    peer = layer_conductance(bundle, few, scale.agreement_steps)
    return [
        row(f"{name}, same precision", lambda: scores.conductance(bundle, asked, black, steps=steps), theirs, repeats),
        row(f"{name}, bfloat16 here", lambda: scores.conductance(fast, asked, black, steps=steps), theirs, repeats),
        row(
            "gradient x activation of all sites, against captum",
            lambda: scores.at_once(bundle, asked),
            lambda: gradient_times_activation(bundle, asked),
            scale.repeats,
        ),
        measures.row(
            f"correlation with captum's conductance, {scale.agreement_steps} steps", correlation(fine, peer), ""
        ),
    ]
