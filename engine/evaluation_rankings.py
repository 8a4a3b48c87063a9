"""How each method ranks feature maps for the three things an evaluation asks: keep, transplant, restore."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine import methods, tracing
from engine.datapaths import cases, extraction, masks, scores
from engine.datapaths.cases import Case
from engine.evaluation_subjects import Pairs, Subjects
from engine.models.bundle import ModelBundle
from engine.tracing import PerMap


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """Which maps carry `targets` in `images`, against the runs of `starts`, which answer `rivals`; one row per image."""

    images: Tensor
    targets: Tensor
    starts: Tensor
    rivals: Tensor

    def rows(self, index: Tensor) -> Ask:
        """Return some of the rows."""
        return Ask(self.images[index], self.targets[index], self.starts[index], self.rivals[index])


def asked(subjects: Subjects) -> Ask:
    """Return the question of clean images against their partners."""
    partners = subjects.partners
    return Ask(subjects.images, subjects.labels, subjects.images[partners], subjects.labels[partners])


def score(bundle: ModelBundle, method: str, ask: Ask, *, seed: int, is_aimed: bool = False) -> tuple[PerMap, int]:
    """Return a method's scores per site (images, channels) and the image-passes used.

    is_aimed: the targets are classes to reach, not what the network answers (the wrong-class control); a method that
    explains whatever the network answers cannot be aimed and returns what it always does.
    """
    rows = torch.arange(len(ask.images))
    # Random scores are drawn once for all images: drawn per part, every part would get the same ones.
    parts = [rows] if method == "random" else rows.split(_part(bundle, method))
    found = [_scored(bundle, method, ask.rows(part), seed, is_aimed) for part in parts]
    joined = tuple(torch.cat(site).to(bundle.device) for site in zip(*(one for one, _ in found), strict=True))
    return joined, sum(passes for _, passes in found)


def for_transplant(bundle: ModelBundle, method: str, ask: Ask, own: PerMap) -> PerMap:
    """Return scores that can be ranked over all sites, to copy maps of the images into the runs of `starts`.

    Two-run scores are contributions to one margin and stay as they are. Activation stands for the difference of the
    two runs' maps. Zero-baseline scores have no common scale, so each site's are divided by their sum (measured: better
    for every one of them than as they come).
    """
    if method == "activation":
        return by_site(differences(bundle, ask.images, ask.starts))
    return own if methods.method(method).baseline == "references" else by_site(own)


def for_restore(bundle: ModelBundle, method: str, pairs: Pairs, *, seed: int, targets: Tensor, is_aimed: bool) -> PerMap:
    """Return scores by which to put clean maps back into the adversarial run, so that it answers `targets`.

    Two-run: the attack flow. Zero-baseline methods: how much the datapath of the clean image (for `targets`) differs
    from that of the adversarial one (for its own answer). Activation: the difference of the maps.
    """
    ask = Ask(pairs.clean, targets, pairs.adversarial, pairs.after)
    if method == "two-run":
        return _flow(bundle, ask)
    if method == "activation":
        return by_site(differences(bundle, pairs.clean, pairs.adversarial))
    clean, _ = score(bundle, method, ask, seed=seed, is_aimed=is_aimed)
    if methods.method(method).baseline == "references":
        return clean
    adversarial, _ = score(bundle, method, replace(ask, images=pairs.adversarial, targets=pairs.after), seed=seed)
    return tuple((a - b).abs() for a, b in zip(by_site(clean), by_site(adversarial), strict=True))


def joint(bundle: ModelBundle, ask: Ask) -> PerMap:
    """Return the joint mask integrated gradients between the runs of an ask: the two-run score itself."""
    return score(bundle, "two-run", ask, seed=0)[0]


def differences(bundle: ModelBundle, images: Tensor, others: Tensor) -> PerMap:
    """Return per site (images, channels) the mean over positions of |difference of the maps|."""
    found = []
    for rows in torch.arange(len(images)).split(tracing.batch_limit(bundle)):
        here, there = tracing.record(bundle, images[rows]).maps, tracing.record(bundle, others[rows]).maps
        found.append([(a - b).abs().mean(dim=(2, 3)) for a, b in zip(here, there, strict=True)])
    return tuple(torch.cat(site) for site in zip(*found, strict=True))


def by_site(per_map: PerMap) -> PerMap:
    """Return |scores| with each image's sum over each site scaled to one."""
    return tuple(site.abs() / site.abs().sum(dim=1, keepdim=True).clamp(min=1e-12) for site in per_map)


def _part(bundle: ModelBundle, method: str) -> int:
    """Images scored at once: one where a method wants `References`, which all images of a case share."""
    needs_references = methods.method(method).baseline == "references" and method != "two-run"
    return 1 if needs_references else tracing.batch_limit(bundle)


def _scored(bundle: ModelBundle, method: str, ask: Ask, seed: int, is_aimed: bool) -> tuple[PerMap, int]:
    if method == "two-run":
        question = scores.Question(ask.images, ask.targets, ask.rivals)
        found = scores.between_runs(bundle, question, tracing.record(bundle, ask.starts))
        return found.scores, found.passes
    case = Case(ask.images, ask.targets)
    if method == "mask" and is_aimed:
        return masks.train(bundle, case, seed=seed, aim=ask.targets), len(ask.images) * (masks.STEPS + 1)
    trace = tracing.record(bundle, ask.starts[:1])
    references = cases.References(ask.starts[:1], ask.rivals[:1], trace, (), "references")
    return extraction.score(bundle, case, references, method=method, seed=seed)


def _flow(bundle: ModelBundle, ask: Ask) -> PerMap:
    found = []
    for rows in torch.arange(len(ask.images)).split(tracing.batch_limit(bundle)):
        part = ask.rows(rows)
        question = scores.Question(part.images, part.targets, part.rivals)
        found.append(scores.attack_flow(bundle, question, part.starts).scores)
    return tuple(torch.cat(site) for site in zip(*found, strict=True))
