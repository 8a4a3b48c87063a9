"""How each method ranks feature maps for the three things an evaluation asks: keep, transplant, restore."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from engine import tracing
from engine.datapaths import cases, extraction, scores
from engine.datapaths.cases import Case
from engine.datapaths.scores import Contributions
from engine.evaluation.pairing import FooledPairs, MatchedImages
from engine.methods import ACTIVATION, TWO_RUN, Method
from engine.models.bundle import ModelBundle
from engine.tracing import PerMap


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """Which maps carry `targets` in `images`, against the runs of `starts`, which answer `rivals`; one row per image."""

    images: Tensor
    targets: Tensor
    starts: Tensor
    rivals: Tensor

    @property
    def question(self) -> scores.Question:
        """What the maps are scored for."""
        return scores.Question(self.images, self.targets, self.rivals)


def asked(subjects: MatchedImages) -> Ask:
    """Return the question of clean images against their partners."""
    partners = subjects.partners
    return Ask(subjects.images, subjects.labels, subjects.images[partners], subjects.labels[partners])


def score(bundle: ModelBundle, method: Method, ask: Ask, *, seed: int) -> tuple[PerMap, int]:
    """Return a method's scores per site (images, channels) and the image-passes used.

    Where the targets are not what the network answers, the method is aimed at them (the wrong-class control); one that
    cannot be aimed returns what it always does.
    """
    if method != TWO_RUN:
        return _scored(bundle, method, ask, seed)
    question = ask.question

    def between(rows: Tensor) -> Contributions:
        run = tracing.record(bundle, ask.images[rows])
        return scores.into_runs(bundle, question.rows(rows), ask.starts[rows], run)

    found = scores.batched(bundle, len(ask.images), between)
    return found.scores, found.passes


def for_transplant(bundle: ModelBundle, method: Method, ask: Ask, own: PerMap) -> PerMap:
    """Return scores that can be ranked over all sites, to copy maps of the images into the runs of `starts`.

    Contributions to a logit stay as they are. Activation stands for the difference of the two runs' maps. Gates and
    shares have no common scale, so each site's are divided by their sum.
    """
    if method == ACTIVATION:
        return differences(bundle, ask.images, ask.starts)
    return own if method.is_same_scale else by_site(own)


def for_restore(bundle: ModelBundle, method: Method, pairs: FooledPairs, *, seed: int) -> tuple[PerMap, PerMap | None]:
    """Return scores by which to put clean maps back into the adversarial run: for the clean label, and for a wrong third.

    None for the wrong third of a network of two classes.

    Two-run: the attack flow. Zero-baseline methods: how much the datapath of the clean image (for that class) differs
    from that of the adversarial one (for its own answer). Activation: the difference of the maps, each site's divided
    by their sum (restored at 16 of ResNet-20's maps: 89 of 100, undivided 40).
    """
    own, aimed = wanted(pairs)
    if method == TWO_RUN:
        return flow(bundle, own), None if aimed is None else flow(bundle, aimed)
    if method == ACTIVATION:
        found = by_site(differences(bundle, pairs.images.clean, pairs.images.adversarial))
        return found, None if aimed is None else found
    clean = score(bundle, method, own, seed=seed)[0]
    forced = None if aimed is None else score(bundle, method, aimed, seed=seed)[0]
    if method.baseline == "references":
        return clean, forced
    there, _ = score(
        bundle, method, replace(own, images=pairs.images.adversarial, targets=pairs.images.after), seed=seed
    )
    return _apart(method, clean, there), None if forced is None else _apart(method, forced, there)


def joint(bundle: ModelBundle, pairs: FooledPairs) -> tuple[PerMap, PerMap | None]:
    """Return the same by the joint mask integrated gradients between the two runs: the two-run score itself."""
    own, aimed = wanted(pairs)
    scored = score(bundle, TWO_RUN, own, seed=0)[0]
    return scored, None if aimed is None else score(bundle, TWO_RUN, aimed, seed=0)[0]


def flow(bundle: ModelBundle, ask: Ask) -> PerMap:
    """Return the attack flow from the runs of an ask's starts to those of its images, signed."""
    question = ask.question

    def between(rows: Tensor) -> Contributions:
        return scores.conductance(bundle, question.rows(rows), ask.starts[rows])

    return scores.batched(bundle, len(ask.images), between).scores


def wanted(pairs: FooledPairs) -> tuple[Ask, Ask | None]:
    """Return the questions of clean images against their adversarial runs: the clean label, and a wrong third class.

    None for the latter of a network of two classes.
    """
    own = Ask(pairs.images.clean, pairs.images.before, pairs.images.adversarial, pairs.images.after)
    return own, None if pairs.thirds is None else replace(own, targets=pairs.thirds)


def differences(bundle: ModelBundle, images: Tensor, others: Tensor) -> PerMap:
    """Return per site (images, channels) the mean over positions of |difference of the maps|."""

    def between(rows: Tensor) -> PerMap:
        here, there = tracing.record(bundle, images[rows]).maps, tracing.record(bundle, others[rows]).maps
        return tuple((a - b).abs().mean(dim=(2, 3)) for a, b in zip(here, there, strict=True))

    return tracing.batched_maps(bundle, len(images), between)


def by_site(per_map: PerMap) -> PerMap:
    """Return |scores| with each image's sum over each site scaled to one."""
    return tuple(site.abs() / site.abs().sum(dim=1, keepdim=True).clamp(min=1e-12) for site in per_map)


def _apart(method: Method, clean: PerMap, adversarial: PerMap) -> PerMap:
    """How much two datapaths differ in each map."""
    if not method.is_same_scale:
        clean, adversarial = by_site(clean), by_site(adversarial)
    return tuple((a - b).abs() for a, b in zip(clean, adversarial, strict=True))


def _scored(bundle: ModelBundle, method: Method, ask: Ask, seed: int) -> tuple[PerMap, int]:
    # One reference for all: none of these methods looks at it.
    trace = tracing.record(bundle, ask.starts[:1])
    references = cases.References(ask.starts[:1], ask.rivals[:1], trace, (), "references")
    return extraction.score(bundle, Case(ask.images, ask.targets), references, method=method, seed=seed)
