"""Whether attacks on a model can be believed: sixteen checks, and what each finding means."""

from __future__ import annotations

import itertools
import platform
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from importlib import metadata

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import hashing, parameters, statistics
from engine.attacks import guards, runner
from engine.attacks.attacked import AttackedImages, Batch, answers, unit
from engine.attacks.gradient import Classifier
from engine.attacks.guards import isolated
from engine.attribution import baselines
from engine.jobs.worker import Report
from engine.models.network import ModelBundle
from engine.specs.catalogue import Fgsm, NoiseSign, PgdLinf, Square
from engine.specs.threat_model import Attack
from engine.store import Dataset
from engine.types.checks import CHECKS, CURVE, HUGE, AttackSanity, CheckResult, Conditions, Figure, Setup

FEW = 2
SHARE = 0.01
"""Counts of images are called different if they differ by more than `FEW` and by more than this share of all images."""
SAME = 1e-4
"""Largest difference of two answers to one image, as a share of the largest logit, that arithmetic may explain."""
BUDGET_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """What can be seen of a network without attacking it; arrays are (images,) bool."""

    classes: int
    right: np.ndarray
    useless_gradients: np.ndarray
    """Right, but the gradient is zero at every pixel, or not finite."""
    difference: float
    """Largest difference between two passes, as a share of the largest logit."""
    changed: int
    """Images of which two passes say different classes."""
    are_finite: bool
    form: str
    """What the answers are where they are no logits, to end a sentence that begins `The answers`; empty for logits."""
    needs_gradients: bool


@dataclass(frozen=True, eq=False, slots=True)
class Fared:
    """How images fared under one attack; arrays are (images,) bool, false where it was not run."""

    fooled: np.ndarray
    unmoved: np.ndarray
    """Right, attacked, and stored exactly as it was, also because the attack broke down."""
    largest: float
    """Largest measured change of any pixel, in [0, 1] units."""
    epsilon: float


@dataclass(frozen=True, eq=False, slots=True)
class Transfer:
    """Images made against another network; arrays are (images,) bool."""

    attacked: np.ndarray
    """The other network was right and its image was changed."""
    fooled: np.ndarray
    """The network under test is wrong on that image."""


@dataclass(frozen=True, eq=False, slots=True)
class Attacks:
    """How the images fared under every attack of the checks."""

    noise: tuple[Fared, ...]
    """One per draw."""
    fgsm: Fared
    pgd: Fared
    longer: Fared
    """PGD with twice the steps."""
    huge: Fared
    curve: tuple[tuple[Fraction, Fared], ...]
    """PGD by budget, smallest first."""
    square: Fared
    """Run on the images that none of the gradient attacks fooled."""
    transfer: Transfer | None

    def white_box(self) -> np.ndarray:
        """(images,) bool: fooled by a gradient attack at the budget of the checks."""
        return self.fgsm.fooled | self.pgd.fooled | self.longer.fooled


def reason_to_stop(look: Look) -> str:
    """Return why attacks on this network would say nothing, as a sentence; empty where they may be run."""
    if not look.are_finite:
        return "Not run: the network answers with values that are not finite."
    if look.form:
        return f"Not run: attacks need logits, and the answers {look.form} (G3)."
    if _clean(look).outcome == "fail":
        return "Not run: the clean accuracy is no better than chance (G1)."
    return ""


def judge(look: Look, attacks: Attacks | None, conditions: Conditions) -> tuple[CheckResult, ...]:
    """Return all sixteen results in order; without attacks those that need them are `not run`."""
    results = {result.check: result for result in (_clean(look), _repeats(look), _logits(look), _inference(look))}
    results["G15"] = _stated(conditions)
    if attacks is not None:
        results |= {result.check: result for result in _of_attacks(look, attacks)}
    reason = reason_to_stop(look) or "Not run."
    return tuple(results.get(check.name, CheckResult(check.name, "not run", reason)) for check in CHECKS)


def without_attacks(look: Look) -> tuple[CheckResult, ...]:
    """Return what a look alone decides without knowing the right answers: repetition, logits and gradients (G2 to G4)."""
    count, images = int(look.useless_gradients.sum()), len(look.right)
    text = f"On {count} of {images} images the gradient of the answer is zero everywhere or not finite."
    gradients = _result("G4", count > 0, text, images=count)
    return _repeats(look), _logits(look), gradients


