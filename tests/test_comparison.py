"""Where datapaths part: planted answers, the corrected test, and the sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import comparison, selection
from engine.records import ClassDatapaths, ExaminationRequest
from tests import fakes


def examination(images: int, parting: int, *, seed: int = 0, noise: float = 0.02):
    """Datapaths that are the same up to small noise before site `parting` and unrelated from there on."""
    rng = np.random.default_rng(seed)
    samples = tuple(f"{k:05d}" for k in range(images))
    made = fakes.examination(ExaminationRequest("digits-standard", "digits", "pgd-linf:eps=0.05", samples))
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
    found = comparison.compare(examination(images, parting=5), 0.2)
    assert found.parts_at == found.sites[5].site
    assert found.images == images


@pytest.mark.parametrize("images", [1, 12, 30])
def test_datapaths_that_only_noise_moves_do_not_part(images):
    assert comparison.compare(examination(images, parting=99), 0.2).parts_at is None


def test_a_few_images_are_too_few_to_tell():
    found = comparison.compare(examination(4, parting=0), 0.2)
    assert min(site.p_value for site in found.sites) > comparison.LEVEL
    assert found.parts_at is None


def test_intervals_hold_the_mean_and_shrink_with_more_images():
    few, many = (comparison.compare(examination(n, parting=3), 0.2).sites[8] for n in (4, 64))
    for site in (few, many):
        assert site.distance_low <= site.distance <= site.distance_high
    assert many.distance_high - many.distance_low < few.distance_high - few.distance_low


def test_a_single_pair_has_no_interval_and_no_p_value():
    site = comparison.compare(examination(1, parting=3), 0.2).sites[8]
    assert (site.distance_low, site.distance_high, site.p_value) == (site.distance, site.distance, None)


def test_the_sets_are_what_the_slow_way_gives():
    made = examination(6, parting=2)
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


def test_holm_is_the_textbook_procedure():
    assert comparison.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_permutation_test_agrees_with_scipys():
    from scipy import stats

    made = examination(8, parting=4, noise=0.3)
    distances = comparison._distances(made, 0.2)
    excess = distances.attacked - distances.noise.mean(axis=1)
    slow = [
        stats.permutation_test(
            (e,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
        ).pvalue
        for e in excess.T
    ]
    assert comparison._excess(distances) == pytest.approx(comparison.holm(np.array(slow)))


def test_jaccard_of_nothing_with_nothing_is_one():
    assert selection.jaccard(np.array([]), np.array([])) == 1.0
    assert selection.jaccard(np.array([1, 2]), np.array([2, 3])) == pytest.approx(1 / 3)
