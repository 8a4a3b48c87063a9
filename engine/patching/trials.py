"""Trials on many images: rankings of channels by every method, and what moving the first of them does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import statistics
from engine.attribution import baselines, datapaths, scorers
from engine.attribution.baselines import Case
from engine.attribution.scorers import Contributions
from engine.errors import BadInput, BadSetting
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, patch
from engine.patching.subjects import FooledGroup, FooledPairs, MatchedImages
from engine.specs import methods
from engine.specs.methods import ACTIVATION, JOINT, SOURCES, STANDOUT, TWO_RUN, Method, Ranking
from engine.types.faithfulness import Estimates, RankingRow, RankingTable, Restore, Sufficient, Transplant
from engine.types.patching import MAPS, MapSet, OneSite

KEPT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of every site."""
ONE_SITES = 7
"""Claimable sites, evenly spread, that are masked one at a time."""
SMALLEST_MEAN = 1e-12
"""Mean |score| below which a layer counts as silent: none of its maps stands out."""


def map_counts(bundle: ModelBundle, wanted: tuple[int, ...] = MAPS) -> tuple[int, ...]:
    """Return the numbers of maps tried: those wanted, as far as there are that many claimable ones."""
    most = int(scorers.eligible(bundle).sum())
    return tuple(count for count in wanted if count <= most) or (most,)


def sufficient(bundle: ModelBundle, subjects: MatchedImages, own: PerMap, aimed: PerMap | None) -> Sufficient:
    """Return the columns of the published criterion for scores of the own class and scores aimed at `thirds`."""
    kept = _shares(own)
    full = _kept_logits(bundle, subjects.images, [tuple(torch.ones_like(site) for site in kept[0])])[0]
    there = _kept_logits(bundle, subjects.images, kept)
    wrong = None if aimed is None else _kept_logits(bundle, subjects.images, _shares(aimed)).argmax(2)
    swapped = _kept_logits(bundle, subjects.images[subjects.partners], kept).argmax(2)
    wanted, got = full.log_softmax(1), there.log_softmax(2)
    divergence = F.kl_div(got, wanted.expand_as(got), reduction="none", log_target=True).sum(2)
    return Sufficient(
        agreement=_shares_of(there.argmax(2) == full.argmax(1)),
        kl=tuple(statistics.mean(row) for row in divergence.clamp(min=0).cpu().numpy()),
        wrong_class=None if wrong is None else _hits(wrong, subjects.thirds),
        swap=_shares_of(swapped == subjects.labels),
    )


def transplant(
    bundle: ModelBundle, subjects: MatchedImages, own: PerMap, aimed: PerMap | None, counts: tuple[int, ...]
) -> Transplant:
    """Return the columns of copying `counts` maps of each image into its partner's run."""
    recipients = subjects.images[subjects.partners]
    chosen = [scorers.largest(bundle, own, count) for count in counts]
    forced = [] if aimed is None else [scorers.largest(bundle, aimed, count) for count in counts]
    quota = [_eligible_alone(bundle, kept) for kept in _shares(own)]
    labels = moved_labels(bundle, recipients, subjects.images, [*chosen, *quota, *forced])
    carried, shared, wrong = labels.split([len(chosen), len(quota), len(forced)])
    swap, strangers = None, subjects.strangers
    if strangers is not None:
        swapped = moved_labels(bundle, recipients, subjects.images[strangers], chosen)
        swap = _hits(swapped, subjects.labels[strangers])
    return Transplant(
        carried=_shares_of(carried == subjects.labels),
        wrong_class=_hits(wrong, subjects.thirds) if forced else None,
        swap=swap,
        quota_carried=_shares_of(shared == subjects.labels),
    )


def restore(
    bundle: ModelBundle, pairs: FooledPairs, own: PerMap, aimed: PerMap | None, counts: tuple[int, ...]
) -> Restore:
    """Return the columns of putting `counts` clean maps back into the adversarial runs."""
    chosen = [scorers.largest(bundle, own, count) for count in counts]
    forced = [] if aimed is None else [scorers.largest(bundle, aimed, count) for count in counts]
    wrong, noisy, swap = _controlled(bundle, pairs, chosen, forced)
    return Restore(
        restored=_shares_of(_restored(bundle, pairs, chosen)),
        wrong_class=wrong,
        noisy_copy=noisy,
        swap=swap,
        mean_maps=statistics.mean(fewest_maps(bundle, pairs, own).cpu().numpy()),
    )