def _of_attacks(look: Look, attacks: Attacks) -> tuple[CheckResult, ...]:
    return (
        _gradients(look),
        _many_steps(look, attacks),
        _noise(look, attacks),
        _curve(look, attacks),
        _huge(look, attacks),
        _converged(look, attacks),
        _black_box(look, attacks),
        _transfer(look, attacks),
        _worst_case(look, attacks),
        _budget(attacks),
        _moved(attacks),
    )


def _result(check: str, fails: bool, sentence: str, **figures: float) -> CheckResult:
    shown = tuple(Figure(name.replace("_", " "), float(value)) for name, value in figures.items())
    return CheckResult(check, "fail" if fails else "pass", sentence, shown)


def _slack(look: Look) -> float:
    return max(FEW, SHARE * len(look.right))


def _beyond_slack(check: str, look: Look, result: tuple[float, int, str], **figures: float) -> CheckResult:
    """Return the result of a check that fails where a difference exceeds the tolerance; told: it, what could differ, sentence.

    Where even the largest difference would not exceed it, passing would say nothing.
    """
    difference, most, text = result
    if most <= _slack(look):
        few = f"Not run: with {most} images to tell apart no difference would exceed the tolerance of {_slack(look):g}."
        return CheckResult(check, "not run", few)
    return _result(check, difference > _slack(look), text, **figures, tolerance=_slack(look))


def _left(look: Look, fared: Fared) -> int:
    """Images that are right and stay right."""
    return int((look.right & ~fared.fooled).sum())


def _clean(look: Look) -> CheckResult:
    share, chance = statistics.proportion(look.right), 1 / look.classes
    text = f"{int(look.right.sum())} of {share.n} images are right; chance is {chance:.1%}."
    figures = {"accuracy": share.value, "low": share.low, "high": share.high, "chance": chance}
    return _result("G1", not look.are_finite or share.low <= chance, text, **figures)


def _repeats(look: Look) -> CheckResult:
    fails = not look.difference <= SAME
    text = (
        f"Two passes differ, on {look.changed} images even in the class: the network is randomised, and this evidence "
        "does not hold for it."
        if fails
        else "Two passes over the same images answer the same."
    )
    return _result("G2", fails, text, largest_difference=look.difference, classes_changed=look.changed)


def _logits(look: Look) -> CheckResult:
    return _result("G3", bool(look.form), f"The answers {look.form or 'are not probabilities'}.")


def _gradients(look: Look) -> CheckResult:
    count, right = int(look.useless_gradients.sum()), int(look.right.sum())
    text = f"On {count} of {right} images that are right the gradient is zero everywhere or not finite."
    return _result("G4", count > 0, text, images=count, right=right)


def _many_steps(look: Look, attacks: Attacks) -> CheckResult:
    one, many = _left(look, attacks.fgsm), _left(look, attacks.pgd)
    text = f"FGSM leaves {one} images right, PGD {many}."
    return _beyond_slack("G5", look, (many - one, int(look.right.sum()), text), fgsm=one, pgd=many)


def _noise(look: Look, attacks: Attacks) -> CheckResult:
    noisy = look.right & np.any([fared.fooled for fared in attacks.noise], axis=0)
    count = int((noisy & ~attacks.white_box()).sum())
    text = (
        f"{len(attacks.noise)} draws of noise fool {int(noisy.sum())} images, {count} of them images that no gradient "
        "attack fools."
    )
    return _result("G6", count > 0, text, noise_only=count, noise=noisy.sum())


def _curve(look: Look, attacks: Attacks) -> CheckResult:
    left = [_left(look, fared) for _, fared in attacks.curve]
    rise = max([later - earlier for earlier, later in itertools.combinations(left, 2)], default=0)
    points = {f"{float(epsilon * 255):g}/255": count for (epsilon, _), count in zip(attacks.curve, left, strict=True)}
    text = (
        "Images left right as the budget grows: " + ", ".join(f"{count} at {at}" for at, count in points.items()) + "."
    )
    return _beyond_slack("G7", look, (rise, int(look.right.sum()), text), **points, largest_rise=rise)


