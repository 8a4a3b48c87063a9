"""Runs the credibility checks on a network: gathers what they need, in one pass of attacks over some images."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import partial
from importlib import metadata

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import keys, settings
from engine.attacks import forms, inspection
from engine.attacks import run as attack_run
from engine.attacks.attacked import AttackedImages
from engine.attacks.batch import Batch
from engine.attacks.catalogue import Fgsm, NoiseSign, PgdLinf, Square
from engine.attacks.gradient import Classifier
from engine.attacks.isolation import isolated
from engine.attacks.spec import Attack
from engine.attacks.subjects import answers, unit
from engine.credibility import verdicts as verdicts
from engine.credibility.verdicts import Attacks, Fared, Look, Transfer
from engine.records.credibility import CURVE, HUGE, Conditions, Credibility, Setup

PACKAGES = ("torch", "torchvision", "numpy", "pyautoattack")


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """An ordinary network of the same task, attacked for the check of transfer."""

    name: str
    bundle: Classifier


def check(bundle: Classifier, batch: Batch, setup: Setup, reference: Reference | None = None) -> Credibility:
    """Return all sixteen checks of a network on some images; what was not run says why.

    Without a reference the check of transfer is not run. Costs about 7 passes per step of `setup` and image, and
    `queries` forward passes for each image that no gradient attack fools.
    """
    probe = _Probe(bundle, batch, setup)
    look = probe.look()
    attacks = None if verdicts.reason_to_stop(look) else probe.attack_all(reference)
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
    epsilon = settings.fraction_text(setup.epsilon, "1/255")
    return Credibility(verdicts.judge(look, attacks, conditions), len(batch.samples), epsilon, conditions)


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
            found = self._run(self.bundle, chosen, spec, draw)
            fooled[block] = [one.status == "fooled" for one in found.outcomes]
            unmoved[block] = [one.status in ("unperturbed", "failed") for one in found.outcomes]
            # Measured here again: the attack's own word for its budget is what this is to check.
            change = found.stored.astype(np.int64) - inspection.check_images(chosen.pictures)
            largest = max(largest, float(np.abs(change).max()) / 255)
        return Fared(fooled, unmoved, largest, float(spec.budget))

    def _transferred(self, reference: Classifier) -> Transfer:
        """Attack another network and show the images to this one."""
        spec = PgdLinf(self.setup.epsilon, 2 * self.setup.steps)
        attacked, fooled = np.zeros((2, len(self.batch.samples)), dtype=bool)
        for block in self._blocks(np.arange(len(self.batch.samples))):
            chosen = self.batch.at(block)
            found = self._run(reference, chosen, spec)
            attacked[block] = [one.status in ("fooled", "resisted") for one in found.outcomes]
            with isolated(self.bundle.network):
                said = answers(self.bundle, found.adversarial.to(self.bundle.device)).argmax(dim=1).cpu()
            fooled[block] = (said != chosen.labels.cpu()).numpy()
        return Transfer(attacked, fooled)

    def _run(self, bundle: Classifier, chosen: Batch, spec: Attack, draw: int = 0) -> AttackedImages:
        named, seed = spec.text, self.setup.seed
        seeds = [int(keys.content_key((named, sample, seed, draw))[:15], 16) for sample in chosen.samples]
        return attack_run.run(bundle, chosen.pictures, chosen.labels, spec, torch.tensor(seeds), samples=chosen.samples)


def look_at(bundle: Classifier, pictures: Tensor, labels: Tensor) -> Look:
    """Return what one block shows without an attack: answers twice, gradients, and whether answering needs them."""
    clean = inspection.check_images(pictures)
    inspection.check_labels(labels, len(clean), len(bundle.classes))
    pictures, labels = unit(clean, bundle.device), labels.to(bundle.device)
    with isolated(bundle.network):
        first, second = answers(bundle, pictures), answers(bundle, pictures)
        needs_gradients = _needs_gradients(bundle, pictures)
        right = first.argmax(dim=1) == labels
        useless = _gradients_are_useless(bundle, pictures, labels) & right
        form = forms.form_of(partial(answers, bundle), pictures, first)
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
