"""Passing means something: what changed no image, tried none or found less than noise never passes a threshold."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from engine.audit import report, results, summary, verify
from engine.audit.plan import Precomputed, Threshold
from engine.audit.runs import State
from engine.store import files
from tests import audits, stores
from tests.test_audit_summary import FGSM, PGD, STRONG, WEAK, manifest, summarised, table

NOISE, WORST = "noise-sign:eps=8/255", "worst-case"
RIGHT = "aaaabbbbcc"
LARGE = {"linf": np.full(10, 64 / 255)}
"""A change that no budget of these attacks allows."""


def asked(condition: str, at_least: float = 0.3, metric: str = "accuracy", label: str = "") -> Threshold:
    return Threshold("t", condition, metric, at_least, 0.95, label)


def unchanged(count: int = 10):
    """Right images of which an attack left the first `count` exactly as they were."""
    return table(RIGHT, status=("unperturbed",) * count + ("resisted",) * (10 - count))


def decided(threshold: Threshold, *named_rows) -> summary.Decision:
    """What is decided of rows given as (kind, name, rows)."""
    made = manifest(*((kind, name) for kind, name, _ in named_rows), thresholds=(threshold,))
    return summarised(made, *(own for _, _, own in named_rows)).thresholds[0]


def told(found: summary.Decision) -> tuple[str, str]:
    return found.outcome, found.reason


@pytest.mark.parametrize("kind", ["attack", "curve", "control", "premade"])
def test_a_condition_that_changed_no_image_passes_nothing(kind):
    name = "red" if kind == "premade" else NOISE if kind == "control" else FGSM
    found = decided(asked(name), (kind, name, unchanged()))
    assert told(found) == (
        "inconclusive",
        "None of the 10 images that were right without attack was changed, so nothing was withstood.",
    )
    assert found.value == 1.0


def test_a_condition_that_changed_few_images_passes_only_what_holds_without_the_others():
    found = decided(asked(FGSM), ("attack", FGSM, unchanged(9)))
    assert found.outcome == "inconclusive"
    assert found.reason.startswith("9 images left as they were, 0 images not judged: without counting")
    assert told(decided(asked(FGSM), ("attack", FGSM, unchanged(1)))) == ("pass", "")


def test_a_worst_case_of_attacks_that_changed_nothing_passes_nothing():
    both = ("attack", FGSM, unchanged()), ("premade", "red", unchanged())
    assert decided(asked(WORST), *both).outcome == "inconclusive"


def test_an_image_that_one_attack_left_alone_and_another_changed_has_resisted():
    made = manifest(("attack", FGSM), ("attack", PGD))
    (model,) = summarised(made, unchanged(), table(RIGHT)).models
    assert model.worst_case.statuses["resisted"] == 10
    assert model.worst_case.doubts == ()
    assert decided(asked(WORST), ("attack", FGSM, unchanged()), ("attack", PGD, table(RIGHT))).outcome == "pass"


def test_attacks_that_broke_down_pass_nothing():
    every = decided(asked(FGSM), ("attack", FGSM, table("!" * 10)))
    assert told(every)[0] == "inconclusive"
    assert every.reason.startswith("None of the 10 images could be judged")
    most = decided(asked(FGSM, 0.3), ("attack", FGSM, table("!!!!!!bbcc")))
    assert most.value == 1.0
    assert most.outcome == "inconclusive"
    assert "6 images not judged" in most.reason


def test_pre_made_images_outside_their_budget_pass_nothing():
    outside = table(RIGHT, in_budget=np.arange(10) > 5)
    assert decided(asked("red"), ("premade", "red", outside)).outcome == "inconclusive"


def test_an_attack_that_finds_less_than_noise_of_its_size_passes_nothing():
    own, noise = table("baaabbbbcc"), table("bbaabbbbcc")
    found = decided(asked(FGSM), ("attack", FGSM, own), ("control", NOISE, noise))
    assert told(found) == ("inconclusive", f"It fools 1 of 10 images, and {NOISE} fools 2 of them within its budget.")
    assert decided(asked(WORST), ("attack", FGSM, own), ("control", NOISE, noise)).outcome == "inconclusive"
    larger = table("bbaabbbbcc", **LARGE)
    assert decided(asked(FGSM), ("attack", FGSM, own), ("control", NOISE, larger)).outcome == "pass"


def test_images_that_noise_alone_fools_count_against_the_threshold():
    own = table("baaabbbbcc")
    noise = table("aaaabbbbca")
    alone = decided(asked(FGSM, 0.5), ("attack", FGSM, own))
    assert alone.outcome == "pass", "9 of 10: the interval begins at 55 %, of 8 at 44 %"
    found = decided(asked(FGSM, 0.5), ("attack", FGSM, own), ("control", NOISE, noise))
    assert found.outcome == "inconclusive"
    assert found.reason.startswith("1 image right under it but fooled by noise or a weaker setting")


def test_an_attack_that_finds_nothing_where_a_stronger_one_does_passes_nothing():
    nothing, some, more = table(RIGHT), table("baaabbbbcc"), table("bbaabbbbcc")
    assert decided(asked(FGSM), ("attack", FGSM, nothing), ("attack", PGD, more)).outcome == "inconclusive"
    assert decided(asked(FGSM), ("attack", FGSM, some), ("attack", PGD, more)).outcome == "pass", (
        "a weaker attack may be"
    )
    elsewhere = table("bbaabbbbcc", **LARGE)
    assert decided(asked(FGSM), ("attack", FGSM, nothing), ("attack", STRONG, elsewhere)).outcome == "pass"


def test_a_strength_that_finds_less_than_a_weaker_one_passes_nothing():
    strong, weak = table("baaabbbbcc"), table("bbaabbbbcc")
    for condition, kinds in ((STRONG, ("curve", "curve")), (STRONG, ("attack", "curve")), (WORST, ("attack", "curve"))):
        found = decided(asked(condition), (kinds[0], STRONG, strong), (kinds[1], WEAK, weak))
        assert found.outcome == "inconclusive", condition
        assert f"{WEAK} fools 2" in found.reason
    assert decided(asked(WEAK), ("curve", STRONG, strong), ("curve", WEAK, weak)).outcome == "pass"


def test_the_larger_budget_of_a_pre_made_set_is_not_that_of_the_attacks():
    own, wide, curve = table("baaabbbbcc"), table(RIGHT, **LARGE), table("bbbabbbbcc", **LARGE)
    made = manifest(("attack", FGSM), ("premade", "red"), ("curve", STRONG), thresholds=(asked(WORST),))
    plan = dataclasses.replace(made.plan, precomputed=(Precomputed("red", "red", "linf", "64/255"),))
    (found,) = summarised(dataclasses.replace(made, plan=plan), own, wide, curve).thresholds
    assert told(found) == ("pass", "")


def test_a_share_of_the_area_is_compared_with_nothing_but_shares_of_the_area():
    """A pixel's change of 0 is within every budget in Linf, and says nothing of how much of the picture it covers."""
    made = manifest(("premade", "small"), ("premade", "large"), ("control", NOISE), thresholds=(asked("small"),))

    def found(large: str, noise: str, *shares: str) -> str:
        sets = (Precomputed(name, "d", "area", share) for name, share in zip(("small", "large"), shares, strict=True))
        plan = dataclasses.replace(made.plan, precomputed=tuple(sets))
        rows = table(RIGHT, **LARGE), table(large), table(noise)
        return summarised(dataclasses.replace(made, plan=plan), *rows).thresholds[0].outcome

    assert found(RIGHT, "bbbabbbbcc", "0.05", "0.1") == "pass", "noise everywhere is no patch"
    assert found("bbbabbbbcc", RIGHT, "0.05", "0.1") == "pass", "a larger patch is none of its size"
    assert found("bbbabbbbcc", RIGHT, "0.05", "0.05") == "inconclusive"