def _huge(look: Look, attacks: Attacks) -> CheckResult:
    left, chance = _left(look, attacks.huge), 1 / look.classes
    text = f"With a budget of {attacks.huge.epsilon:g} {left} of {len(look.right)} images stay right; chance is {chance:.1%}."
    return _result("G8", left / len(look.right) > chance, text, accuracy=left / len(look.right), chance=chance)


def _converged(look: Look, attacks: Attacks) -> CheckResult:
    short, long = _left(look, attacks.pgd), _left(look, attacks.longer)
    text = f"PGD leaves {short} images right, with twice the steps {long}."
    return _beyond_slack("G9", look, (short - long, int(look.right.sum()), text), steps=short, twice_the_steps=long)


def _black_box(look: Look, attacks: Attacks) -> CheckResult:
    count = int(attacks.square.fooled.sum())
    tried = int((look.right & ~attacks.white_box()).sum())
    right = int(look.right.sum())
    text = (
        f"Of {tried} images that no gradient attack fools Square fools {count}."
        if tried
        else f"The gradient attacks fool all {right} images, so there is nothing left for Square to find."
    )
    return _beyond_slack("G10", look, (count, right, text), square_only=count, tried=tried)


def _transfer(look: Look, attacks: Attacks) -> CheckResult:
    if attacks.transfer is None:
        return CheckResult("G11", "not run", "Not run: no other network was given to transfer from.")
    both = look.right & attacks.transfer.attacked
    theirs, ours = int((both & attacks.transfer.fooled).sum()), int((both & attacks.white_box()).sum())
    text = (
        f"Of {int(both.sum())} images that both networks get right the other's attack fools {theirs}, the own {ours}."
    )
    return _beyond_slack("G11", look, (theirs - ours, int(both.sum()), text), transferred=theirs, own=ours)


def _worst_case(look: Look, attacks: Attacks) -> CheckResult:
    single = [_left(look, fared) for fared in (attacks.fgsm, attacks.pgd, attacks.longer)]
    share = statistics.proportion(look.right & ~attacks.white_box() & ~attacks.square.fooled)
    worst = round(share.value * share.n)
    text = (
        f"{worst} of {share.n} images stay right under every attack; the strongest single attack leaves {min(single)}."
    )
    return _result("G12", worst > min(single), text, share=share.value, low=share.low, high=share.high)


def _budget(attacks: Attacks) -> CheckResult:
    every = (*attacks.noise, attacks.fgsm, attacks.pgd, attacks.longer, attacks.huge, attacks.square)
    excess = max(fared.largest - fared.epsilon for fared in (*every, *(fared for _, fared in attacks.curve)))
    text = f"Measured on the stored images, no change exceeds its budget by more than {max(0.0, excess):.2g}."
    return _result("G13", excess > BUDGET_TOLERANCE, text, largest_excess=max(0.0, excess))


def _moved(attacks: Attacks) -> CheckResult:
    counts = {name: int(fared.unmoved.sum()) for name, fared in (("fgsm", attacks.fgsm), ("pgd", attacks.pgd))}
    text = f"FGSM left {counts['fgsm']} images exactly as they were, PGD {counts['pgd']}."
    return _result("G14", any(counts.values()), text, **counts)


def _stated(conditions: Conditions) -> CheckResult:
    optional = {"reference", "attacks"}
    missing = [
        field.name
        for field in fields(conditions)
        if field.name not in optional and getattr(conditions, field.name) in ("", ())
    ]
    text = (
        f"Not recorded: {', '.join(missing)}."
        if missing
        else "Model, attacks, versions, seed, batch, device and precision are recorded."
    )
    return _result("G15", bool(missing), text)


def _inference(look: Look) -> CheckResult:
    text = (
        "The network needs gradients to answer." if look.needs_gradients else "The network answers without gradients."
    )
    return _result("G16", look.needs_gradients, text)


PACKAGES = ("torch", "torchvision", "numpy", "pyautoattack")


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """An ordinary network of the same task, attacked for the check of transfer."""

    name: str
    bundle: Classifier


