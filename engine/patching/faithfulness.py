"""How far an explanation can be trusted, part by part, and which class its datapaths resemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine import class_names, statistics
from engine.attribution import baselines, comparison, datapaths, explain, scorers
from engine.attribution.baselines import Case
from engine.attribution.datapaths import Recipe
from engine.errors import BadInput, UnknownName
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, measures, subjects, trials
from engine.patching.subjects import Evidence
from engine.specs.methods import RANDOM, STANDOUT
from engine.store.store import Dataset
from engine.types.core import Datapath, Explanation
from engine.types.faithfulness import (
    PART_TITLES,
    ClassDatapaths,
    ClassSimilarity,
    DatapathChecks,
    Faithfulness,
    Groups,
    InputByTarget,
    Restoration,
    SiteSpan,
)

IMAGES = 8
"""Clean images behind the datapath of a class."""
SHARE = 0.2
"""Share of maps kept per site wherever two datapaths are compared."""
Kept = tuple[np.ndarray, ...]
Strength = tuple[np.ndarray, ...]


def of_classes(evidence: Evidence) -> Faithfulness:
    """Return per site how alike the adversarial datapath is to those of the true and of the fooled-into class, and both."""
    explanation = evidence.explanation
    results = [_of_class(evidence, int(case.targets.mode().values)) for case in (evidence.clean, evidence.adversarial)]
    true, fooled = (_kept(strength) for strength, _ in results)
    clean, adversarial, noise = (
        _kept(path.strength) for path in (explanation.clean, explanation.adversarial, explanation.noise)
    )
    return Faithfulness(
        class_similarity=ClassSimilarity(
            true_class=_jaccards(adversarial, true),
            fooled_into=_jaccards(adversarial, fooled),
            images=min(images for _, images in results),
            converges_at=_converges_at(evidence, _jaccards(adversarial, true), _jaccards(adversarial, fooled)),
            clean_true=_jaccards(clean, true),
            clean_fooled=_jaccards(clean, fooled),
            noise_true=_jaccards(noise, true),
            noise_fooled=_jaccards(noise, fooled),
            classes=_jaccards(true, fooled),
            convergence_span=_convergence_span(evidence, true, fooled),
        ),
        classes=ClassDatapaths(results[0][0], results[1][0]),
    )


def crossed(evidence: Evidence) -> InputByTarget:
    """Return the 2 x 2 design: input clean or adversarial, evidence sought for the true or the fooled-into class.

    Two datapaths that must give different answers differ from the first site on for any attack; this tells how much of
    the difference is the answer's and how much the input's.
    """
    true, fooled = evidence.clean.targets, evidence.adversarial.targets
    clean_true = _kept(evidence.explanation.clean.strength)
    adversarial_fooled = _kept(evidence.explanation.adversarial.strength)
    clean_fooled = _scored(evidence, Case(evidence.clean.images, fooled))
    adversarial_true = _scored(evidence, Case(evidence.adversarial.images, true))
    return InputByTarget(
        same_input_clean=_jaccards(clean_true, clean_fooled),
        same_input_adversarial=_jaccards(adversarial_fooled, adversarial_true),
        same_answer_true=_jaccards(clean_true, adversarial_true),
        same_answer_fooled=_jaccards(clean_fooled, adversarial_fooled),
        each_its_own=_jaccards(clean_true, adversarial_fooled),
        exchanged=_jaccards(clean_fooled, adversarial_true),
    )


def similarity(datapath: Datapath, per_map: PerMap, seed: int) -> float:
    """Return the mean Jaccard over sites of the kept shares of a datapath and of other scores of the same images.

    Which of equally strong maps are kept is drawn for each of the two: a choice between copies is none, and reads unstable.
    """
    own = statistics.per_site_drawn(datapath.strength, SHARE, seed)
    return float(np.mean(_jaccards(own, statistics.per_site_drawn(_strength(per_map), SHARE, seed + 1))))


def _of_class(evidence: Evidence, label: int) -> tuple[Strength, int]:
    """The mean strength of clean, correctly classified images of a class, the explained ones left out; and their number.

    Raises BadInput where there is none, as often with a thousand classes and a small data set.
    """
    bundle, dataset = evidence.bundle, evidence.dataset
    every = np.flatnonzero(baselines.labels(bundle, dataset) == label)
    own = set(evidence.explanation.request.samples)
    rows = [int(k) for k in every if dataset.keys[k] not in own][: 3 * IMAGES]
    pictures = baselines.correct(bundle, dataset, rows, IMAGES, at_once=hooks.batch_limit(bundle)).images
    if not len(pictures):
        name = class_names.handles(bundle.classes)[label]
        raise BadInput(
            f"The data set holds no other correctly classified image of class '{name}', so likeness to it is unknown."
        )
    case = Case(pictures, torch.full((len(pictures),), label, device=bundle.device))
    return _strength(_scores(evidence, case)), len(pictures)


def _scored(evidence: Evidence, case: Case) -> Kept:
    return _kept(_strength(_scores(evidence, case)))


def _scores(evidence: Evidence, case: Case) -> PerMap:
    references = evidence.references
    return datapaths.score(evidence.bundle, case, references, method=evidence.method, seed=evidence.seed)[0]


def _converges_at(evidence: Evidence, true: tuple[float, ...], fooled: tuple[float, ...]) -> str | None:
    sites = evidence.bundle.sites
    place = int(comparison.converges_at(np.array([[b > a for a, b in zip(true, fooled, strict=True)]]))[0])
    return None if place == len(sites) or _keeps_class(evidence) else sites[place].name


def _convergence_span(evidence: Evidence, true: Kept, fooled: Kept) -> SiteSpan | None:
    names, scores = [site.name for site in evidence.bundle.sites], evidence.explanation.adversarial.scores
    return (
        None if _keeps_class(evidence) else comparison.convergence_span(scores, true, fooled, share=SHARE, names=names)
    )


def _keeps_class(evidence: Evidence) -> bool:
    """Whether the attack changed no answer, so that there is no other class to converge on."""
    return evidence.clean.targets.equal(evidence.adversarial.targets)


def _strength(per_map: PerMap) -> Strength:
    strength = statistics.strength([site.cpu().numpy() for site in per_map])
    for site in strength:
        site.setflags(write=False)
    return strength


def _kept(strength: Strength) -> Kept:
    return statistics.per_site(strength, SHARE)


def _jaccards(first: Kept, second: Kept) -> tuple[float, ...]:
    return tuple(statistics.jaccard(a, b) for a, b in zip(first, second, strict=True))


RANDOM_DRAWS = 20
RANDOM_TRIALS = 80
RESTORED_SIZE = 256
"""Most maps patched: ranked by layer, they are spread over more layers than a transplant of a datapath takes."""
"""Of random maps patched, per size: from four images on each of them needs fewer draws for a mean rate (one pair: 20)."""
ONE_SITE_IMAGES = 4
"""Images whose sites are tried one by one: each takes two passes per site."""
OTHERS = 4
"""Other images in the swap controls."""
ONE_SITE_SHARE = 0.3


def part(
    name: str, bundle: ModelBundle, dataset: Dataset, explanation: Explanation, report: explain.Report
) -> Faithfulness:
    """Return one part of an explanation's faithfulness checks, all other fields left at "not run".

    A part that this data does not allow says why (`Faithfulness.unavailable`). Raises UnknownName.
    """
    checks: dict[str, Callable[[Evidence], Faithfulness]] = {
        "clean": lambda evidence: Faithfulness(
            clean=compared(evidence, "clean"), unavailable=_lacking(evidence, "clean")
        ),
        "adversarial": lambda evidence: Faithfulness(
            adversarial=compared(evidence, "adversarial"), unavailable=_lacking(evidence, "adversarial")
        ),
        "restoration": lambda evidence: Faithfulness(restoration=restoration(evidence)),
        "localisation": localisation,
        "stability": stability,
        "kinship": of_classes,
        "weights": random_weights,
        "cross": lambda evidence: Faithfulness(cross=crossed(evidence)),
        "groups": lambda evidence: Faithfulness(groups=of_groups(evidence)),
    }
    if name not in checks:
        raise UnknownName("faithfulness check", name, checks)
    report(0, 1, f"Checking {PART_TITLES[name]}")
    try:
        faithfulness = checks[name](subjects.shared(bundle, dataset, explanation))
    except BadInput as error:
        faithfulness = Faithfulness(unavailable=(str(error),))
    return replace(faithfulness, done=(name,))


def compared(evidence: Evidence, side: str) -> DatapathChecks:
    """Return the size that carries with its random, wrong-class, swap and noisy-copy controls and the one-site gap."""
    case, datapath = evidence.side(side)
    per_map, method = evidence.scores(datapath), evidence.method
    if method.baseline != "references":
        kept_controls = _kept_controls(evidence, case, per_map)
    elif datapath.sizes and _shows_something(evidence, case):
        kept_controls = _transplant_controls(evidence, case, datapath, per_map)
    else:
        kept_controls = DatapathChecks()
    return replace(
        kept_controls,
        carries_at=datapath.carries_at,
        one_site_gap=one_site_gap(evidence, case, per_map),
        not_applicable=(
            *(() if method.takes_aim and _has_third_class(evidence) else ("wrong_class",)),
            *(() if method.baseline == "references" else ("noisy_copy",)),
        ),
    )


def _lacking(evidence: Evidence, side: str) -> tuple[str, ...]:
    """Return which controls of a datapath the classes do not allow, one sentence each."""
    case, _ = evidence.side(side)
    results = []
    if evidence.method.takes_aim and not _has_third_class(evidence):
        results.append(
            f"Wrong class ({side}): a third class is needed, neither of the two answers nor a reference's, and the network "
            f"has {len(evidence.bundle.classes)}."
        )
    if evidence.method.baseline == "references" and not _shows_something(evidence, case):
        results.append(
            f"Transplant carries the label ({side}): without images of a third class a blurred copy is the reference, "
            "and that gets this "
            "answer anyway."
        )
    return tuple(results)


def _shows_something(evidence: Evidence, case: Case) -> bool:
    return bool(datapaths.can_show(case, evidence.references).any())


def restoration(evidence: Evidence) -> Restoration:
    """Put clean maps back into the adversarial run, by the default ranking and at random, and count the labels that return.

    Only images whose label the attack took count; raises BadInput where it took none.
    """
    taken = (evidence.clean.targets != evidence.adversarial.targets).cpu()
    if not bool(taken.any()):
        raise BadInput("Restoration: the attack left the class as it was, so there is nothing to restore.")
    bundle, flow = (
        evidence.bundle,
        tuple(torch.from_numpy(np.array(site)).to(evidence.bundle.device) for site in evidence.explanation.flow),
    )
    donor = hooks.record(bundle, evidence.clean.images)
    rows = torch.arange(len(evidence.clean.images))[taken]
    generator = torch.Generator().manual_seed(evidence.seed)
    draws = max(1, min(RANDOM_DRAWS, RANDOM_TRIALS // len(rows)))
    sizes, scores = datapaths.claim_sizes(bundle, RESTORED_SIZE), trials.by_default(flow)
    chosen = torch.stack([hooks.join(scorers.largest(bundle, scores, size))[rows] for size in sizes])
    drawn = controls.nested(bundle, chosen, draws, evidence.seed)
    repeated = rows.repeat_interleave(draws)
    restored, at_random, matched = [], [], []
    for size, own, controlled in zip(sizes, chosen, drawn.unbind(dim=1), strict=True):
        restored.append(_hits(evidence, donor, rows, hooks.split(own, bundle)))
        sets = hooks.split(controlled.transpose(0, 1).flatten(0, 1), bundle)
        matched.append(_hits(evidence, donor, repeated, sets).reshape(-1, draws).T)
        at_random.append(_hits(evidence, donor, repeated, scorers.at_random(bundle, len(repeated), size, generator)))
    shares = [tuple(float(hits.mean()) for hits in kind) for kind in (restored, at_random, matched)]
    # A ranking that restores at more sizes has fewer misses; the draws are nested as it is, so any could have been it.
    misses = 1 - np.concatenate([np.array(restored)[None], np.array(matched).transpose(1, 0, 2)]).mean(axis=1)
    return Restoration(
        sizes=sizes,
        restored=shares[0],
        random=shares[1],
        restores_at=datapaths.smallest_lasting(sizes, shares[0]),
        draws=draws,
        ranking=STANDOUT,
        layer_matched=shares[2],
        excess=tuple(statistics.excess(own, control) for own, control in zip(restored, matched, strict=True)),
        p_value=statistics.exchanged(misses, seed=evidence.seed),
    )


def localisation(evidence: Evidence) -> Faithfulness:
    """Return the localisation profile of the images; raises BadInput where the attack left the class of one as it was."""
    bundle = evidence.bundle
    flow = tuple(torch.from_numpy(np.array(site)).to(bundle.device) for site in evidence.explanation.flow)
    profile = measures.localised(subjects.of_explanation(evidence), flow, lambda *_: None)
    return Faithfulness(localisation=profile)


def stability(evidence: Evidence) -> Faithfulness:
    """Return the Jaccard similarity of both datapaths with themselves under another seed and under small input noise."""
    results = {}
    for side in ("clean", "adversarial"):
        case, datapath = evidence.side(side)
        other = baselines.references(
            evidence.bundle, evidence.dataset, case, avoid=evidence.played, seed=evidence.seed + 1
        )
        seeded = datapaths.score(evidence.bundle, case, other, method=evidence.method, seed=evidence.seed + 1)[0]
        noisy_case = Case(controls.shaken(case.images, evidence.seed), case.targets)
        noisy = datapaths.score(
            evidence.bundle, noisy_case, evidence.references, method=evidence.method, seed=evidence.seed
        )[0]
        results[side] = DatapathChecks(
            seed_jaccard=similarity(datapath, seeded, evidence.seed),
            noise_jaccard=similarity(datapath, noisy, evidence.seed),
        )
    return Faithfulness(clean=results["clean"], adversarial=results["adversarial"])


def random_weights(evidence: Evidence) -> Faithfulness:
    """Return the Jaccard similarity of both datapaths with those of the same network with shuffled weights."""
    results = {}
    with hooks.weights(evidence.bundle, evidence.seed):
        for side in ("clean", "adversarial"):
            case, datapath = evidence.side(side)
            there = replace(evidence.references, trace=hooks.record(evidence.bundle, evidence.references.images))
            other = datapaths.score(evidence.bundle, case, there, method=evidence.method, seed=evidence.seed)[0]
            results[side] = DatapathChecks(random_weights_jaccard=similarity(datapath, other, evidence.seed))
    return Faithfulness(clean=results["clean"], adversarial=results["adversarial"])


def of_groups(evidence: Evidence) -> Groups:
    """Return the groups of an attack: half of each makes a datapath, which the other half confirms or refutes.

    Of a single pair there are no groups, since no image can be held out.
    """
    bundle, dataset, recipe = evidence.bundle, evidence.dataset, Recipe(evidence.method, evidence.seed)
    if len(evidence.clean.images) < 2:
        return Groups((), ())
    if not all(_shows_something(evidence, case) for case in (evidence.clean, evidence.adversarial)):
        raise BadInput(
            "Groups: without images of a third class a blurred copy is the reference, and that gets one of the two answers "
            "anyway, so nothing can be carried into it."
        )
    samples = evidence.explanation.request.samples
    into = datapaths.of_classes(bundle, dataset, evidence.adversarial.targets.tolist(), avoid=samples)
    pairs = datapaths.of_pairs(evidence.clean, evidence.adversarial, evidence.noise(), into)
    classes = datapaths.some_classes(bundle, dataset, evidence.played, seed=evidence.seed)
    mean = datapaths.class_mean(bundle, dataset, classes, recipe)
    return Groups(datapaths.datapaths(bundle, pairs, evidence.references, mean, recipe), classes)


def one_site_gap(evidence: Evidence, case: Case, per_map: PerMap) -> float:
    """Return keep minus swap, mean over sites: top 30 % of one site kept, the rest of it zeroed, on the image and on others.

    Of a group its first `ONE_SITE_IMAGES` images are tried.
    """
    images = min(ONE_SITE_IMAGES, len(case.images))
    gates = datapaths.one_site_gates(evidence.bundle, tuple(site[:images] for site in per_map), ONE_SITE_SHARE)
    rows = torch.arange(images).repeat_interleave(len(evidence.bundle.sites))
    wanted = case.targets[rows]
    keep = (datapaths.gate_labels(evidence.bundle, case.images, rows, gates) == wanted).float().mean()
    others = torch.arange(len(rows)) % len(evidence.references.images)
    swap = (datapaths.gate_labels(evidence.bundle, evidence.references.images, others, gates) == wanted).float().mean()
    return float(keep - swap)


def _transplant_controls(evidence: Evidence, case: Case, datapath: Datapath, per_map: PerMap) -> DatapathChecks:
    bundle, references = evidence.bundle, evidence.references
    size = datapath.carries_at or datapath.sizes[-1]
    chosen = scorers.largest(bundle, per_map, size)
    low, high = _random_band(evidence, case, size)

    def carries(wrong: Case, aimed: PerMap) -> Tensor:
        return datapaths.share_carried(bundle, wrong, references, [scorers.largest(bundle, aimed, size)])

    return DatapathChecks(
        random_low=low,
        random_high=high,
        wrong_class=_when_aimed(evidence, case, carries),
        swap=_filled_from_others(evidence, case, chosen),
        noisy_copy=_noisy_copy(evidence, case, chosen),
    )


def _kept_controls(evidence: Evidence, case: Case, per_map: PerMap) -> DatapathChecks:
    """The controls of the published criterion: keep a share of every site by |score|, zero the rest."""
    bundle = evidence.bundle
    chosen = _kept_share(per_map)
    rates = []
    for draw in range(RANDOM_DRAWS):
        drawn, _ = datapaths.score(bundle, case, evidence.references, method=RANDOM, seed=evidence.seed + 1000 + draw)
        rates.append(float(datapaths.survives(bundle, case, _kept_share(drawn)).float().mean()))
    others = torch.arange(len(case.images)).repeat_interleave(len(evidence.references.images))
    gates = tuple(site.float()[others] for site in chosen)
    foreign = torch.arange(len(others)) % len(evidence.references.images)
    swapped = datapaths.gate_labels(bundle, evidence.references.images, foreign, gates) == case.targets[others]
    return DatapathChecks(
        random_low=float(np.quantile(rates, 0.025)),
        random_high=float(np.quantile(rates, 0.975)),
        wrong_class=_when_aimed(
            evidence, case, lambda wrong, aimed: datapaths.survives(bundle, wrong, _kept_share(aimed))
        ),
        swap=float(swapped.float().mean()),
    )


def _kept_share(per_map: PerMap) -> PerMap:
    return scorers.share_of_each_site(tuple(site.abs() for site in per_map), SHARE)


def _when_aimed(evidence: Evidence, case: Case, hits: Callable[[Case, PerMap], Tensor]) -> float | None:
    """Share of hits when the score is aimed at a wrong third class; None where it cannot be aimed or there is none."""
    if not evidence.method.takes_aim or not _has_third_class(evidence):
        return None
    wrong = Case(case.images, _third_class(evidence, case))
    aimed = datapaths.score(evidence.bundle, wrong, evidence.references, method=evidence.method, seed=evidence.seed)[0]
    return float(hits(wrong, aimed).float().mean())


def _random_band(evidence: Evidence, case: Case, size: int) -> tuple[float, float]:
    bundle, images = evidence.bundle, len(case.images)
    drawn = [
        hooks.split(ranks < size, bundle)
        for ranks in controls.random_ranks(bundle, RANDOM_DRAWS, images, evidence.seed)
    ]
    shown = datapaths.can_show(case, evidence.references)
    rates = datapaths.share_carried(bundle, case, evidence.references, drawn)[:, shown].float().mean(dim=1).tolist()
    return float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


def _third_class(evidence: Evidence, case: Case) -> Tensor:
    """Per image the likeliest class that is neither its target, nor the pair's other answer, nor a reference's label."""
    with torch.no_grad():
        logits = evidence.bundle.logits(case.images)
    return controls.likeliest_class(logits, _barred(evidence))


def _has_third_class(evidence: Evidence) -> bool:
    return len(_barred(evidence)) < len(evidence.bundle.classes)


def _barred(evidence: Evidence) -> Tensor:
    """The classes that a wrong-class control must not aim at: both answers, and what a reference that takes part says anyway."""
    answers = torch.cat([evidence.clean.targets, evidence.adversarial.targets])
    every = torch.cat([answers, evidence.references.labels]).unique()
    takes_part = evidence.method.baseline == "references"
    return every if takes_part or len(every) < len(evidence.bundle.classes) else answers.unique()


def _filled_from_others(evidence: Evidence, case: Case, chosen: PerMap) -> float | None:
    """Share of trials in which the same maps, filled from another image, give that image's class; None without others."""
    references = evidence.references
    count = len(references.images)
    if count < 2:
        return None
    images = torch.arange(len(case.images)).repeat_interleave(count)
    into = torch.arange(len(images)) % count
    # The donor is the next reference: an image of another class than the recipient's.
    out_of = (into + 1) % count
    repeated = tuple(site[images] for site in chosen)
    labels = datapaths.transplant_labels(evidence.bundle, references.images, references.trace, (into, out_of), repeated)
    return float((labels == references.labels[out_of]).float().mean())


def _noisy_copy(evidence: Evidence, case: Case, chosen: PerMap) -> float:
    """Share of references that answer the target when the maps come from a noisy copy of the reference itself."""
    references = evidence.references
    images, into = case.pairs(references)
    size = (evidence.adversarial.images - evidence.clean.images).flatten(1).norm(dim=1).mean()
    # Noise as large as the attack's own perturbation, on the reference.
    seeds = torch.arange(len(references.images)) + evidence.seed
    donor = hooks.record(evidence.bundle, controls.noisy(references.images, size, seeds))
    repeated = tuple(site[images] for site in chosen)
    labels = datapaths.transplant_labels(evidence.bundle, references.images, donor, (into, into), repeated)
    return float((labels == case.targets[images]).float().mean())


def _hits(evidence: Evidence, donor: hooks.Trace, rows: Tensor, chosen: PerMap) -> np.ndarray:
    """(rows,) bool: whether the chosen clean maps give the clean label."""
    labels = datapaths.transplant_labels(evidence.bundle, evidence.adversarial.images, donor, (rows, rows), chosen)
    return (labels == evidence.clean.targets[rows]).cpu().numpy()