def test_a_sum_of_changes_is_compared_with_nothing_but_sums_of_changes():
    made = manifest(("premade", "small"), ("control", "noise-sparse:eps=8"), thresholds=(asked("small"),))

    def found(noise: str, epsilon: str) -> str:
        plan = dataclasses.replace(made.plan, precomputed=(Precomputed("small", "d", "l1", epsilon),))
        control = dataclasses.replace(made.conditions[1], name=noise)
        own = dataclasses.replace(made, plan=plan, conditions=(made.conditions[0], control))
        return summarised(own, table(RIGHT, **LARGE), table("bbbabbbbcc")).thresholds[0].outcome

    assert found("noise-sparse:eps=8", "8") == "inconclusive"
    assert found("noise-sparse:eps=9", "8") == "pass", "more noise is none of its size"
    assert found("noise-sign:eps=1/255", "1000") == "pass", "of noise on every pixel the sum is not known"


def test_classes_without_images_and_images_that_were_never_right_pass_nothing():
    without = decided(asked(FGSM, label="cat"), ("attack", FGSM, table("aaaabbbb", truth="aaaabbbb")))
    assert told(without) == ("inconclusive", "The run holds no image of class 'cat'.")
    wrong = decided(asked(FGSM, metric="resistance", label="cat"), ("attack", FGSM, table(RIGHT, before="aaaabbbbaa")))
    assert told(wrong) == (
        "inconclusive",
        "None of the 2 images of class 'cat' was right without attack, so there was nothing to withstand.",
    )
    assert decided(asked(FGSM, label="cat"), ("attack", FGSM, table(RIGHT, before="aaaabbbbaa"))).value == 0.0


def test_a_single_image_and_a_threshold_of_nothing_pass_nothing():
    one = decided(asked("clean", 0.02), ("clean", "clean", table("a", truth="a")))
    assert told(one) == ("inconclusive", "A single image makes no share.")
    nothing = decided(asked("clean", 0.0), ("clean", "clean", table(RIGHT)))
    assert told(nothing) == ("inconclusive", "A threshold of 0 is reached by every model.")