def check(bundle: Classifier, batch: Batch, setup: Setup, reference: Reference | None = None) -> AttackSanity:
    """Return all sixteen checks of a network on some images; what was not run says why.

    Without a reference the check of transfer is not run. Costs about 7 passes per step of `setup` and image, and
    `queries` forward passes for each image that no gradient attack fools.
    """
    probe = _Probe(bundle, batch, setup)
    look = probe.look()
    attacks = None if reason_to_stop(look) else probe.attack_all(reference)
    conditions = Conditions(
        model=setup.model,
        attacks=tuple(dict.fromkeys(probe.attacks)),
        versions=(f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in PACKAGES)),
        seed=setup.seed,
        block=setup.block,
        device=str(bundle.device),
        precision="float32",
        threads=torch.get_num_threads(),
        reference=reference.name if reference is not None else "",
    )
    epsilon = parameters.fraction_text(setup.epsilon, "1/255")
    return AttackSanity(judge(look, attacks, conditions), len(batch.samples), epsilon, conditions)


class _Probe:
    """One network, some images, and the ids of all attacks that were run on them."""

    def __init__(self, bundle: Classifier, batch: Batch, setup: Setup) -> None:
        self.bundle, self.batch, self.setup = bundle, batch, setup
        self.attacks: list[str] = []
        self.right = np.zeros(0, dtype=bool)

    def look(self) -> Look:
        """Return what can be seen of the network without attacking it."""
        parts = [
            look_at(self.bundle, chosen.pictures, chosen.labels)
            for chosen in map(self.batch.at, self._blocks(np.arange(len(self.batch.samples))))
        ]
        self.right = np.concatenate([part.right for part in parts])
        return Look(
            classes=len(self.bundle.classes),
            right=self.right,
            useless_gradients=np.concatenate([part.useless_gradients for part in parts]),
            difference=max(part.difference for part in parts),
            changed=sum(part.changed for part in parts),
            are_finite=all(part.are_finite for part in parts),
            form=parts[0].form if all(part.form for part in parts) else "",
            needs_gradients=any(part.needs_gradients for part in parts),
        )

    def attack_all(self, reference: Reference | None) -> Attacks:
        """Run every attack of the checks; Square only where the gradient attacks failed."""
        epsilon, steps = self.setup.epsilon, self.setup.steps
        every = np.arange(len(self.batch.samples))
        fgsm, pgd, longer = (
            self._attack(spec, every) for spec in (Fgsm(epsilon), PgdLinf(epsilon, steps), PgdLinf(epsilon, 2 * steps))
        )
        others = {share * epsilon for share in CURVE if share * epsilon <= HUGE}
        curve = {other: self._attack(PgdLinf(other, steps), every) for other in others} | {epsilon: pgd}
        left = np.flatnonzero(self.right & ~(fgsm.fooled | pgd.fooled | longer.fooled))
        return Attacks(
            noise=tuple(self._attack(NoiseSign(epsilon), every, draw=draw) for draw in range(self.setup.draws)),
            fgsm=fgsm,
            pgd=pgd,
            longer=longer,
            huge=self._attack(PgdLinf(HUGE, steps), every),
            curve=tuple(sorted(curve.items())),
            square=self._attack(Square(epsilon, self.setup.queries), left),
            transfer=None if reference is None else self._transferred(reference.bundle),
        )

    def _blocks(self, rows: np.ndarray) -> list[list[int]]:
        return [rows[start : start + self.setup.block].tolist() for start in range(0, len(rows), self.setup.block)]

    def _attack(self, spec: Attack, rows: np.ndarray, *, draw: int = 0) -> Fared:
        """Run one attack on some images; the others count as not fooled and not attacked."""
        self.attacks.append(spec.text)
        fooled, unmoved = np.zeros((2, len(self.batch.samples)), dtype=bool)
        largest = 0.0
        for block in self._blocks(rows):
            chosen = self.batch.at(block)
            result = self._run(self.bundle, chosen, spec, draw)
            fooled[block] = [outcome.status == "fooled" for outcome in result.outcomes]
            unmoved[block] = [outcome.status in ("unperturbed", "failed") for outcome in result.outcomes]
            # Measured here again: the attack's own word for its budget is what this is to check.
            change = result.stored.astype(np.int64) - guards.check_images(chosen.pictures)
            largest = max(largest, float(np.abs(change).max()) / 255)
        return Fared(fooled, unmoved, largest, float(spec.budget))

    def _transferred(self, reference: Classifier) -> Transfer:
        """Attack another network and show the images to this one."""
        spec = PgdLinf(self.setup.epsilon, 2 * self.setup.steps)
        attacked, fooled = np.zeros((2, len(self.batch.samples)), dtype=bool)
        for block in self._blocks(np.arange(len(self.batch.samples))):
            chosen = self.batch.at(block)
            result = self._run(reference, chosen, spec)
            attacked[block] = [outcome.status in ("fooled", "resisted") for outcome in result.outcomes]
            with isolated(self.bundle.network):
                said = answers(self.bundle, result.adversarial.to(self.bundle.device)).argmax(dim=1).cpu()
            fooled[block] = (said != chosen.labels.cpu()).numpy()
        return Transfer(attacked, fooled)

    def _run(self, bundle: Classifier, chosen: Batch, spec: Attack, draw: int = 0) -> AttackedImages:
        named, seed = spec.text, self.setup.seed
        seeds = [int(hashing.content_key((named, sample, seed, draw))[:15], 16) for sample in chosen.samples]
        return runner.run(bundle, chosen.pictures, chosen.labels, spec, torch.tensor(seeds), samples=chosen.samples)