def _controlled(
    bundle: ModelBundle, pairs: FooledPairs, chosen: Sequence[PerMap], forced: Sequence[PerMap]
) -> tuple[Estimates | None, Estimates, Estimates | None]:
    """The wrong class by its own maps, and what the chosen ones do with values of a noisy copy and of another image."""
    adversarial, wrong, swap = pairs.images.adversarial, None, None
    if forced:
        wrong = _hits(moved_labels(bundle, adversarial, pairs.images.clean, forced), pairs.thirds)
    noisy = moved_labels(bundle, adversarial, pairs.noisy, chosen)
    if pairs.strangers is not None:
        swap = _hits(moved_labels(bundle, adversarial, pairs.strangers, chosen), pairs.stranger_labels)
    return wrong, _shares_of(noisy == pairs.images.before), swap


def one_site(bundle: ModelBundle, subjects: MatchedImages, own: PerMap) -> OneSite:
    """Return how often the answer stays, on the image and on its partner, when one site at a time is masked."""
    shares = _shares(own)
    keep, swap = [], []
    for kept in shares:
        trials = [_gated_alone(kept, number) for number in _spread(bundle)]
        here = _kept_logits(bundle, subjects.images, trials).argmax(2) == subjects.labels
        there = _kept_logits(bundle, subjects.images[subjects.partners], trials).argmax(2) == subjects.labels
        keep.append(statistics.mean(here.float().mean(0).cpu().numpy()))
        swap.append(statistics.mean(there.float().mean(0).cpu().numpy()))
    return OneSite(tuple(keep), tuple(swap))


def moved_labels(bundle: ModelBundle, recipients: Tensor, donors: Tensor, choices: Sequence[PerMap]) -> Tensor:
    """Return (choices, images) labels of recipient images with the chosen maps of donor images in their runs."""

    def labels(rows: Tensor) -> Tensor:
        donor, into = hooks.record(bundle, donors[rows]).maps, recipients[rows]
        return torch.stack([_moved(bundle, into, donor, tuple(site[rows] for site in chosen)) for chosen in choices])

    return hooks.batched(bundle, len(recipients), labels, dim=1)


def fewest_maps(bundle: ModelBundle, pairs: FooledPairs, own: PerMap) -> Tensor:
    """Return (images,) the fewest top-ranked maps that restore each label, found by bisection.

    All claimable maps restore every label: behind the last of them nothing is left of the adversarial run.
    """
    ranks = scorers.ranks(bundle, own)
    # No map restores nothing: every pair was fooled.
    low, high = (
        torch.zeros_like(pairs.images.before),
        torch.full_like(pairs.images.before, int(scorers.eligible(bundle).sum())),
    )
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        chosen = hooks.split(ranks < middle[:, None], bundle)
        is_restored = (
            moved_labels(bundle, pairs.images.adversarial, pairs.images.clean, [chosen])[0] == pairs.images.before
        )
        low, high = torch.where(is_restored, low, middle), torch.where(is_restored, middle, high)
    return high


def _moved(bundle: ModelBundle, recipients: Tensor, donor: PerMap, chosen: PerMap) -> Tensor:
    return hooks.transplanted(bundle, recipients, chosen, donor).argmax(1)


def _kept_logits(bundle: ModelBundle, images: Tensor, gates: Sequence[PerMap]) -> Tensor:
    """(gates, images, classes) logits with every site's maps gated, zero baseline."""

    def logits(rows: Tensor) -> Tensor:
        part = images[rows]
        return torch.stack([hooks.gated(bundle, part, tuple(site[rows].float() for site in gate)) for gate in gates])

    return hooks.batched(bundle, len(images), logits, dim=1)


def _shares(per_map: PerMap) -> list[PerMap]:
    magnitudes = tuple(site.abs() for site in per_map)
    return [scorers.share_of_each_site(magnitudes, share) for share in KEPT]


def _eligible_alone(bundle: ModelBundle, kept: PerMap) -> PerMap:
    return tuple(site & bundle.sites[k].is_eligible for k, site in enumerate(kept))


