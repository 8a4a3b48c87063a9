"""A plan says with its line what is wrong with it; a manifest holds everything a run depends on."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine import __main__ as command_line
from engine import demo, hashing
from engine.audit import manifest, plan, tiers
from engine.data import register
from engine.errors import BadInput, StoreError
from engine.specs import catalogue
from engine.store import Store
from tests import audits, stores

WHOLE = """\
name = "everything"
model = "digits-standard"
baseline = "digits-robust"
data = "digits"
attacks = [
  "fgsm-linf:eps=8/255",  # first
  "pgd-linf:eps=24/255,steps=10",
]

[images]
count = 20
seed = 3

[curve]
attack = "pgd-linf:steps=10"
epsilons = ["16/255", "8/255"]

[[premade]]
name = "red"
data = "digits"
epsilon = "8/255"

[[thresholds]]
name = "a"
condition = "clean"
at_least = 0.9

[[thresholds]]
name = "b"
condition = "pgd-linf:eps=24/255"
metric = "resistance"
at_least = 0.5
confidence = 0.99
class = "7"
"""


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("plan") / "store")


def read(text, store):
    return plan.understood(plan.parse(text, "plan.toml"), store)


def test_a_plan_is_read_whole(store):
    found = read(WHOLE, store)
    assert [attack.budget * 255 for attack in found.attacks] == [8, 24]
    assert [item.budget * 255 for item in found.curve] == [8, 16], "weakest first"
    assert [control.name for control in found.controls] == list(plan.CONTROLS["linf"])
    assert {control.budget * 255 for control in found.controls} == {24}, "as strong as the strongest attack"
    assert found.thresholds[1].condition == found.attacks[1].text
    assert (found.thresholds[1].label, found.thresholds[1].confidence) == ("7", 0.99)
    assert (found.method.name, found.device, found.threads, found.tier) == ("two-run", "cpu", 2, "custom")


def test_a_pre_made_set_may_be_held_to_a_share_of_the_area(store):
    text = WHOLE[WHOLE.index("[[premade]]") : WHOLE.index("[[thresholds]]")]
    other = text.replace('"8/255"', '"0.05"\nnorm = "area"')
    assert [(item.norm, item.epsilon) for item in read(WHOLE.replace(text, other), store).precomputed] == [
        ("area", "0.05")
    ]
    with pytest.raises(BadInput, match=r"0\.0005 can change no picture: one pixel is 1/1024 of the area"):
        read(WHOLE.replace(text, other.replace("0.05", "0.0005")), store)


def test_a_plan_takes_noise_of_the_same_l1_length_along(store):
    own = '"pgd-linf:eps=24/255,steps=10"'
    found = read(WHOLE.replace(own, f'{own}, "pgd-l1:eps=12", "pgd-l1:eps=8"'), store)
    assert [control.text for control in found.controls if control.norm.name == "l1"] == ["noise-sparse:eps=12"]
    with pytest.raises(BadInput, match=r"pgd-l1 with epsilon 0\.003 can change no picture.* Give for example 12"):
        read(WHOLE.replace(own, '"pgd-l1:eps=0.003"'), store)


@pytest.mark.parametrize("tier", ["fast", "standard", "thorough"])
def test_a_tier_brings_its_attacks_at_the_plans_strength(store, tier):
    own = 'attacks = ["fgsm-linf:eps=8/255", "fgsm-linf:eps=9/255"]'
    head = f'tier = "{tier}"\nepsilon = "8/255"\n'
    text = WHOLE.replace('pgd-linf:eps=24/255"', 'fgsm-linf:eps=9/255"')
    found = read(head + text.replace(text[text.index("attacks") : text.index("\n\n[images]")], own), store)
    wanted = tiers.contents(tier, Fraction(8, 255), 32)
    assert found.attacks == (*wanted.everywhere, catalogue.attack("fgsm-linf:eps=9/255"))
    assert found.in_cascade == wanted.in_cascade
    assert set(wanted.controls) != set(found.controls), "the controls follow the strongest attack"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"pgd-linf:eps=24/255,steps=10"',
            '"pgdd"',
            r"line 7: attacks\[1\]: No attack is called 'pgdd'\. Did you mean",
        ),
        ('"pgd-linf:eps=24/255,steps=10"', '"pgd-linf:eps=8"', r"line 7: attacks\[1\]: pgd-linf\.epsilon must lie in"),
        ('"pgd-linf:eps=24/255,steps=10"', '"fgsm-linf:eps=8/255"', r"line 7: attacks\[1\]: .* stands here twice"),
        ('"pgd-linf:eps=24/255,steps=10"', "5", r"line 7: attacks\[1\]: must be a text, got 5"),
        (
            'model = "digits-standard"',
            'model = "digits-standart"',
            "line 2: model: No model .* Did you mean 'digits-standard'",
        ),
        ('model = "digits-standard"', "", "line 1: the key 'model' is missing"),
        ('baseline = "digits-robust"', 'baseline = "digits-standard"', "line 3: baseline: must be another model"),
        ('data = "digits"\nattacks', 'data = "x"\nattacks', "line 4: data: No data set is called 'x'"),
        ("count = 20", "count = 0", "line 11: images.count: must be a whole number from 1 to 10000000, got 0"),
        ("count = 20", "count = 20.5", "line 11: images.count: must be a whole number .*, got 20.5"),
        ("count = 20", "counts = 20", "line 11: images.counts: No key is called 'counts'. Did you mean 'count'"),
        ("[images]\ncount = 20", "[images]", "line 10: images: the key 'count' is missing"),
        ('"16/255", "8/255"', '"16/255", "16/255"', r"line 16: curve.epsilons\[1\]: epsilon 16/255 stands here"),
        ('"16/255", "8/255"', '"a"', r"line 16: curve.epsilons\[0\]: epsilon must be a number such as 8/255"),
        (
            '"pgd-linf:eps=24/255,steps=10"',
            '"pgd-linf:eps=0.9/255"',
            r"line 7: attacks\[1\]: pgd-linf with epsilon 0.9/255 can change no picture: one step of 8 bits is 1/255\.",
        ),
        (
            '"pgd-linf:eps=24/255,steps=10"',
            '"pgd-l2:eps=0"',
            r"line 7: attacks\[1\]: pgd-l2 with epsilon .* no picture",
        ),
        (
            'name = "everything"',
            "tier = 'fast'\nepsilon = '0.03/255'",
            "line 2: epsilon: the tier 'fast' with epsilon 0.03/255 can change no picture",
        ),
        (
            'name = "red"\ndata = "digits"\nepsilon = "8/255"',
            'name = "red"\ndata = "digits"\nepsilon = "0"',
            r"line 21: premade\[0\].epsilon: the precomputed set 'red' with epsilon .* can change no picture",
        ),
        ("at_least = 0.9", "at_least = 0", r"line 26: thresholds\[0\].at_least: must be above 0"),
        ("at_least = 0.9", "at_least = 90", r"line 26: thresholds\[0\].at_least: must be a number from 0 to 1, got 90"),
        (
            "at_least = 0.5",
            "at_least = nan",
            r"line 32: thresholds\[1\].at_least: must be a number from 0 to 1, got nan",
        ),
        ('condition = "clean"', 'condition = "cleen"', r"line 25: thresholds\[0\].condition: .* Did you mean 'clean'"),
        ('condition = "clean"', 'condition = "square"', r"line 25: thresholds\[0\].condition: the plan has no attack"),
        ('name = "b"', 'name = "a"', r"line 29: thresholds\[1\].name: another one is called 'a' already"),
        ('class = "7"', 'class = "seven"', r"line 34: thresholds\[1\].class: No class is called 'seven'"),
        ("seed = 3", "seed = 3\nseed = 4", "line 13: this is not TOML"),
        ("seed = 3", "seed = ", "line 12: this is not TOML: Invalid value"),
        ('name = "everything"', "device = 'tpu'", "line 1: device: No choice is called 'tpu'"),
        ('name = "everything"', "tier = 'slow'", "line 1: tier: No choice is called 'slow'"),
        ('name = "everything"', "tier = 'fast'", "line 1: the key 'epsilon' is missing"),
        ('name = "everything"', "epsilon = '8/255'", "line 1: epsilon: belongs to a tier"),
        ('name = "everything"', "tier = 'fast'\nepsilon = '8'", "line 2: epsilon: .*epsilon must lie in"),
        ('name = "everything"', "controls = 1", "line 1: controls: must be true or false, got 1"),
        ('name = "everything"', "method = 'two'", "line 1: method: No method is called 'two'. Did you mean 'two-run'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_line(store, old, new, message):
    assert old in WHOLE
    with pytest.raises(BadInput, match=message) as caught:
        read(WHOLE.replace(old, new, 1), store)
    assert str(caught.value).startswith("plan.toml line ")
    assert "\n" not in str(caught.value)


def test_a_curve_may_begin_at_nothing_but_no_threshold_speaks_of_that(store):
    text = WHOLE.replace('"16/255", "8/255"', '"0", "0.5/255", "8/255"')
    assert [item.budget * 255 for item in read(text, store).curve] == [0, 0.5, 8]
    with pytest.raises(BadInput, match=r"line 25: thresholds\[0\].condition: pgd-linf with epsilon 0.5/255 can change"):
        read(text.replace('condition = "clean"', 'condition = "pgd-linf:eps=0.5/255"'), store)


def test_a_threshold_on_the_worst_case_needs_an_attack(store):
    attacks = WHOLE[WHOLE.index("attacks") : WHOLE.index("\n\n[images]")]
    precomputed = WHOLE[WHOLE.index("[[premade]]") : WHOLE.index("[[thresholds]]")]
    text = WHOLE.replace(attacks, 'attacks = ["corruption-gaussian-noise"]').replace(precomputed, "")
    with pytest.raises(BadInput, match=r"thresholds\[0\].condition: the plan has no attack and no precomputed set"):
        read(text[: text.index('[[thresholds]]\nname = "b"')].replace('"clean"', '"worst-case"'), store)


def test_lines_are_right_in_inline_tables_dotted_keys_and_long_texts():
    text = 'a = """\nlong\n"""\nimages.count = 3\nb = { c = 1, d = [1,\n 2] }\n[x.y]\nz = 1\n[[l]]\n[[l]]\nk = 0\n'
    table = plan.parse(text, "t")
    wanted = {("a",): 1, ("images", "count"): 4, ("b", "d"): 5, ("b", "d", 1): 6, ("x", "y", "z"): 8, ("l", 1, "k"): 11}
    assert {place: table.lines[place] for place in wanted} == wanted


def test_a_wrong_plan_is_one_line_and_exit_code_2(store, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(WHOLE.replace("count = 20", "count = 99"))
    assert command_line.main(["audit", str(tmp_path / "plan.toml"), "--store", str(store.root)]) == 2
    told = capsys.readouterr().err
    assert told == "error: The plan wants 99 images, and only 40 are there; lower images.count.\n"


def test_the_example_is_a_plan(demo_store, tmp_path):
    store = stores.copied(demo_store, tmp_path / "store")
    example = Path(demo.__file__).parent / "plan.toml"
    found = manifest.build(plan.read(example, store), store)
    assert found.conditions[0].folder == "00-candidate-clean"
    assert len({condition.folder for condition in found.conditions}) == len(found.conditions) == 16


def test_the_same_plan_is_the_same_run_and_any_change_is_another(store):
    base = manifest.run_id(manifest.text(audits.planned(store)))
    assert base == manifest.run_id(manifest.text(audits.planned(store, audits.PLAN.replace("\n\n", "\n# note\n"))))
    changes = [
        ("at_least = 0.5", "at_least = 0.6"),
        ("count = 6", "count = 7"),
        ("24/255", "25/255"),
        ("threads = 1", ""),
    ]
    changed = {
        manifest.run_id(manifest.text(audits.planned(store, audits.PLAN.replace(*change)))) for change in changes
    }
    assert len(changed | {base}) == 5


def test_the_manifest_is_what_the_design_lists(store):
    found = json.loads(manifest.text(audits.planned(store)))
    assert {name for name, _ in found["versions"]} >= {"faultline", "python", "torch", "numpy"}
    model = found["models"][0]
    assert len(model["content_hash"]) == len(model["weights_hash"]) == 32
    assert sum(channels for _, channels in model["sites"]) == 348
    dataset = store.dataset("digits")
    expected = [hashing.bytes_hash(dataset.images([item])[0].tobytes()) for item in found["images"]["samples"]]
    assert found["images"]["hashes"] == expected
    assert found["plan"]["attacks"] == [item for item in found["plan"]["attacks"] if "eps=24/255" in item]
    assert found["dtype"] == "float32"


def test_a_manifest_that_was_edited_is_refused(store):
    content = manifest.text(audits.planned(store))
    run = manifest.run_id(content)
    assert manifest.parse(content, run) == audits.planned(store)
    with pytest.raises(StoreError, match="differs from what the run was started with"):
        manifest.parse(content.replace(b'"at_least":0.5', b'"at_least":0.1'), run)


def test_images_are_drawn_from_every_class_in_proportion_by_the_seed(store):
    counts = np.array([50, 30, 20, 1])
    assert manifest._quotas(counts, 10).tolist() == [5, 3, 2, 0]
    assert manifest._quotas(counts, 101).tolist() == [50, 30, 20, 1]
    labels = np.repeat(np.arange(4), counts)
    images = plan.Images(30, seed=1)
    rows = manifest._chosen(labels, np.ones(101, dtype=bool), images)
    assert np.bincount(labels[rows], minlength=4).tolist() == [15, 9, 6, 0]
    assert (np.diff(labels[rows]) >= 0).all()
    again = manifest._chosen(labels, np.ones(101, dtype=bool), images)
    other = manifest._chosen(labels, np.ones(101, dtype=bool), dataclasses.replace(images, seed=2))
    assert rows.tolist() == again.tolist() != other.tolist()


def test_a_pre_made_set_that_cannot_be_paired_is_refused(store, tmp_path):
    store = Store(shutil.copytree(store.root, tmp_path / "store"))
    own = audits.some_digits()
    text = audits.PLAN + '[[premade]]\nname = "red"\ndata = "red"\nepsilon = "8/255"\n'
    for names, labels, message in (
        (tuple(f"x{k}" for k in range(40)), own.y, "No image of the precomputed set 'red' is named as one of"),
        (own.names, (own.y + 1) % 10, "a precomputed set holds the true classes"),
        ((own.names[0],) * 40, own.y, "names an image twice"),
    ):
        given = dataclasses.replace(own, names=names, y=labels)
        register.add(store, "red", given, source="test")
        with pytest.raises(BadInput, match=re.escape(message)):
            audits.planned(store, text)
        shutil.rmtree(store.root / "data" / "red")