def look_at(bundle: Classifier, pictures: Tensor, labels: Tensor) -> Look:
    """Return what one block shows without an attack: answers twice, gradients, and whether answering needs them."""
    clean = guards.check_images(pictures)
    guards.check_labels(labels, len(clean), len(bundle.classes))
    pictures, labels = unit(clean, bundle.device), labels.to(bundle.device)
    with isolated(bundle.network):
        first, second = answers(bundle, pictures), answers(bundle, pictures)
        needs_gradients = _needs_gradients(bundle, pictures)
        right = first.argmax(dim=1) == labels
        useless = _gradients_are_useless(bundle, pictures, labels) & right
        form = guards.form_of(partial(answers, bundle), pictures, first)
    return Look(
        classes=len(bundle.classes),
        right=right.cpu().numpy(),
        useless_gradients=useless.cpu().numpy(),
        difference=float((first - second).abs().max() / first.abs().max().clamp_min(1.0)),
        changed=int((first.argmax(dim=1) != second.argmax(dim=1)).sum()),
        are_finite=bool(first.isfinite().all()),
        form=form,
        needs_gradients=needs_gradients,
    )


def _gradients_are_useless(bundle: Classifier, pictures: Tensor, labels: Tensor) -> Tensor:
    """Return (batch,) bool: the cross-entropy depends on no pixel, or the gradient is not finite."""
    points = pictures.clone().requires_grad_()
    loss = F.cross_entropy(bundle.logits(points), labels, reduction="sum")
    gradient = torch.autograd.grad(loss, points, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        return torch.ones_like(labels, dtype=torch.bool)
    rows = gradient.flatten(1)
    return (rows == 0).all(dim=1) | ~rows.isfinite().all(dim=1)


def _needs_gradients(bundle: Classifier, pictures: Tensor) -> bool:
    """Return whether the network cannot answer where autograd is out of reach, as a defence that optimises cannot."""
    try:
        with torch.inference_mode():
            bundle.logits(pictures[:1].clone())
    except RuntimeError:
        return True
    return False


def check_samples(
    bundle: ModelBundle,
    dataset: Dataset,
    samples: tuple[str, ...],
    epsilon: str,
    reference: Reference | None,
    report: Report,
) -> AttackSanity:
    """Return all sixteen checks on some samples at a budget such as `8/255`; raises BadSetting, BadInput."""
    report(0, 0, "Running the attack sanity checks")
    budget: Fraction = parameters.read_fraction("epsilon", epsilon)
    every = baselines.labels(bundle, dataset)
    labels = torch.tensor([int(every[dataset.row(sample)]) for sample in samples], device=bundle.device)
    batch = Batch(baselines.load(bundle, dataset, samples), labels, samples)
    return check(bundle, batch, Setup(bundle.content_hash, budget), reference)
