"""What stands around the river: the certificate, the table and its file, the inputs, the menus."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import engine
from dashboard import ids, links, progress, strengths
from dashboard.links import ViewState
from dashboard.panels import faithfulness, inputs
from dashboard.panels.network import model as network
from dashboard.panels.network import verdict
from dashboard.panels.network import view as network_view
from engine import (
    Answer,
    BadInput,
    DatapathChecks,
    Estimate,
    ExplanationRequest,
    Faithfulness,
    GroupDatapath,
    Groups,
    HeldOut,
    LayerShare,
    Localisation,
    Prediction,
    Restoration,
    SettingCard,
    WorkFailed,
    compare,
    statistics,  # fmt: skip
)
from engine.specs import catalogue
from engine.specs.methods import STANDOUT
from tests import fakes
from tests.fakes import FakeAuditor

REQUEST = ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), ("00004",))
ASK = {
    "request": engine.flatten(REQUEST).value,
    "key": "fake00004",
    "share": 0.3,
    "detail": "blocks",
    "theme": "light",
    "arrived": [],
}


@pytest.fixture(scope="module")
def explanation():
    return fakes.explanation(REQUEST)


def test_a_check_that_was_not_run_never_reads_as_passed(explanation):
    card = faithfulness.build_card(explanation, Faithfulness())
    for check in card.checks[1:]:
        assert (check.clean, check.adversarial) == ("not run", "not run")
    assert card.restored == ()
    assert "Not run yet" in card.restoration_note


def test_every_number_of_a_faithfulness_stands_on_the_card(explanation):
    one = DatapathChecks(16, 0.01, 0.10, 0.02, 0.95, 0.03, 0.61, 0.81, 0.85, 0.12)
    card = faithfulness.build_card(explanation, Faithfulness(clean=one))
    shown = [check.clean for check in card.checks]
    assert shown == ["16 channels", "1 % to 10 %", "2 %", "95 %", "3 %", "0.61", "0.81", "0.85", "0.12"]
    assert all(check.good and check.help for check in card.checks)


def test_where_the_class_was_kept_the_card_shows_no_restoration(explanation):
    kept = replace(explanation, adversarial=replace(explanation.adversarial, target=explanation.clean.target))
    known = Faithfulness(restoration=Restoration((4,), (1.0,), (1.0,), 4))
    assert faithfulness.build_card(explanation, known).restored
    card = faithfulness.build_card(kept, known)
    assert card.restored == ()
    assert "nothing to restore" in card.restoration_note


@pytest.mark.parametrize(
    ("baseline", "good"), [("references", "near 100 %"), ("blur", "near 100 %"), ("zero", "near 0")]
)
def test_the_swap_control_says_which_way_is_good_for_its_baseline(explanation, baseline, good):
    found = replace(explanation, clean=replace(explanation.clean, baseline=baseline))
    swap = next(
        check for check in faithfulness.build_card(found, Faithfulness()).checks if check.name == "Cross-image control"
    )
    assert swap.good == good


def test_a_check_that_means_nothing_for_the_method_says_so(explanation):
    one = DatapathChecks(not_applicable=("wrong_class",))
    wrong = next(
        c for c in faithfulness.build_card(explanation, Faithfulness(clean=one)).checks if c.name == "Wrong class"
    )
    assert (wrong.clean, wrong.adversarial) == ("not applicable", "not run")


def grouped(name, sites, excess):
    """A group whose held-out images follow it from 16 maps on, with some maps that exceed the mean over classes."""
    specific = [np.full(site.channels, -0.1) for site in sites]
    for (site, channel), value in excess.items():
        specific[site][channel] = value
    held = HeldOut(8, 4, (4, 16, 32), (0.0, 0.75, 1.0), (0.0, 0.41, 0.68), (0.32, 0.93, 1.0), (0.0, 0.1, 0.2))
    return GroupDatapath(name, engine.method("two-run"), 8, tuple(specific), tuple(specific), held)


def test_a_group_is_held_to_its_held_out_images_and_its_special_maps_are_named():
    found = fakes.explanation(replace(REQUEST, samples=("00004", "00014")))
    made = (
        grouped("clean", found.sites, {(0, 1): 5.0, (1, 3): 0.2, (2, 7): 0.9}),
        grouped("adversarial", found.sites, {}),
    )
    lost = replace(found, adversarial=replace(found.adversarial, carries_at=None))
    held, special = faithfulness.build_card(lost, Faithfulness(groups=Groups(made, (0, 1)))).checks[-2:]
    assert (held.name, held.clean) == ("Held-out images", "75 % of 8 [41 %, 93 %] with 16 channels (random 10 %)")
    assert held.adversarial == "100 % of 8 [68 %, 100 %] with 32 channels (random 20 %)"
    # The stem is left out of claims, however much it exceeds.
    assert special.clean == f"{found.sites[2].name} channel 7, {found.sites[1].name} channel 3"
    assert special.adversarial == "none"


def test_of_a_group_what_was_not_held_out_reads_not_run_and_of_a_pair_it_is_no_question(explanation):
    group = fakes.explanation(replace(REQUEST, samples=("00004", "00014")))
    for known in (Faithfulness(), Faithfulness(groups=Groups((), ()))):
        checks = faithfulness.build_card(group, known).checks
        assert [(c.clean, c.adversarial) for c in checks if c.name == "Held-out images"] == [("not run", "not run")]
    assert "Held-out images" not in [c.name for c in faithfulness.build_card(explanation, Faithfulness()).checks]


@pytest.mark.parametrize(
    ("baseline", "swap", "is_told"), [("zero", 0.9, True), ("zero", 0.1, False), ("references", 0.9, False)]
)
def test_a_mask_that_gives_its_class_to_other_images_is_said_to_carry_the_label(explanation, baseline, swap, is_told):
    found = replace(explanation, clean=replace(explanation.clean, baseline=baseline))
    card = faithfulness.build_card(found, Faithfulness(clean=DatapathChecks(swap=swap)))
    assert [("clean mask gives 90 %" in text, "not the image" in text) for text in card.warnings] == [
        (True, True)
    ] * is_told


def test_a_label_that_no_number_of_maps_carries_is_said_not_to(explanation):
    path = replace(explanation.clean, carries_at=None)
    card = faithfulness.build_card(replace(explanation, clean=path), Faithfulness())
    assert card.checks[0].clean == "not with 32 channels"


def test_restoration_is_told_beside_random_maps_and_failures_are_listed(explanation):
    excess = Estimate(0.5, 0.2, 0.8, 20), Estimate(0.9, 0.7, 1.0, 20)
    known = Faithfulness(
        restoration=Restoration((4, 8), (0.5, 1.0), (0.0, 0.1), 8, 20, STANDOUT, (0.0, 0.1), excess),
        failed=("Class similarity: no result.",),
    )
    known = replace(known, unavailable=("No other image of this class.",))
    card = faithfulness.build_card(explanation, known)
    assert [(row.maps, row.by_flow, row.at_random) for row in card.restored] == [
        (4, "50 %", "0 %"),
        (8, "100 %", "10 %"),
    ]
    assert card.best == 8
    assert card.failures == ("Not finished: Class similarity: no result.", "No other image of this class.")


def test_the_rows_hold_every_site_and_its_exact_counts(explanation):
    comparison = compare(explanation, 0.3)
    rows = network.site_rows(explanation, comparison)
    assert [row.site for row in rows] == [site.name for site in explanation.sites]
    assert [row.shared for row in rows] == [len(site.shared) for site in comparison.sites]


def test_the_strip_shows_before_and_after_and_leaves_unknown_shares_open(explanation):
    outcome = replace(
        explanation.outcomes[0],
        before=Prediction(4, 0.9, ((4, 0.9), (1, 0.1))),
        after=Prediction(7, 0.8, ((7, 0.8), (4, 0.2))),
    )
    strip = inputs.build(replace(explanation, outcomes=(outcome,)), 12)
    assert [(bar.name, bar.before, bar.after, bar.is_true) for bar in strip.bars] == [
        ("4", 0.9, 0.2, True),
        ("7", None, 0.8, False),
        ("1", 0.1, None, False),
    ]
    assert strip.clean == "/media/examination/fake00004/0/clean.png"
    assert strip.amplification == 12
    assert strip.members == ()


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        ("pgd-linf", "L∞ 12.8/255 · L2 1.2"),
        ("pgd-l1", "L1 11.5 · L2 1.2"),
        ("patch", "5 % of the area · L2 1.2"),
    ],
)
def test_the_strip_tells_the_change_in_the_norm_that_the_attack_is_held_to(explanation, attack, text):
    outcome = replace(explanation.outcomes[0], l1=11.5, area=0.05)
    request = replace(explanation.request, attack=engine.attack(attack))
    assert inputs.build(replace(explanation, outcomes=(outcome,), request=request), 12).change == text


def test_a_group_offers_each_of_its_images():
    found = fakes.explanation(replace(REQUEST, samples=("00004", "00005")))
    strip = inputs.build(found, 1)
    assert [member.sample for member in strip.members] == ["00004", "00005"]
    assert strip.members[1].picture.endswith("/1/adversarial.png")


def test_strengths_stay_within_the_attack_and_hold_the_default_and_the_shown_one():
    found = links.resolve(ViewState(epsilon="3/255"), FakeAuditor())
    offered = [option["value"] for option in progress.build(found)["epsilon"].options]
    assert "0.05" in offered
    assert offered.index("2/255") < offered.index("3/255") < offered.index("4/255")
    card = SettingCard("epsilon", "0.5", 0.0, 0.6, "", unit="1/255")
    small = replace(found, attack=replace(found.attack, settings=(card,)))
    assert all(strengths.strength(option["value"]) <= 0.6 for option in progress.build(small)["epsilon"].options)


def test_a_length_is_offered_where_the_strength_is_a_length():
    found = links.resolve(ViewState(), FakeAuditor())
    card = SettingCard("epsilon", "0.5", 0.0, 50.0, "")
    attack = replace(found.attack, settings=(card,))
    assert progress.scales((attack,)) == {"pgd-linf": "length"}
    offered = progress.build(replace(found, attack=attack, view=replace(found.view, epsilon="0.5")))["epsilon"].options
    assert [option["value"] for option in offered] == list(strengths.LENGTH_STRENGTHS)


def test_a_sum_of_changes_is_offered_where_the_strength_is_one():
    found = links.resolve(ViewState(), FakeAuditor())
    (card,) = [card for card in catalogue.cards() if card.name == "pgd-l1"]
    assert progress.scales((card,)) == {"pgd-l1": "sum"}
    offered = progress.build(replace(found, attack=card, view=replace(found.view, epsilon="12")))["epsilon"].options
    assert [option["value"] for option in offered] == list(strengths.SUM_STRENGTHS)


def test_a_share_of_the_area_is_offered_and_read_as_such():
    found = links.resolve(ViewState(), FakeAuditor())
    card = SettingCard("epsilon", "0.05", 0.0, 0.5, "", unit="area")
    attack = replace(found.attack, settings=(card,))
    assert progress.scales((attack,)) == {"pgd-linf": "area"}
    shown = replace(found, attack=attack, view=replace(found.view, epsilon="1/32"))
    labels = {option["value"]: option["label"] for option in progress.build(shown)["epsilon"].options}
    assert (labels["0.05"], labels["1/32"]) == ("5 % of the area", "3.125 % of the area")
    assert links.rivals(shown)["pgd-linf@0.1"] == "PGD 10 % of the area"
    assert not any(name.startswith("fgsm") for name in links.rivals(shown)), "the others' strength is that of a pixel"


def test_every_menu_offers_the_value_it_shows():
    found = links.resolve(ViewState(sample="group", layer="layer1.0"), FakeAuditor())
    for menu in progress.build(found).values():
        flat = [item for option in menu.options for item in option.get("items", [option])]
        assert menu.value in [item["value"] for item in flat]


def test_noise_controls_are_offered_as_such():
    found = links.resolve(ViewState(), FakeAuditor())
    attacks = (found.attacks[0], replace(found.attacks[1], is_control=True))
    groups = progress.build(replace(found, attacks=attacks))["attack"].options
    assert [group["group"] for group in groups] == ["Attacks", "Noise controls"]


def test_the_facts_are_plain_json_and_name_the_same_explanation():
    told = network_view.facts(network_view.read(ASK, FakeAuditor()))
    json.dumps(told)
    assert told["key"] == "fake00004"
    assert len(told["sites"]) == len(fakes.SITES)


def test_what_must_be_known_of_the_drawing_is_told():
    note = network_view.facts(network_view.read(ASK, FakeAuditor()))["note"]
    assert "the faithfulness checks of the adversarial datapath are not in" in note
    hiding = network.River((), (), (), 3, ())
    assert network_view.river_note(hiding, Faithfulness(done=("clean", "adversarial"))) == (
        "3 weak connections (under 0.5 %) are not drawn."
    )


def note_of(explanation, detail="blocks", folded=frozenset()):
    drawn = network.build_river(explanation, compare(explanation, 0.3), detail, folded)
    return drawn, network_view.river_note(drawn, Faithfulness(done=("clean", "adversarial")))


def test_the_note_counts_the_connections_that_are_not_exact_and_says_why(explanation):
    drawn, note = note_of(fakes.gated(explanation, 12))
    count = sum(bool(band.inexact) for band in drawn.bands)
    assert 1 < count < len(drawn.bands)
    assert note.startswith(
        f"{count} of {len(drawn.bands)} connections are not exact (dotted outlines): a channel counts with what the gate gate12 "
        "read of others."
    )
    assert "not exact" not in note_of(explanation)[1]


def test_the_note_names_one_of_several_reasons(explanation):
    _, note = note_of(fakes.gated(explanation, 4, 8))
    assert "for example, a channel counts with what the gate gate4 read of others; point at one to read why." in note
    assert "gate8" not in note


@pytest.mark.parametrize("request_", [None, "x", {}, {"samples": []}, {**ASK["request"], "more": 1}])
def test_a_malformed_ask_is_refused_in_words(request_):
    with pytest.raises(BadInput, match="reload"):
        network_view.read({**ASK, "request": request_}, FakeAuditor())


def test_an_ask_before_its_explanation_is_refused_in_words():
    class Late(FakeAuditor):
        def explanation(self, request):
            return Answer("working", None, 0, len(request.samples), "Examining")

    with pytest.raises(WorkFailed, match="Examining"):
        network_view.read(ASK, Late())


def test_ids_are_unique():
    names = [value for name, value in vars(ids).items() if name.isupper()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("versus", ["class", "noise"])
def test_a_group_is_drawn_beside_in_the_clean_runs_place(versus):
    shown = network_view.read({**ASK, "versus": versus}, FakeAuditor())
    rival = shown.rival
    strengths = {"class": shown.faithfulness_checks.classes.fooled, "noise": None}[versus]
    kept = statistics.per_site(rival.explanation.clean.strength, 0.3)
    if strengths is not None:
        assert all(np.array_equal(a, b) for a, b in zip(kept, statistics.per_site(strengths, 0.3), strict=True))
    for site, sets in zip(kept, rival.comparison.sites, strict=True):
        assert set(site) == set(sets.clean_only) | set(sets.shared)
    own = [set(sets.adversarial_only) | set(sets.shared) for sets in shown.comparison.sites]
    assert own == [set(sets.adversarial_only) | set(sets.shared) for sets in rival.comparison.sites]
    told = network_view.facts(shown)["beside"]
    assert "they share" in told
    assert ("class" in told) is (versus == "class")
    assert any("Compared with:" in text.text for text in network_view.draw(shown).layout.annotations)


def test_a_class_that_is_not_yet_compared_is_said_so_and_nothing_is_drawn_beside():
    class Early(FakeAuditor):
        def faithfulness_checks(self, request):
            return Answer("working", Faithfulness())

    shown = network_view.read({**ASK, "versus": "class"}, Early())
    assert shown.rival is None
    assert "not available yet" in network_view.facts(shown)["beside"]


def test_checks_on_the_wrong_side_are_marked_and_told_beside_the_headline(explanation):
    good = DatapathChecks(wrong_class=0.0, swap=1.0, noisy_copy=0.0, random_low=0.0, random_high=0.0)
    assert faithfulness.against(explanation, Faithfulness(clean=good, adversarial=good)) == ()
    bad = replace(good, wrong_class=1.0, swap=0.0)
    known = Faithfulness(clean=good, adversarial=bad)
    (clause,) = faithfulness.against(explanation, known)
    assert clause.text == (
        "Checks speak against the datapaths: wrong class 100 % (adversarial; good is near 0), "
        "cross-image control 0 % (adversarial; good is near 100 %)."
    )
    assert clause.state == "refuted"
    cells = {
        check.name: (check.clean, check.adversarial) for check in faithfulness.build_card(explanation, known).checks
    }
    assert cells["Wrong class"] == ("0 %", "✘ 100 %")
    assert cells["Cross-image control"] == ("100 %", "✘ 0 %")


def test_four_trials_that_cannot_decide_are_neither_for_nor_against(explanation):
    assert len(explanation.references) == 4
    few = DatapathChecks(wrong_class=0.25, swap=0.75)
    card = faithfulness.build_card(explanation, Faithfulness(clean=few, adversarial=few))
    cells = {check.name: check.clean for check in card.checks}
    assert (cells["Wrong class"], cells["Cross-image control"]) == ("? 25 %", "? 75 %")
    assert faithfulness.against(explanation, Faithfulness(clean=few, adversarial=few)) == ()
    assert "?: too few trials to tell" in card.counted


def test_the_card_says_how_many_trials_its_shares_are_of(explanation):
    card = faithfulness.build_card(explanation, Faithfulness(restoration=Restoration((4,), (1.0,), (0.0,), 4, 20)))
    references = len(explanation.references)
    assert f"{references} trials (1 image in {references} other runs)" in card.counted
    assert "20 draws for each image" in card.counted


GOOD = DatapathChecks(wrong_class=0.25, swap=0.75, noisy_copy=0.0, random_low=0.0, random_high=0.1)
RESTORED = Restoration((4,), (1.0,), (0.0,), 4, 20, STANDOUT, (0.0,), (Estimate(1.0, 0.84, 1.0, 20),), 1 / 21)
FEW, MANY = Estimate(0.25, 0.25, 0.25, 1), Estimate(0.75, 0.6, 0.9, 8)
SHARP = Localisation((LayerShare("layer1.0", 16, 16, FEW, MANY, 0.001),), 16, 8)
FLAT = Localisation((LayerShare("layer1.0", 16, 16, MANY, MANY, 0.5),), 16, 8)


def verdict_of(explanation, known):
    return verdict.verdict(explanation, compare(explanation, 0.3), known)


DECIDED = ("clean", "adversarial", "restoration", "localisation")


def test_nothing_is_advised_before_the_checks_that_decide_are_in(explanation):
    assert verdict_of(explanation, Faithfulness(done=DECIDED[:-1])).step is None


def test_what_is_doubtful_comes_before_more_images(explanation):
    bad = replace(GOOD, wrong_class=1.0)
    known = Faithfulness(clean=GOOD, adversarial=bad, restoration=RESTORED, done=DECIDED)
    assert verdict_of(explanation, known).step.pick == {"drawer": "checks"}
    known = Faithfulness(clean=GOOD, adversarial=GOOD, restoration=RESTORED, done=DECIDED)
    target = explanation.classes[explanation.adversarial.target]
    assert verdict_of(explanation, known).step.pick == {"sample": f"into:{target}"}


def test_a_resisting_image_leads_to_a_fooled_one(explanation):
    kept = replace(explanation, adversarial=replace(explanation.adversarial, target=explanation.clean.target))
    assert verdict_of(kept, Faithfulness()).step.pick["outcome"] == "fooled"


def test_every_field_of_a_next_step_is_one_of_the_view(explanation):
    known = Faithfulness(clean=GOOD, adversarial=GOOD, restoration=RESTORED, done=DECIDED)
    several = replace(explanation, outcomes=explanation.outcomes * 2)
    claims = verdict_of(explanation, known).claims
    steps = [
        verdict.next_step(several, known, claims, 0),
        verdict.next_step(several, known, (claims[0], replace(claims[1], state="refuted"), claims[2]), 0),
        verdict.next_step(several, known, (claims[0], claims[1], replace(claims[2], state="open")), 0),
    ]
    assert [set(step.pick) for step in steps] == [{"page"}, {"lane"}, {"drawer", "study"}]
    for step in steps:
        view = ViewState.from_dict(step.pick)
        assert {name: getattr(view, name) for name in step.pick} == step.pick


@pytest.mark.parametrize(
    ("known", "where", "restores"),
    [
        (Faithfulness(), "open", "open"),
        (Faithfulness(restoration=RESTORED, localisation=SHARP), "held", "held"),
        (Faithfulness(localisation=FLAT), "refuted", "open"),
        (
            Faithfulness(restoration=replace(RESTORED, excess=(Estimate(0.0, 0.0, 0.2, 20),), p_value=1.0)),
            "open",
            "refuted",
        ),
    ],
)
def test_only_what_is_checked_and_not_refuted_stands_as_a_claim(explanation, known, where, restores):
    states = [claim.state for claim in verdict_of(explanation, known).claims]
    assert states == ["fact", where, restores]


def test_where_the_class_was_kept_the_verdict_claims_nothing_of_restoring(explanation):
    kept = replace(explanation, adversarial=replace(explanation.adversarial, target=explanation.clean.target))
    assert verdict_of(kept, Faithfulness()).claims[2].state == "fact"


def test_the_verdict_counts_only_checks_that_can_fail(explanation):
    nothing = verdict_of(explanation, Faithfulness())
    assert (nothing.held, nothing.failed) == (0, 0)
    bad = replace(GOOD, wrong_class=1.0)
    mixed = verdict_of(explanation, Faithfulness(clean=GOOD, adversarial=bad))
    assert mixed.failed == 1
    assert mixed.held + mixed.failed + mixed.undecided == nothing.undecided
    assert "wrong class 100 %" in mixed.against


@pytest.mark.parametrize(("room", "height"), [(None, 340), (True, 340), (10, 176), (252, 252), (10**6, 900)])
def test_the_river_is_as_high_as_the_page_has_room_within_reason(room, height):
    assert network_view.read({**ASK, "room": room}, FakeAuditor()).height == height


def test_the_layer_to_look_at_first_has_a_column_of_its_own(explanation):
    inner = next(site.name for site in explanation.sites if site.role == "inner")
    first = progress.default_layer(explanation, inner, "blocks")
    assert first in [
        column.name for column in network.build_river(explanation, compare(explanation, 0.3), "blocks").columns
    ]
    assert progress.default_layer(explanation, inner, "sites") == inner


def test_a_link_value_that_cannot_be_used_is_named():
    work = progress.look({"channel": "9999", "theme": "pink", "study": "zzz"}, FakeAuditor())
    told = " ".join(work.notices)
    assert "channel 9999" in told
    assert "theme 'pink'" in told
    assert "study 'zzz'" in told


def test_what_the_evidence_was_made_from_is_told_beside_it():
    work = progress.look({}, FakeAuditor())
    told = dict(work.evidence)
    assert told["Evidence"] == work.key
    assert "digits-standard" * 4 in told["Model"]
    assert "abcd" in told["Data"]
    assert told["Attack"] == "pgd-linf:eps=12.75/255,steps=10"
    assert told["Seed"] == "0"
    assert all(name in told["Versions"] for name in (f"faultline {engine.__version__}", "numpy"))
    assert progress.look({"outcome": "resisted", "label": "1"}, FakeAuditor()).evidence == ()
