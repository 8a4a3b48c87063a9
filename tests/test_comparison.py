"""Where datapaths part: planted answers, the corrected test, and the sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import engine
from engine import statistics
from engine.attribution import comparison
from engine.types.core import ExplanationRequest
from engine.types.faithfulness import ClassDatapaths, SiteSpan
from tests import fakes


def explanation(images: int, parting: int, *, seed: int = 0, noise: float = 0.02):
    """Datapaths that are the same up to small noise before site `parting` and unrelated from there on."""
    rng = np.random.default_rng(seed)
    samples = tuple(f"{k:05d}" for k in range(images))
    made = fakes.explanation(
        ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), samples)
    )
    base = [rng.exponential(size=(images, site.channels)) for site in made.sites]

    def scores(rows, drift):
        shaken = [b.repeat(rows, axis=0) * rng.normal(1, noise, size=(images * rows, b.shape[1])) for b in base]
        fresh = [rng.exponential(size=b.shape) for b in shaken]
        return tuple(
            (f if drift and k >= parting else s).astype("f4")
            for k, (s, f) in enumerate(zip(shaken, fresh, strict=True))
        )

    draws = 4
    return replace(
        made,
        clean=replace(made.clean, scores=scores(1, drift=False)),
        adversarial=replace(made.adversarial, scores=scores(1, drift=True)),
        noise=replace(made.noise, scores=scores(draws, drift=False)),
    )


@pytest.mark.parametrize("images", [1, 12, 30])
def test_datapaths_part_where_it_was_planted(images):
    found = comparison.compare(explanation(images, parting=5), 0.2)
    assert found.diverges_at == found.sites[5].site
    assert found.images == images


@pytest.mark.parametrize("images", [1, 12])
def test_the_stem_of_which_nothing_may_be_claimed_is_not_where_they_part(images):
    made = explanation(images, parting=0)
    found = comparison.compare(made, 0.2)
    assert not made.sites[0].is_eligible
    assert found.sites[0].distance > found.sites[0].floor_high
    assert found.diverges_at == found.diverges_from == found.sites[1].site
    assert found.divergence_span is None or found.divergence_span.first == found.sites[1].site


@pytest.mark.parametrize("images", [1, 12])
def test_datapaths_that_meet_again_part_but_not_for_good(images):
    made = explanation(images, parting=5)
    assert comparison.compare(made, 0.2).diverges_from == made.sites[5].name
    together = [
        own if k > 8 else other
        for k, (own, other) in enumerate(zip(made.clean.scores, made.adversarial.scores, strict=True))
    ]
    found = comparison.compare(replace(made, adversarial=replace(made.adversarial, scores=tuple(together))), 0.2)
    assert (found.diverges_at, found.diverges_from) == (made.sites[5].name, None)


@pytest.mark.parametrize("images", [1, 12, 30])
def test_datapaths_that_only_noise_moves_do_not_part(images):
    assert comparison.compare(explanation(images, parting=99), 0.2).diverges_at is None


def test_a_few_images_are_too_few_to_tell():
    found = comparison.compare(explanation(4, parting=0), 0.2)
    assert min(site.p_value for site in found.sites) > comparison.LEVEL
    assert found.diverges_at is None


def test_intervals_hold_the_mean_and_shrink_with_more_images():
    few, many = (comparison.compare(explanation(n, parting=3), 0.2).sites[8] for n in (4, 64))
    for site in (few, many):
        assert site.distance_low <= site.distance <= site.distance_high
    assert many.distance_high - many.distance_low < few.distance_high - few.distance_low


def test_a_single_pair_has_no_interval_and_no_p_value():
    site = comparison.compare(explanation(1, parting=3), 0.2).sites[8]
    assert (site.distance_low, site.distance_high, site.p_value) == (site.distance, site.distance, None)


@pytest.mark.parametrize("images", [12, 30])
def test_a_planted_parting_lies_in_its_span_and_the_span_grows_with_noise(images):
    quiet, loud = (comparison.compare(explanation(images, parting=5, noise=noise), 0.2) for noise in (0.02, 0.6))
    names = [site.site for site in quiet.sites]
    assert names.index(quiet.divergence_span.first) <= 5 <= names.index(quiet.divergence_span.last)
    assert quiet.divergence_span.share > 0.9

    def width(span):
        return (len(names) if span.last is None else names.index(span.last)) - names.index(span.first)

    assert loud.divergence_span is None or width(loud.divergence_span) > width(quiet.divergence_span)


@pytest.mark.parametrize(("images", "parting"), [(1, 5), (4, 0)], ids=["one pair", "too few images"])
def test_of_too_few_images_there_is_no_span(images, parting):
    assert comparison.compare(explanation(images, parting=parting), 0.2).divergence_span is None


@pytest.mark.parametrize("seed", range(4))
def test_what_only_noise_moves_parts_in_few_resamples(seed):
    found = comparison.compare(explanation(12, parting=99, seed=seed), 0.2)
    assert found.diverges_at is None
    assert found.divergence_span is None or (found.divergence_span.last is None and found.divergence_span.share < 0.2)


def test_the_resampled_rule_applied_to_the_sample_itself_is_the_rule(monkeypatch):
    """One "resample" that holds every image once must say what `parts_at` says, of whatever strength the parting is."""
    monkeypatch.setattr(comparison, "_weights", lambda images, draws: np.full((1, images), 1 / images))
    told = []
    for seed in range(12):
        found = comparison.compare(explanation(5 + seed, parting=4, noise=0.2 + 0.2 * seed, seed=seed), 0.2)
        assert (found.divergence_span.first if found.divergence_span else None) == found.diverges_at
        told.append(found.diverges_at)
    assert None in told and len(set(told)) > 1


def test_a_span_without_an_end_says_so():
    assert comparison.span(np.array([2] * 60 + [5] * 40), "abcde") == SiteSpan("c", None, 0.6)
    assert comparison.span(np.array([1] * 50 + [3] * 50), "abcde") == SiteSpan("b", "d", 1.0)
    assert comparison.span(np.full(100, 5), "abcde") is None


def test_merging_counts_from_the_end_like_a_loop():
    rows = np.random.default_rng(0).integers(0, 2, size=(50, 6)).astype(bool)
    for row, place in zip(rows, comparison.converges_at(rows), strict=True):
        first = len(row)
        while first and row[first - 1]:
            first -= 1
        assert place == first


def test_a_merging_that_every_image_shares_has_no_width_and_one_that_few_share_has():
    true, fooled = [np.arange(3)] * 6, [np.arange(3, 6)] * 6
    own, other = np.array([3.0, 2, 1, 0, 0, 0]), np.array([0, 0, 0, 3.0, 2, 1])
    alike = [np.stack([own if k < 4 else other] * 10) for k in range(6)]
    options = {"share": 0.5, "names": "abcdef"}
    assert comparison.convergence_span(alike, true, fooled, **options) == SiteSpan("e", "e", 1.0)
    mixed = [*alike[:3], np.stack([other] * 6 + [own] * 4), *alike[4:]]
    found = comparison.convergence_span(mixed, true, fooled, **options)
    assert (found.first, found.last) == ("d", "e")
    assert comparison.convergence_span([site[:1] for site in alike], true, fooled, **options) is None


def test_the_sets_are_what_the_slow_way_gives():
    made = explanation(6, parting=2)
    rng = np.random.default_rng(3)
    classes = ClassDatapaths(made.clean.strength, tuple(rng.exponential(size=site.channels) for site in made.sites))
    found = comparison.compare(made, 0.3, classes)
    for k, site in enumerate(found.sites):
        count = max(1, round(made.sites[k].channels * 0.3))
        clean, adversarial, noise, target = (
            set(np.argsort(-strength[k], kind="stable")[:count].tolist())
            for strength in (made.clean.strength, made.adversarial.strength, made.noise.strength, classes.fooled)
        )
        assert set(site.clean_only) == clean - adversarial
        assert set(site.shared) == clean & adversarial
        assert set(site.adversarial_only) == adversarial - clean
        assert set(site.target_only) == target - clean - adversarial
        assert set(site.noise_also) == (adversarial - clean) & noise


def test_another_datapath_may_stand_in_the_clean_runs_place():
    made, other = explanation(6, parting=2), explanation(6, parting=2, seed=1).clean
    found = comparison.against(made, other, 0.3)
    assert found == comparison.compare(replace(made, clean=other), 0.3)
    assert found != comparison.compare(made, 0.3)


def test_holm_is_the_textbook_procedure():
    assert comparison.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_permutation_test_agrees_with_scipys():
    from scipy import stats

    made = explanation(8, parting=4, noise=0.3)
    distances = comparison._distances(made, made.clean, 0.2)
    excess = distances.attacked - distances.noise.mean(axis=1)
    slow = [
        stats.permutation_test(
            (e,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
        ).pvalue
        for e in excess.T
    ]
    assert comparison._excess(distances) == pytest.approx(comparison.holm(np.array(slow)))


def test_of_equal_maps_some_are_drawn_and_of_others_none():
    clear, tied = np.arange(20.0), np.array([5.0, 5 * (1 + 1e-6), 5, 5, 5, 9, 1, 0])
    first, second = (statistics.per_site_drawn([clear, tied], 0.5, seed) for seed in (0, 1))
    assert first[0].tolist() == second[0].tolist() == list(range(10, 20))
    draws = {tuple(statistics.per_site_drawn([clear, tied], 0.5, seed)[1].tolist()) for seed in range(40)}
    assert len(draws) > 5
    assert all(5 in kept and len(kept) == 4 and set(kept) <= {0, 1, 2, 3, 4, 5} for kept in draws)


def test_jaccard_of_nothing_with_nothing_is_one():
    assert statistics.jaccard(np.array([]), np.array([])) == 1.0
    assert statistics.jaccard(np.array([1, 2]), np.array([2, 3])) == pytest.approx(1 / 3)