def _gated_alone(kept: PerMap, number: int) -> PerMap:
    return tuple(site if k == number else torch.ones_like(site) for k, site in enumerate(kept))


def _spread(bundle: ModelBundle) -> list[int]:
    """Numbers of at most `ONE_SITES` sites, evenly spread over the claimable ones."""
    inside = [k for k, site in enumerate(bundle.sites) if site.is_eligible]
    places = np.linspace(0, len(inside) - 1, min(ONE_SITES, len(inside))).round().astype(int)
    return [inside[k] for k in places]


def _hits(answers: Tensor, wanted: Tensor | None) -> Estimates | None:
    """Return the share of answers (rows, images) that are the wanted classes (images,); None where none are wanted."""
    return None if wanted is None else _shares_of(answers == wanted)


def _shares_of(hits: Tensor) -> Estimates:
    return tuple(statistics.proportion(row) for row in hits.cpu().numpy())


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """Which maps carry `targets` in `images`, against the runs of `starts`, which answer `rivals`; one row per image."""

    images: Tensor
    targets: Tensor
    starts: Tensor
    rivals: Tensor

    @property
    def question(self) -> scorers.Question:
        """What the maps are scored for."""
        return scorers.Question(self.images, self.targets, self.rivals)


def against_partners(subjects: MatchedImages) -> Ask:
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
        run = hooks.record(bundle, ask.images[rows])
        return scorers.into_runs(bundle, question.rows(rows), ask.starts[rows], run)

    contributions = scorers.batched(bundle, len(ask.images), between)
    return contributions.scores, contributions.passes


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

    Two-run: the attack conductance. Zero-baseline methods: how much the datapath of the clean image (for that class) differs
    from that of the adversarial one (for its own answer). Activation: the difference of the maps, each site's divided
    by their sum (restored at 16 of ResNet-20's maps: 89 of 100, undivided 40).
    """
    own, aimed = wanted(pairs)
    if method == TWO_RUN:
        return flow(bundle, own), None if aimed is None else flow(bundle, aimed)
    if method == ACTIVATION:
        result = by_site(differences(bundle, pairs.images.clean, pairs.images.adversarial))
        return result, None if aimed is None else result
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


def standing_out(per_map: PerMap) -> PerMap:
    """Return |scores| divided by their mean over the layer, image by image: how far a map stands out in its layer.

    A map drawn from a layer is worth the layer's mean. Of all sets whose layer-matched counterparts are worth the same, the
    one with the largest ratios is worth most, as far as contributions to the margin add up: what it restores beyond them is
    largest. Taking the largest scores instead fills narrow early layers, where any maps restore.
    """
    return tuple(site.abs() / site.abs().mean(dim=1, keepdim=True).clamp(min=SMALLEST_MEAN) for site in per_map)


def by_default(flow: PerMap) -> PerMap:
    """Return the scores by which clean maps are patched unless another ranking is named (`methods.STANDOUT`)."""
    return standing_out(flow) if STANDOUT.is_by_layer else flow


def scores_of(bundle: ModelBundle, source: str, pairs: FooledPairs) -> tuple[PerMap, PerMap | None]:
    """Return what a ranking is made of: for the clean label, and for a wrong third class (None of two classes)."""
    if source == JOINT:
        return joint(bundle, pairs)
    return for_restore(bundle, methods.method(SOURCES[source]), pairs, seed=0)


def flow(bundle: ModelBundle, ask: Ask) -> PerMap:
    """Return the attack conductance from the runs of an ask's starts to those of its images, signed."""
    question = ask.question

    def between(rows: Tensor) -> Contributions:
        return scorers.conductance(bundle, question.rows(rows), ask.starts[rows])

    return scorers.batched(bundle, len(ask.images), between).scores


def wanted(pairs: FooledPairs) -> tuple[Ask, Ask | None]:
    """Return the questions of clean images against their adversarial runs: the clean label, and a wrong third class.

    None for the latter of a network of two classes.
    """
    own = Ask(pairs.images.clean, pairs.images.before, pairs.images.adversarial, pairs.images.after)
    return own, None if pairs.thirds is None else replace(own, targets=pairs.thirds)


def differences(bundle: ModelBundle, images: Tensor, others: Tensor) -> PerMap:
    """Return per site (images, channels) the mean over positions of |difference of the maps|."""

    def between(rows: Tensor) -> PerMap:
        here, there = hooks.record(bundle, images[rows]).maps, hooks.record(bundle, others[rows]).maps
        return tuple((a - b).abs().mean(dim=(2, 3)) for a, b in zip(here, there, strict=True))

    return hooks.batched_maps(bundle, len(images), between)


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
    trace = hooks.record(bundle, ask.starts[:1])
    references = baselines.References(ask.starts[:1], ask.rivals[:1], trace, (), "references")
    return datapaths.score(bundle, Case(ask.images, ask.targets), references, method=method, seed=seed)


def attack_conductance(fooled: FooledGroup) -> PerMap:
    """Return the attack conductance per site (images, channels), signed."""
    return flow(fooled.bundle, Ask(fooled.images.clean, fooled.true, fooled.images.adversarial, fooled.into))


def shared(flow: PerMap) -> PerMap:
    """Return per site (1, channels): mean over images of |flow|, each image's scaled to sum to one."""
    strength = statistics.strength([site.cpu().numpy() for site in flow])
    return tuple(torch.from_numpy(site)[None].to(own.device) for site, own in zip(strength, flow, strict=True))


def shared_ranks(fooled: FooledGroup, flow: PerMap) -> Tensor:
    """Return places (1, all maps) by the group's flow."""
    return scorers.ranks(fooled.bundle, shared(flow))


def strongest(fooled: FooledGroup, count: int, ranking: Ranking) -> MapSet:
    """Return the first maps over a group, by a ranking of the attack conductance; raises BadSetting for too many."""
    available = int(scorers.eligible(fooled.bundle).sum())
    if not 1 <= count <= available:
        raise BadSetting(f"From 1 to {available} channels can be patched, got {count}.")
    flow = standing_out(attack_conductance(fooled)) if ranking.is_by_layer else attack_conductance(fooled)
    return patch.map_set(fooled.bundle, (shared_ranks(fooled, flow) < count)[0])


def datapath_difference(fooled: FooledGroup) -> PerMap:
    """Return per site (images, channels) how much the two-run datapaths of the two images differ in each map.

    Both are scored against the same clean image of another class, and each site's scores are divided by their sum, as
    datapaths are compared everywhere. Raises BadInput where an image has no such other image.
    """
    others = fooled.others
    if not others.rows.shape[1]:
        raise BadInput("the data set has no correctly classified image of a class that plays no part.")
    rows = others.rows[:, 0]
    starts, rivals = others.images[rows], others.labels[rows]
    sides = (
        Ask(fooled.images.clean, fooled.true, starts, rivals),
        Ask(fooled.images.adversarial, fooled.into, starts, rivals),
    )
    scored = [by_site(score(fooled.bundle, TWO_RUN, ask, seed=fooled.seed)[0]) for ask in sides]
    return tuple((a - b).abs() for a, b in zip(*scored, strict=True))


def largest_change(fooled: FooledGroup) -> PerMap:
    """Return per site (images, channels) how far the attack moved each map, each site's scaled to sum to one.

    Not the relative change of the causal test's control, which restores less (ResNet-20, 32 images, 32 maps: 38 %).
    """
    return by_site(differences(fooled.bundle, fooled.images.clean, fooled.images.adversarial))


DRAWS, FEW_DRAWS = 20, 4
"""Layer-matched and plain random sets per image and size; few where pictures are large (`LARGE`)."""
LARGE = 112
"""Pixels along a side."""
Progress = Callable[[int, str], None]
"""Called with how many rankings are done and the name of the next."""


@dataclass(frozen=True, eq=False, slots=True)
class Beyond:
    """What each image's first maps did, at each size, and by how much it exceeds layer-matched random maps."""

    row: RankingRow
    excess: np.ndarray
    """(sizes, images)."""
    area: np.ndarray
    """(images,): mean excess over the logarithm of the size."""


def compare(
    bundle: ModelBundle, pairs: FooledPairs, rankings: Sequence[Ranking], counts: tuple[int, ...], progress: Progress
) -> RankingTable:
    """Return rankings beside each other, each with the layer-matched control of its own sets.

    Judged by the largest excess over the sizes: a ranking is of use at the size where it says most about which maps they
    are, and a better one may say it at another size. Every resample of its interval has its own best size, and two rankings
    are compared on the same resamples of the images. The area under the excess, over the logarithm of the size, tells the
    same of all sizes at once; it depends on which sizes are tried.
    """
    results: list[Beyond] = []
    sources: dict[str, tuple[PerMap, PerMap | None]] = {}
    for done, ranking in enumerate(rankings):
        progress(done, ranking.text)
        if ranking.source not in sources:
            sources[ranking.source] = scores_of(bundle, ranking.source, pairs)
        results.append(_beyond(bundle, pairs, ranking, sources[ranking.source], counts))
    standard = next((item for item in results if item.row.ranking == STANDOUT), None)
    rows = tuple(item.row if item is standard or standard is None else _behind(standard, item) for item in results)
    progress(len(rankings), "random channels")
    generator = torch.Generator().manual_seed(0)
    drawn = [
        scorers.at_random(bundle, pairs.images.count, count, generator)
        for count in counts
        for _ in range(_draws(bundle))
    ]
    return RankingTable(rows, _by_size(_restored(bundle, pairs, drawn), counts), _draws(bundle))


def _beyond(
    bundle: ModelBundle,
    pairs: FooledPairs,
    ranking: Ranking,
    scores: tuple[PerMap, PerMap | None],
    counts: tuple[int, ...],
) -> Beyond:
    own, aimed = scores
    if ranking.is_by_layer:
        own, aimed = standing_out(own), None if aimed is None else standing_out(aimed)
    chosen = [scorers.largest(bundle, own, count) for count in counts]
    forced = [] if aimed is None else [scorers.largest(bundle, aimed, count) for count in counts]
    generator = torch.Generator().manual_seed(0)
    matched = [controls.layer_matched(one, generator) for one in chosen for _ in range(_draws(bundle))]
    restored, at_random = _restored(bundle, pairs, [*chosen, *matched]).split([len(chosen), len(matched)])
    wrong, noisy, swap = _controlled(bundle, pairs, chosen, forced)
    excess = restored.double() - at_random.view(len(counts), -1, len(restored[0])).double().mean(dim=1)
    per_image = excess.cpu().numpy()
    area = log_weights(counts) @ per_image
    row = RankingRow(
        ranking=ranking,
        restored=_shares_of(restored),
        layer_matched=_by_size(at_random, counts),
        excess=tuple(statistics.mean(size) for size in per_image),
        wrong_class=wrong,
        noisy_copy=noisy,
        swap=swap,
        largest=statistics.largest_mean(per_image),
        largest_at=counts[int(per_image.mean(axis=1).argmax())],
        area=statistics.mean(area),
    )
    return Beyond(row, per_image, area)


def log_weights(counts: Sequence[int]) -> np.ndarray:
    """Return (sizes,) weights of the trapezoid rule over the logarithm of the size, in sum one."""
    if len(counts) == 1:
        return np.ones(1)
    gaps = np.diff(np.log(counts))
    weights = np.append(gaps, 0.0) + np.append(0.0, gaps)
    return weights / weights.sum()


def _behind(standard: Beyond, other: Beyond) -> RankingRow:
    largest = statistics.largest_mean_difference(standard.excess, other.excess)
    return replace(other.row, behind=largest, area_behind=statistics.mean(standard.area - other.area))


def _restored(bundle: ModelBundle, pairs: FooledPairs, choices: Sequence[PerMap]) -> Tensor:
    """(choices, images) bool: whether the chosen clean maps give the clean label."""
    return moved_labels(bundle, pairs.images.adversarial, pairs.images.clean, choices) == pairs.images.before


def _by_size(hits: Tensor, counts: tuple[int, ...]) -> Estimates:
    """Shares of (sizes * draws, images) hits, by size."""
    return tuple(patch.share(size) for size in hits.view(len(counts), -1, hits.shape[1]))


def _draws(bundle: ModelBundle) -> int:
    return FEW_DRAWS if min(bundle.size) >= LARGE else DRAWS
