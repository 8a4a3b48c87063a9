"""Putting feature maps of one run into another: what really happens, beside the controls that must do less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import evidence as evidences
from engine import statistics, tracing
from engine.datapaths import choosing, scores
from engine.datapaths.scores import Question
from engine.errors import BadInput, UnknownName
from engine.evidence import Evidence
from engine.models.bundle import ModelBundle
from engine.proof_records import Control, ControlName, Direction, Effect, MapSet, Proof
from engine.records import Examination
from engine.store.dataset import Dataset
from engine.tracing import PerMap, Trace

DRAWS = 20
"""Random sets per image."""
OTHERS = 4
"""Clean images of other classes whose values are put in, at most."""
SMALLEST_LOSS = 1e-6
"""Margin below which nothing was lost that could be recovered, in logits."""


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """The pair of runs an intervention is made on."""

    evidence: Evidence
    direction: Direction
    receiving: Tensor
    """(images, channels, height, width): the inputs whose run gets maps put in."""
    giving: Trace
    true: Tensor
    fooled: Tensor
    start: Tensor
    """(images,) margin true - fooled of the receiving run."""
    whole: Tensor
    """(images,) what the giving run's margin is above it; negative where maps are injected."""

    @property
    def bundle(self) -> ModelBundle:
        """The network."""
        return self.evidence.bundle

    @property
    def aim(self) -> Tensor:
        """(images,) the class that the intervention should bring about."""
        return self.true if self.direction == "restore" else self.fooled

    def recovered(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return (trials,) the share of the margin between the runs that was made good, 1 for all of it."""
        reached = tracing.margins(logits, self.true[rows], self.fooled[rows])
        return (reached - self.start[rows]) / self.whole[rows]


def prove(
    bundle: ModelBundle, dataset: Dataset, examination: Examination, chosen: MapSet, direction: Direction
) -> Proof:
    """Return what putting the chosen maps in does, with all controls.

    Raises UnknownName for sites and maps that are not there, BadInput for an empty choice and where the attack took nothing.
    """
    evidence = evidences.gather(bundle, dataset, examination)
    picked, run = _picked(bundle, chosen), _run(evidence, direction)
    images = torch.arange(len(run.receiving), device=bundle.device)
    logits = _patched(run, images, run.giving, images, _for_each(picked, len(images)))
    recoveries = run.recovered(logits, images)
    controls, missing = _controls(run, picked, chosen)
    answers = logits.softmax(1).max(1)
    trivial = [site.name for site in bundle.sites if site.name in chosen.sites and not site.is_claimable]
    return Proof(
        examination.key,
        direction,
        chosen,
        _effect(recoveries, logits.argmax(1) == run.aim, len(images)),
        tuple(recoveries.tolist()),
        tuple(answers.indices.tolist()),
        tuple(answers.values.tolist()),
        tuple(controls),
        tuple(missing),
        tuple(trivial),
    )


def _run(evidence: Evidence, direction: Direction) -> Run:
    clean, adversarial = evidence.clean, evidence.adversarial
    giver, receiver = (clean, adversarial) if direction == "restore" else (adversarial, clean)
    bundle, true, fooled = evidence.bundle, clean.targets, adversarial.targets
    if bool((true == fooled).any()):
        raise BadInput(
            "The attack left the class of an image as it was, so there is nothing to put back; choose fooled images."
        )
    giving, own = tracing.record(bundle, giver.images), tracing.record(bundle, receiver.images)
    start = tracing.margins(own.logits, true, fooled)
    whole = tracing.margins(giving.logits, true, fooled) - start
    if bool((whole.abs() < SMALLEST_LOSS).any()):
        raise BadInput("Both runs of an image have the same margin, so no share of it can be recovered.")
    return Run(evidence, direction, receiver.images, giving, true, fooled, start, whole)


def _picked(bundle: ModelBundle, chosen: MapSet) -> PerMap:
    """Return the choice as per site (1, channels) bool."""
    if not chosen.count:
        raise BadInput("No feature map was chosen; at least one is needed.")
    names = [site.name for site in bundle.sites]
    picked = [torch.zeros(1, site.channels, dtype=torch.bool, device=bundle.device) for site in bundle.sites]
    for name, channels in zip(chosen.sites, chosen.channels, strict=True):
        if name not in names:
            raise UnknownName("layer", name, names)
        site = bundle.sites[names.index(name)]
        wrong = [channel for channel in channels if not 0 <= channel < site.channels]
        if wrong:
            raise UnknownName(f"feature map of {name}", wrong[0], (f"0 to {site.channels - 1}",))
        picked[names.index(name)][0, list(channels)] = True
    return tuple(picked)


def _for_each(picked: PerMap, trials: int) -> PerMap:
    return tuple(site.expand(trials, -1) for site in picked)


def _patched(run: Run, into: Tensor, donor: Trace, out_of: Tensor, chosen: PerMap) -> Tensor:
    """Return logits (trials, classes) of receiving images with chosen maps of donor runs in them."""
    found = []
    for part in torch.arange(len(into), device=into.device).split(tracing.batch_limit(run.bundle)):
        picked = tuple(site[part] for site in chosen)
        found.append(tracing.transplanted(run.bundle, run.receiving[into[part]], picked, donor.rows(out_of[part]).maps))
    return torch.cat(found)


def _effect(recoveries: Tensor, flipped: Tensor, images: int) -> Effect:
    """Return means with intervals over images; trials are image-major and equally many per image."""
    per_image = recoveries.view(images, -1).mean(dim=1).double().cpu().numpy()
    low = high = None
    if images > 1:
        spread = statistics.mean(per_image)
        low, high = spread.low, spread.high
    shares = statistics.proportion(flipped.cpu().numpy())
    return Effect(len(flipped), float(per_image.mean()), low, high, shares.value, shares.low, shares.high)


def _controls(run: Run, picked: PerMap, chosen: MapSet) -> tuple[list[Control], list[str]]:
    makers: dict[ControlName, Callable[[Run, PerMap, MapSet], Control]] = {
        "random": _random,
        "same layers": _same_layers,
        "largest change": _largest_change,
        "third class": _third_class,
        "noisy copy": _noisy_copy,
        "another image": _another_image,
    }
    found, missing = [], []
    for name, make in makers.items():
        try:
            found.append(make(run, picked, chosen))
        except BadInput as error:
            missing.append(f"{name}: {error}")
    return found, missing


def _random(run: Run, _picked: PerMap, chosen: MapSet) -> Control:
    available = int(choosing.claimable(run.bundle).sum())
    if chosen.count > available:
        raise BadInput(f"{chosen.count} maps were chosen, and claims may use only {available}.")
    rows = torch.arange(len(run.receiving), device=run.bundle.device).repeat_interleave(DRAWS)
    drawn = choosing.at_random(run.bundle, len(rows), chosen.count, _generator(run))
    return Control("random", _tried(run, rows, drawn), DRAWS)


def _same_layers(run: Run, picked: PerMap, _chosen: MapSet) -> Control:
    rows = torch.arange(len(run.receiving), device=run.bundle.device).repeat_interleave(DRAWS)
    generator, drawn = _generator(run), []
    for site in picked:
        count = int(site.sum())
        if 2 * count > site.shape[1]:
            raise BadInput("more than half of a layer's maps were chosen, so equally many others do not exist.")
        ranked = torch.rand(len(rows), site.shape[1], generator=generator).to(site.device).masked_fill(site, -1.0)
        order = ranked.argsort(dim=1, descending=True)[:, :count]
        drawn.append(
            torch.zeros(len(rows), site.shape[1], dtype=torch.bool, device=site.device).scatter_(1, order, True)
        )
    return Control("same layers", _tried(run, rows, tuple(drawn)), DRAWS)


def _largest_change(run: Run, _picked: PerMap, chosen: MapSet) -> Control:
    rows = torch.arange(len(run.receiving), device=run.bundle.device)
    change = tuple(
        torch.from_numpy(np.array(site)).to(run.bundle.device)[None].expand(len(rows), -1)
        for site in run.evidence.examination.change
    )
    return Control("largest change", _tried(run, rows, choosing.largest(run.bundle, change, chosen.count)), 1)


def _third_class(run: Run, _picked: PerMap, chosen: MapSet) -> Control:
    """The maps that flow most towards a third class: counted is how often that class comes out."""
    evidence, rows = run.evidence, torch.arange(len(run.receiving), device=run.bundle.device)
    third = _third(run)
    question = Question(run.receiving, third, torch.full_like(third, -1))
    other = evidence.clean.images if run.direction == "restore" else evidence.adversarial.images
    flow = scores.attack_flow(run.bundle, question, other).scores
    logits = _patched(run, rows, run.giving, rows, choosing.largest(run.bundle, flow, chosen.count))
    return Control("third class", _effect(run.recovered(logits, rows), logits.argmax(1) == third, len(rows)), 1)


def _noisy_copy(run: Run, picked: PerMap, _chosen: MapSet) -> Control:
    """The same maps from the receiving image with the stored noise of the attack's length added to it."""
    evidence = run.evidence
    copies = evidence.noise().images
    draws = len(copies) // len(run.receiving)
    rows = torch.arange(len(run.receiving), device=run.bundle.device).repeat_interleave(draws)
    noisy = (run.receiving[rows] + copies - evidence.clean.images[rows]).clamp(0, 1)
    donor = _recorded(run.bundle, noisy)
    logits = _patched(run, rows, donor, torch.arange(len(rows), device=rows.device), _for_each(picked, len(rows)))
    return Control(
        "noisy copy", _effect(run.recovered(logits, rows), logits.argmax(1) == run.aim[rows], len(run.receiving)), draws
    )


def _another_image(run: Run, picked: PerMap, _chosen: MapSet) -> Control:
    references = run.evidence.references
    if references.kind != "references":
        raise BadInput("the data set has no correctly classified image of a class that plays no part.")
    others = min(OTHERS, len(references.images))
    images = len(run.receiving)
    rows = torch.arange(images, device=run.bundle.device).repeat_interleave(others)
    donors = torch.arange(others, device=run.bundle.device).repeat(images)
    logits = _patched(run, rows, references.trace, donors, _for_each(picked, len(rows)))
    labels = logits.argmax(1)
    effect = _effect(run.recovered(logits, rows), labels == run.aim[rows], images)
    own = float((labels == references.labels.to(labels.device)[donors]).float().mean())
    return Control("another image", effect, others, own)


def _tried(run: Run, rows: Tensor, chosen: PerMap) -> Effect:
    logits = _patched(run, rows, run.giving, rows, chosen)
    return _effect(run.recovered(logits, rows), logits.argmax(1) == run.aim[rows], len(run.receiving))


def _third(run: Run) -> Tensor:
    """Return (images,) a class for each image that is neither the true nor the fooled-into one, drawn by seed."""
    classes = run.giving.logits.shape[1]
    if classes < 3:
        raise BadInput(f"a third class is needed, and the network has {classes}.")
    drawn = torch.rand(len(run.receiving), classes, generator=_generator(run)).to(run.bundle.device)
    rows = torch.arange(len(drawn), device=drawn.device)
    drawn[rows, run.true] = drawn[rows, run.fooled] = -1.0
    return drawn.argmax(1)


def _generator(run: Run) -> torch.Generator:
    return torch.Generator().manual_seed(run.evidence.seed)


def _recorded(bundle: ModelBundle, images: Tensor) -> Trace:
    parts = [tracing.record(bundle, part) for part in images.split(tracing.batch_limit(bundle))]
    maps = tuple(torch.cat([part.maps[k] for part in parts]) for k in range(len(bundle.sites)))
    return Trace(maps, torch.cat([part.logits for part in parts]))