def test_a_model_of_a_single_class_passes_nothing():
    made = dataclasses.replace(manifest(("attack", FGSM), thresholds=(asked(FGSM),)), classes=("ant",))
    (found,) = summarised(made, table("aaaaaaaaaa", truth="aaaaaaaaaa")).thresholds
    assert told(found) == ("inconclusive", "The model has a single class and is right whatever it is shown.")


def test_a_threshold_on_a_worst_case_that_is_not_there_passes_nothing():
    found = decided(asked(WORST), ("control", NOISE, table(RIGHT)))
    assert told(found) == ("inconclusive", "The run has no attack and no precomputed set, so it has no worst case.")


def test_what_fails_fails_however_little_was_tried():
    found = decided(asked(FGSM, 0.9), ("attack", FGSM, table("bbbbbbbbcc")), ("control", NOISE, table("bbbbaaaabb")))
    assert told(found) == ("fail", "")


def test_an_interval_on_both_sides_says_that_more_images_are_needed():
    found = decided(asked("clean", 0.9), ("clean", "clean", table(RIGHT)))
    assert told(found) == (
        "inconclusive",
        "The interval reaches to both sides of the threshold: more images are needed.",
    )


def test_a_run_that_goes_on_decides_nothing():
    made = manifest(("clean", "clean"), thresholds=(asked("clean"),))
    found = summary.summarise(made, {"candidate-clean": table(RIGHT)}, is_interim=True)
    assert told(found.thresholds[0]) == ("inconclusive", "The run is not finished, so nothing is decided yet.")
    assert report.run_verdict(found) == "not decided yet: the run is not finished."


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ((), "nothing to decide"),
        (("pass", "pass"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("inconclusive", "fail"), "fail"),
    ],
)
def test_a_run_passes_only_where_every_threshold_does(outcomes, verdict):
    decisions = tuple(summary.Decision(asked("clean"), outcome, 10, 1.0, 0.7, 1.0) for outcome in outcomes)
    found = summary.Summary(False, (), decisions, ())
    assert summary.verdict(found) == verdict
    assert ("PASS" in report.run_verdict(found)) is (verdict == "pass")


SAME = audits.PLAN + (
    '[[premade]]\nname = "same"\ndata = "digits"\nepsilon = "8/255"\n'
    '[[thresholds]]\nname = "withstands"\ncondition = "same"\nat_least = 0.5\n'
)


@pytest.fixture(scope="module")
def same(small_demo_store, tmp_path_factory):
    """A finished run whose precomputed set holds the clean images themselves."""
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("doubts") / "store")
    return store, audits.drive(store, audits.planned(store, SAME))[0]


def test_a_pre_made_set_of_the_clean_images_passes_nothing_and_everybody_is_told(same):
    _, run = same
    found = results.read_summary(run.place, run.manifest)
    state = State(run.id, "finished", 1, 1)
    printed = report.text(run, state, found)
    assert "Threshold 'withstands': INCONCLUSIVE" in printed
    assert "    ? None of the 6 images that were right without attack was changed" in printed
    assert printed.endswith("Verdict: INCONCLUSIVE: not every threshold could be decided; the reason stands beside it.")
    machine = report.as_json(run, state, found, 0.0)
    assert machine["verdict"] == "inconclusive"
    assert [(item["outcome"], bool(item["reason"])) for item in machine["thresholds"]] == [
        ("pass", False),
        ("inconclusive", True),
    ]
    assert machine["conditions"]["same"]["doubts"] == list(found.models[0].conditions[2].doubts) != []


def test_a_summary_that_older_rules_made_is_not_believed(same):
    """As it was written before reasons were told, sealed: the verdict is made anew, and the run is as sound as it was."""
    store, run = same
    path, seal = run.place.result / results.SUMMARY, run.place.result / results.SEAL
    kept = path.read_bytes(), seal.read_bytes()
    older = json.loads(kept[0])
    del older["rules"]
    for item in older["thresholds"]:
        del item["reason"]
        item["outcome"] = "pass"
    for model in older["models"]:
        for item in (*model["conditions"], model["worst_case"]):
            del item["doubts"]
    new = results.read_summary(run.place, run.manifest)
    path.write_text(json.dumps(older))
    sealed = files.unpack(kept[1], results.Seal.SCHEMA)
    hashes = {**sealed.files, results.SUMMARY: files.file_hash(path)}
    seal.write_bytes(files.pack(files.Envelope(results.Seal.SCHEMA, sealed.value, files=hashes)))
    try:
        assert results.read_summary(run.place, run.manifest) == new
        assert verify.verify(store, run.id, images=1, seed=0).damaged == ()
    finally:
        path.write_bytes(kept[0])
        seal.write_bytes(kept[1])
