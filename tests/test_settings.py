"""Settings: what is declared once is checked, printed in the id, read back, and shown in the form."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import parameters
from engine.errors import BadSetting, UnknownName
from engine.specs import catalogue
from engine.specs.catalogue import ATTACKS, MiFgsm, PgdL2, PgdLinf

BUDGETED = sorted(name for name in ATTACKS if ATTACKS[name].epsilon is not None)
TARGETED = ("fgsm-linf", "pgd-linf", "pgd-l2", "pgd-l1", "mifgsm-linf")
names = st.sampled_from(BUDGETED)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (Fraction(8, 255), "8/255"),
        (Fraction(1, 510), "0.5/255"),
        (Fraction(1, 20), "12.75/255"),
        (Fraction(123, 1000), "0.123"),
        (Fraction(1, 3), "85/255"),
        (Fraction(1, 7), "1/7"),
        (Fraction(0), "0/255"),
    ],
)
def test_epsilon_is_printed_in_255_steps_where_that_is_short(epsilon, text):
    assert PgdLinf(epsilon).text == f"pgd-linf:eps={text},steps=10"


def test_an_l2_epsilon_is_printed_as_a_decimal():
    assert PgdL2(Fraction(1, 2)).text == "pgd-l2:eps=0.5,steps=20"


@given(name=names, epsilon=st.fractions(min_value=0, max_value=Fraction(1, 2), max_denominator=10**12))
def test_every_id_reads_back_to_the_spec_it_was_made_from(name, epsilon):
    spec = replace(ATTACKS[name](), epsilon=epsilon)
    assert catalogue.attack(spec.text) == spec


@pytest.mark.parametrize("name", TARGETED)
@pytest.mark.parametrize("rule", catalogue.TARGET_RULES)
def test_a_choice_reads_back_and_is_left_out_of_the_id_at_its_default(name, rule):
    spec = replace(ATTACKS[name](), target=rule)
    assert catalogue.attack(spec.text) == spec
    assert (f"target={rule}" in spec.text) == (rule != "none")


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_form_writes_of_every_setting_reads_back(name):
    spec = ATTACKS[name]()
    texts = {field.name: parameters.value_text(spec, field.name) for field in fields(spec)}
    assert catalogue.attack(parameters.written(name, texts)) == spec


@pytest.mark.parametrize("name", BUDGETED)
def test_another_strength_changes_nothing_else(name):
    spec = ATTACKS[name]()
    other = spec.at(Fraction(1, 4))
    assert (other.epsilon, other.without_epsilon) == (Fraction(1, 4), spec.without_epsilon)
    assert spec.is_standard and other.is_standard
    assert f"eps={other.epsilon_text}" in other.text


def test_one_setting_besides_the_strength_makes_an_attack_another_one():
    assert not PgdLinf(steps=20).is_standard
    assert PgdLinf(steps=20).without_epsilon == "pgd-linf:steps=20"
    assert not PgdLinf(target="random").is_standard


def test_what_is_not_among_the_choices_is_refused_with_them():
    with pytest.raises(
        BadSetting, match=r"^pgd-linf\.target must be one of none, next, least-likely, random; got 'cat'"
    ):
        catalogue.attack("pgd-linf:target=cat")
    with pytest.raises(BadSetting, match="must be of type str"):
        PgdLinf(target=3)


def test_a_corruption_has_strengths_and_no_epsilon():
    assert catalogue.attack("corruption-jpeg:strength=3").strength == 3
    with pytest.raises(BadSetting, match=r"strength must lie in \[1, 3\], got 4"):
        catalogue.attack("corruption-jpeg:strength=4")
    with pytest.raises(BadSetting, match="corruption-jpeg has no epsilon; its settings are strength"):
        catalogue.attack_at("corruption-jpeg", "8/255")


@pytest.mark.parametrize(
    ("identifier", "least"), [("apgd-dlr", 3), ("apgd-t", 4), ("fab-t", 2), ("pgd-linf:target=next", 2), ("square", 1)]
)
def test_an_attack_says_beforehand_whether_it_applies_to_so_few_classes(identifier, least):
    spec = catalogue.attack(identifier)
    assert catalogue.obstacle(spec, least) == ""
    if least > 1:
        assert f"needs at least {least} classes, the model has {least - 1}" in catalogue.obstacle(spec, least - 1)


@given(decay=st.floats(min_value=0.0, max_value=2.0), steps=st.integers(min_value=1, max_value=1000))
def test_numbers_read_back_exactly(decay, steps):
    spec = MiFgsm(steps=steps, decay=decay)
    assert catalogue.attack(spec.text) == spec


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bare_name_means_the_defaults(name):
    assert catalogue.attack(name) == ATTACKS[name]()


def test_settings_left_out_of_an_id_keep_their_defaults():
    assert catalogue.attack("mifgsm-linf:steps=20") == MiFgsm(steps=20)


@pytest.mark.parametrize("text", ["8/255", " 8/255 ", "16/510", "0.8/25.5"])
def test_equal_strengths_give_the_same_id(text):
    assert catalogue.attack_at("pgd-linf", text).text == "pgd-linf:eps=8/255,steps=10"


def test_an_epsilon_typed_as_8_is_refused_with_its_range():
    with pytest.raises(BadSetting, match=r"^pgd-linf\.epsilon must lie in \[0, 0\.5\], got 8\.$"):
        catalogue.attack_at("pgd-linf", "8")


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-0.1", "1e-3", "8/0", "8/255/2", "", "0x8", "8/255,steps=1000", "٨/255", "9" * 500]
)
def test_what_is_not_a_plain_number_is_no_epsilon(text):
    with pytest.raises(BadSetting, match=r"pgd-linf\.epsilon must be a number such as 8/255"):
        catalogue.attack_at("pgd-linf", text)


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("pgd-linf:", "no setting ''"),
        ("pgd-linf:epsilon=8/255", "no setting 'epsilon=8/255'. Known: eps, steps"),
        ("pgd-linf:eps", "no setting 'eps'"),
        ("pgd-linf:steps=3,steps=3", "given twice"),
        ("pgd-linf:steps=1.5", "whole number"),
        ("pgd-linf:steps=0", r"steps must lie in \[1, 1000\], got 0"),
        ("pgd-linf:steps=1001", r"steps must lie in \[1, 1000\], got 1001"),
        ("mifgsm-linf:decay=nan", "decay must be a number"),
        ("mifgsm-linf:decay=2.1", r"decay must lie in \[0, 2\], got 2.1"),
        ("pgd-linf:eps=0." + "0" * 300, "at most 200 characters"),
    ],
)
def test_malformed_ids_are_refused_by_setting(identifier, message):
    with pytest.raises(BadSetting, match=message):
        catalogue.attack(identifier)


def test_an_unknown_attack_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match=r"No attack is called 'mifgsm'\. Did you mean 'mifgsm-linf'"):
        catalogue.attack("mifgsm")
    with pytest.raises(UnknownName, match="No attack is called 'pgd-linff'"):
        catalogue.attack_at("pgd-linff", "8/255")


@pytest.mark.parametrize("epsilon", [8 / 255, 0, True, "8/255", None])
def test_an_inexact_epsilon_is_refused(epsilon):
    with pytest.raises(BadSetting, match="must be of type Fraction"):
        PgdLinf(epsilon)


@pytest.mark.parametrize(("setting", "value"), [("steps", 10.0), ("steps", True), ("decay", 1)])
def test_a_value_of_another_type_is_refused(setting, value):
    with pytest.raises(BadSetting, match=rf"mifgsm-linf\.{setting} must be of type"):
        MiFgsm(**{setting: value})


@pytest.mark.parametrize("decay", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(decay):
    with pytest.raises(BadSetting, match="finite"):
        MiFgsm(decay=decay)


def test_a_fraction_too_fine_to_be_read_back_is_refused():
    with pytest.raises(BadSetting, match="denominator"):
        PgdLinf(Fraction(1, 10**12 + 1))


@pytest.mark.parametrize("card", catalogue.cards(), ids=lambda card: card.name)
def test_a_card_shows_every_setting_with_a_default_that_its_form_accepts(card):
    spec = ATTACKS[card.name]
    assert [setting.name for setting in card.settings] == [field.name for field in fields(spec)]
    assert all(setting.help.endswith(".") for setting in card.settings)
    for shown in card.settings:
        assert (shown.default in shown.choices) if shown.choices else (shown.low < shown.high)
    epsilon = card.settings[0]
    if card.name not in BUDGETED:
        assert (epsilon.name, epsilon.low, epsilon.high) == ("strength", 1, 3)
        return
    assert catalogue.attack_at(card.name, epsilon.default) == spec()
    assert (epsilon.low, epsilon.high) == (0.0, {"": 50.0, "l1": 1000.0}.get(epsilon.unit, 0.5))


@pytest.mark.cluster
def test_the_catalogue_loads_without_torch():
    code = "import sys, engine.specs.catalogue, engine.parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_read_fraction_names_the_setting():
    with pytest.raises(BadSetting, match=r"^strength must be a number"):
        parameters.read_fraction("strength", "much")
