"""The layer panel: exact groups and counts, an honest title, and errors as text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dashboard import pictures, protocol
from dashboard.panels.layer import model as layer
from dashboard.panels.layer import view as layer_view
from engine import BadInput, ClassDatapaths, SiteComparison, UnknownName, compare
from tests import fakes

KEY = "fake00001"
LAYER = "layer3.1"
REQUEST = {"model": "digits-standard", "data": "digits", "attack": "pgd-linf:eps=0.05", "samples": ["00001"]}
ASK = {"key": KEY, "layer": LAYER, "share": 0.1, "request": REQUEST}


@pytest.fixture(scope="module")
def explanation():
    return fakes.FakeAuditor().explained(KEY)


@pytest.fixture(scope="module")
def panel():
    return layer_view.answer(fakes.FakeAuditor(), ASK)


def test_every_map_of_the_site_has_one_entry(panel):
    lengths = {len(values) for values in (panel.group, panel.clean, panel.adversarial, panel.change, panel.flow)}
    assert lengths == {48}


def test_groups_are_the_sets_of_the_comparison(panel, explanation):
    sets = compare(explanation, 0.1).sites[panel.site]
    members = [tuple(np.flatnonzero(np.array(panel.group) == group)) for group in range(3)]
    assert members == [sets.clean_only, sets.shared, sets.adversarial_only]


def test_counts_add_up_to_all_maps_and_stand_in_the_labels(panel):
    assert sum(panel.counts) == 48
    assert panel.counts[layer.CLEAN_ONLY] + panel.counts[layer.SHARED] == 5
    labels = dict(panel.group_labels)
    assert labels["all"] == "all 48"
    assert labels["adversarial"] == f"A adversarial only {panel.counts[layer.ADVERSARIAL_ONLY]}"


def test_group_filters_and_groups_follow_the_same_order():
    sets = SiteComparison("x", (0,), (1,), (2,), 0.5, 0, 0, 0, 0)
    named = [layer.GROUP_VALUES[group] for group in layer.groups(sets, 4)]
    assert named == ["clean", "shared", "adversarial", "other"]


def test_flow_shares_of_the_last_site_add_up_to_the_whole_margin(explanation):
    assert layer.flow_shares(explanation, len(explanation.sites) - 1).sum() == pytest.approx(1.0, abs=1e-5)


def test_strength_is_written_in_parts_per_million_of_all_sites(panel, explanation):
    total = sum(
        sum(layer_view.answer(fakes.FakeAuditor(), {**ASK, "layer": site.name}).clean) for site in explanation.sites
    )
    assert total == pytest.approx(1_000_000, abs=200)
    assert panel.clean[7] == round(1e6 * float(explanation.clean.strength[panel.site][7]))


def test_the_title_names_layer_maps_and_size(panel):
    assert panel.title == "layer3.1 · 48 feature maps · 8 × 8"


def test_pooling_is_told_only_where_maps_are_larger_than_a_tile(panel):
    assert not panel.is_pooled
    assert layer_view.answer(fakes.FakeAuditor(), {**ASK, "layer": "layer1.0"}).is_pooled


def test_a_site_that_carries_everything_is_flagged():
    assert layer_view.answer(fakes.FakeAuditor(), {**ASK, "layer": "stem"}).is_cut


def test_a_site_whose_maps_are_the_classes_is_flagged(explanation):
    last = replace(explanation.sites[-1], role="evidence")
    changed = replace(explanation, sites=(*explanation.sites[:-1], last))
    panel = layer.build(changed, compare(changed, 0.1), protocol.layer({**ASK, "layer": last.name}))
    assert panel.is_evidence and not panel.is_stem


def test_the_record_names_the_question_it_answers(panel):
    assert (panel.key, panel.layer, panel.share) == (KEY, LAYER, 0.1)


def test_nothing_chosen_says_what_to_do():
    assert layer_view.answer(fakes.FakeAuditor(), None) == layer.empty(layer_view.NOTHING)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layer": "layer9"}, "No layer is called 'layer9'"),
        ({"key": "gone"}, "No examination is called 'gone'"),
        ({"share": 0.99}, "share of kept channels"),
        ({"key": None}, "without a key"),
    ],
)
def test_what_cannot_be_shown_is_said(change, text):
    panel = layer_view.answer(fakes.FakeAuditor(), {**ASK, **change})
    assert text in panel.message
    assert panel.title == ""


def test_unknown_layers_are_refused_by_the_view_model(explanation):
    with pytest.raises(UnknownName):
        layer.site_index(explanation, "layer9")


@pytest.mark.parametrize("channel", [None, -1, 2.0, True, "3"])
def test_a_channel_is_a_whole_number_from_zero(channel):
    with pytest.raises(BadInput, match="whole number from 0"):
        protocol.neuron({**ASK, "channel": channel})


@pytest.mark.parametrize(("channels", "columns"), [(1, 1), (12, 12), (32, 32), (2048, 32)])
def test_sheets_have_at_most_32_tiles_to_a_row(channels, columns):
    assert pictures.columns(channels) == columns


def test_a_layer_of_2048_maps_costs_less_than_80_kilobytes():
    rng = np.random.default_rng(0)
    many = layer.LayerPanel(
        group=tuple(rng.integers(0, 4, 2048).tolist()),
        clean=tuple(rng.integers(0, 9999, 2048).tolist()),
        adversarial=tuple(rng.integers(0, 9999, 2048).tolist()),
        change=tuple(np.round(rng.uniform(0, 2, 2048), 3).tolist()),
        flow=tuple(rng.integers(-9999, 9999, 2048).tolist()),
    )
    assert len(json.dumps(many.to_store(), separators=(",", ":"))) < 80_000


def test_memberships_agree_with_the_groups_and_with_what_noise_brings_in_too(panel, explanation):
    sets = compare(explanation, 0.1).sites[panel.site]
    bits = np.array(panel.member)
    assert tuple(np.flatnonzero((bits & 3) == 1)) == sets.clean_only
    assert tuple(np.flatnonzero((bits & 3) == 3)) == sets.shared
    assert tuple(np.flatnonzero((bits & 3) == 2)) == sets.adversarial_only
    assert tuple(np.flatnonzero((bits & 11) == 10)) == sets.noise_also


def test_the_fooled_into_class_is_a_set_once_its_datapath_is_known(explanation):
    strength = tuple(np.arange(site.channels, dtype=float) for site in explanation.sites)
    classes = ClassDatapaths(strength, strength)
    ask = protocol.layer(ASK)
    without, known = (layer.build(explanation, compare(explanation, 0.1), ask, found) for found in (None, classes))
    assert (without.has_class, known.has_class) == (False, True)
    assert [bool(bits & 4) for bits in known.member] == [False] * 43 + [True] * 5
    assert not any(bits & 4 for bits in without.member)
    outside = [c for c, bits in enumerate(known.member) if bits & 7 == 4]
    assert tuple(outside) == compare(explanation, 0.1, classes).sites[known.site].target_only


def test_an_image_that_kept_its_class_has_no_fooled_into_class():
    resisted = fakes.FakeAuditor().explained("fake00002")
    strength = tuple(np.ones(site.channels) for site in resisted.sites)
    found = layer.build(resisted, compare(resisted, 0.1), protocol.layer(ASK), ClassDatapaths(strength, strength))
    assert not found.has_class
    assert not any(bits & 4 for bits in found.member)


@pytest.mark.parametrize(
    "change", [{"attack": ["x"]}, {"samples": [["00004"]]}, {"seed": "0"}, {"model": None}, {"other": 1}]
)
def test_a_request_of_another_kind_is_refused_where_it_comes_in(change):
    with pytest.raises(BadInput, match="reload"):
        protocol.request({**ASK["request"], **change})
