"""The faithfulness table: each column against a slow count or a planted answer, and the shape that programs read."""

from __future__ import annotations

import json
import re

import pytest
import torch

import engine
from engine import __main__ as command_line
from engine.attacks.attacked import AttackedImages
from engine.attribution import scorers
from engine.errors import BadInput, BadSetting
from engine.models import hooks
from engine.patching import evaluate, tables, trials
from engine.patching import subjects as pairing
from engine.patching.subjects import FooledPairs
from engine.specs import methods
from engine.types.faithfulness import FAITHFULNESS_SIZES
from tests import stores, test_scores, toys

PLANTED = test_scores.PLANTED
COUNT = 24
COUNTS = (8, 16, 32)


@pytest.fixture(scope="module")
def bundle():
    """Only maps 0, 3 and 7 of 16 reach the logits; the head is made so that all three classes are answered."""
    made = test_scores.planted()
    with torch.no_grad():
        features = hooks.record(made, toys.pictures(80)).maps[-1].mean((2, 3))[:, list(PLANTED)]
        weight = torch.zeros(3, 16)
        weight[:, list(PLANTED)] = torch.eye(3) / features.std(0)
        made.network.linear.weight.copy_(weight)
        made.network.linear.bias.copy_(-(features / features.std(0)).mean(0))
    return made


@pytest.fixture(scope="module")
def subjects(bundle):
    images = toys.pictures(COUNT)
    labels = bundle.logits(images).argmax(1)
    return pairing.matched(bundle, tuple(map(str, range(COUNT))), images, labels, seed=0)


@pytest.fixture(scope="module")
def pairs(bundle, subjects):
    """Every image `attacked` by turning into its partner."""
    adversarial = subjects.images[subjects.partners]
    images = AttackedImages(
        clean=subjects.images,
        adversarial=adversarial,
        seeds=torch.zeros(COUNT, dtype=torch.int64),
        before=subjects.labels,
        after=subjects.labels[subjects.partners],
        outcomes=(),
    )
    return FooledPairs(
        images=images,
        noisy=adversarial,
        strangers=subjects.images[subjects.strangers],
        stranger_labels=subjects.labels[subjects.strangers],
        thirds=subjects.thirds,
    )


def scored(bundle, maps):
    """The same scores for every image: the given maps first, the last site before the others."""
    wanted = torch.zeros(16)
    wanted[list(maps)] = 1.0
    return tuple((wanted * (1 + k)).expand(COUNT, -1) for k in range(len(bundle.sites)))


def values(estimates):
    return [estimate.value for estimate in estimates]


def test_partners_strangers_and_third_classes_are_of_other_classes(subjects):
    labels = subjects.labels
    assert (labels[subjects.partners] != labels).all()
    assert (labels[subjects.strangers] != labels).all()
    assert (labels[subjects.strangers] != labels[subjects.partners]).all()
    assert (subjects.thirds != labels).all()
    assert (subjects.thirds != labels[subjects.partners]).all()


def test_matching_is_repeatable_and_another_seed_draws_others(bundle, subjects):
    parts = bundle, subjects.samples, subjects.images, subjects.labels
    assert torch.equal(pairing.matched(*parts, seed=0).partners, subjects.partners)
    assert not torch.equal(pairing.matched(*parts, seed=1).partners, subjects.partners)


def test_images_of_two_classes_have_partners_but_no_strangers(bundle, subjects):
    labels = torch.arange(COUNT) % 2
    found = pairing.matched(bundle, ("0",) * COUNT, subjects.images, labels, seed=0)
    assert (labels[found.partners] != labels).all()
    assert found.strangers is None
    assert (found.thirds == 2).all(), "the network knows a third class"


def test_images_of_one_class_are_refused(bundle, subjects):
    with pytest.raises(BadInput, match="add images of another class"):
        pairing.matched(bundle, ("0",) * COUNT, subjects.images, torch.zeros(COUNT, dtype=torch.int64), seed=0)


def test_planted_maps_carry_every_label_and_the_others_none(bundle, subjects):
    own, other = scored(bundle, PLANTED), scored(bundle, set(range(16)) - set(PLANTED))
    right = trials.transplant(bundle, subjects, own, own, COUNTS)
    assert values(right.carried) == [1.0] * len(COUNTS)
    assert values(right.swap) == values(right.carried)
    assert values(right.wrong_class) == [0.0] * len(right.carried)
    # 20 % of 16 maps are three: the planted ones.
    assert values(right.quota_carried)[2:] == [1.0] * 3
    assert trials.transplant(bundle, subjects, other, other, COUNTS).carried[0].value == 0.0


def test_planted_maps_restore_and_their_noisy_copy_and_a_wrong_class_do_not(bundle, pairs):
    own = scored(bundle, PLANTED)
    found = trials.restore(bundle, pairs, own, own, COUNTS)
    assert values(found.restored) == values(found.swap) == [1.0] * len(found.restored)
    assert values(found.noisy_copy) == values(found.wrong_class) == [0.0] * len(found.restored)
    assert found.mean_maps.value <= 3
    assert found.mean_maps.low <= found.mean_maps.value <= found.mean_maps.high


def test_the_fewest_maps_are_those_of_a_slow_search(bundle, pairs):
    generator = torch.Generator().manual_seed(5)
    own = tuple(torch.rand(COUNT, 16, generator=generator) for _ in bundle.sites)
    fast = trials.fewest_maps(bundle, pairs, own)
    donor = hooks.record(bundle, pairs.images.clean).maps
    restored = torch.stack(
        [
            hooks.transplanted(bundle, pairs.images.adversarial, scorers.largest(bundle, own, k), donor).argmax(1)
            == pairs.images.before
            for k in range(33)
        ]
    )
    rows = torch.arange(COUNT)
    assert restored[fast, rows].all()
    assert not restored[fast - 1, rows].any()
    monotone = (restored.int().diff(dim=0) >= 0).all(0)
    assert monotone.sum() >= COUNT // 3
    assert torch.equal(fast[monotone], restored.int().argmax(0)[monotone])


def test_moved_labels_are_those_of_one_image_at_a_time(bundle, subjects, pairs, monkeypatch):
    monkeypatch.setattr(hooks, "batch_limit", lambda _: 5)
    choices = [scorers.at_random(bundle, COUNT, k, torch.Generator().manual_seed(k)) for k in (4, 12)]
    fast = trials.moved_labels(bundle, pairs.images.adversarial, pairs.images.clean, choices)
    for labels, chosen in zip(fast, choices, strict=True):
        for k in range(COUNT):
            donor = hooks.record(bundle, pairs.images.clean[k : k + 1]).maps
            alone = tuple(site[k : k + 1] for site in chosen)
            slow = hooks.transplanted(bundle, pairs.images.adversarial[k : k + 1], alone, donor).argmax(1)
            assert int(slow) == int(labels[k])


def test_sufficient_counts_what_one_image_at_a_time_gives(bundle, subjects):
    generator = torch.Generator().manual_seed(9)
    own, aimed = (tuple(torch.randn(COUNT, 16, generator=generator) for _ in bundle.sites) for _ in range(2))
    found = trials.sufficient(bundle, subjects, own, aimed)
    share = trials.KEPT.index(0.5)
    agreed, swapped, wrong, divergence = 0, 0, 0, 0.0
    for k in range(COUNT):
        masks = [
            tuple((site[k : k + 1].abs() >= site[k].abs().topk(8).values[-1]).float() for site in scores)
            for scores in (own, aimed)
        ]
        image, other = subjects.images[k : k + 1], subjects.images[subjects.partners[k]][None]
        full = bundle.logits(image).softmax(1)
        masked = hooks.gated(bundle, image, masks[0]).softmax(1)
        agreed += int(masked.argmax() == full.argmax())
        divergence += float((full * (full.log() - masked.log())).sum())
        swapped += int(hooks.gated(bundle, other, masks[0]).argmax() == subjects.labels[k])
        wrong += int(hooks.gated(bundle, image, masks[1]).argmax() == subjects.thirds[k])
    got = [column[share].value for column in (found.agreement, found.swap, found.wrong_class, found.kl)]
    assert got == pytest.approx([agreed / COUNT, swapped / COUNT, wrong / COUNT, divergence / COUNT], abs=1e-5)
    assert 0 < swapped < agreed < COUNT


def test_one_site_at_a_time_leaves_the_others_whole(bundle, subjects):
    own = scored(bundle, PLANTED)
    found = trials.one_site(bundle, subjects, own)
    # Three of 16 maps and more: nothing that matters is lost, so the partner keeps its own, other answer.
    assert values(found.keep)[2:] == [1.0] * 3
    assert values(found.swap)[2:] == [0.0] * 3
    without = trials.one_site(bundle, subjects, scored(bundle, set(range(16)) - set(PLANTED)))
    assert without.keep[2].value < 1.0


def test_class_jaccard_is_one_within_and_zero_between_disjoint_datapaths():
    labels = torch.tensor([0, 0, 1, 1, 2])
    kept = (torch.eye(3, dtype=torch.bool).repeat_interleave(2, dim=1)[labels],)
    found = evaluate.between_classes(kept, labels)
    assert (found.within.value, found.within.n) == (1.0, 4)
    assert (found.between.value, found.between.n) == (0.0, 5)
    assert evaluate.between_classes(kept, torch.arange(5)).within is None


def test_dead_maps_do_not_read_as_agreement():
    dead = (torch.zeros(200, 40),)
    alike = evaluate._alike(evaluate._kept(dead, 0), evaluate._kept(dead, 1))
    assert alike.high < 0.2
    alive = (torch.rand(200, 40, generator=torch.Generator().manual_seed(0)),)
    assert evaluate._alike(evaluate._kept(alive, 0), evaluate._kept(alive, 1)).value == 1.0


def test_random_scores_are_alike_by_chance_alone_and_activation_wholly(bundle, subjects):
    ask = trials.against_partners(subjects)
    found = {}
    for name in (methods.RANDOM, methods.ACTIVATION):
        own, _ = trials.score(bundle, name, ask, seed=0)
        found[name.name] = evaluate.stability(bundle, name, subjects, own, seed=0)
    # Two draws of 3 of 16: 0.10 to 0.13 expected.
    for item in ("seed_jaccard", "noise_jaccard", "random_weights_jaccard"):
        assert getattr(found["random"], item).value == pytest.approx(0.12, abs=0.06)
    assert found["activation"].seed_jaccard.value == 1.0
    assert found["activation"].random_weights_jaccard.value < 0.7


CHEAP = ("two-run", "random")


@pytest.fixture(scope="module")
def whole(bundle, subjects, pairs):
    """The table of all methods on the planted network, as JSON."""
    made = evaluate.Walk(bundle, subjects, pairs, 0, COUNTS)
    rows = [evaluate.row(made, item, evaluate.Steps(lambda *_: None, 0, 1, item.name)) for item in methods.DECLARED]
    request = evaluate.EvaluationRequest(engine.attack("pgd-linf"), COUNT, methods.DECLARED)
    found = evaluate.Evaluation(request, "toy", "toys", COUNT, COUNT, 3, 48, ("relu",), COUNTS, tuple(rows), 1.0)
    return json.loads(json.dumps(tables.evaluation_json(found)))


LENGTHS = {"sufficient": "kept", "one_site": "kept", "transplant": "maps", "restore": "maps"}
COLUMNS = {
    "sufficient": {"agreement", "kl", "wrong_class", "swap"},
    "transplant": {"carried", "wrong_class"},
    "restore": {"restored", "mean_maps", "wrong_class", "noisy_copy"},
    "one_site": {"keep", "swap"},
}


@pytest.mark.parametrize("number", range(len(methods.METHODS)), ids=list(methods.METHODS))
def test_every_method_has_every_column_with_its_interval(whole, number):
    row = whole["methods"][number]
    assert row["name"] == list(methods.METHODS)[number]
    for group, key in LENGTHS.items():
        head = tables.HEADLINES.get(group)
        for name in COLUMNS[group]:
            low, high = ("low", "high") if name == head else (f"{name}_low", f"{name}_high")
            at, between, to = (torch.tensor(row[group][part]) for part in (low, name, high))
            assert ((at <= between + 1e-6) & (between <= to + 1e-6)).all()
            assert name == "mean_maps" or len(between) == len(whole[key])
    for name in ("seed_jaccard", "noise_jaccard", "random_weights_jaccard"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert {"within", "between"} <= set(row["class_jaccard"])
    assert (row["passes_per_image"] > 0) == (row["name"] != "random")


def test_two_runs_cost_five_passes_and_also_restore_by_their_joint_gradients(whole):
    two_run = whole["methods"][0]
    assert two_run["passes_per_image"] == 5
    assert two_run["joint_restore"]["restored"][-1] == 1.0
    assert "joint_restore" not in whole["methods"][1]


def test_the_table_is_one_screen_with_every_method_under_every_question(whole):
    lines = tables.evaluation_text(whole).splitlines()
    assert sum(line.startswith("two-run ") for line in lines) == 5
    for name in set(methods.METHODS) - {"two-run"}:
        assert sum(line.startswith(f"{name} ") for line in lines) == 4
    assert len(lines) <= 60 and max(map(len, lines)) <= 132
    assert lines[-1].startswith("quadratic, activation, random cannot be aimed")
    assert lines[-2].startswith("No claim may choose channels of relu:")


def test_the_table_shows_the_figures_of_the_json(whole):
    row, lines = whole["methods"][0], tables.evaluation_text(whole).splitlines()
    own = [line for line in lines if line.startswith("two-run  ")]
    cells = [re.findall(r"(\d+) \[(\d+), (\d+)\]", line) for line in own]
    for shown, (group, name) in zip(cells, (("sufficient", "agreement"), ("transplant", "carried")), strict=False):
        for k, triple in enumerate(zip(row[group][name], row[group]["low"], row[group]["high"], strict=True)):
            assert shown[k] == tuple(f"{100 * value:.0f}" for value in triple)
    control = row["restore"]["noisy_copy"][1], row["restore"]["noisy_copy_low"][1], row["restore"]["noisy_copy_high"][1]
    assert cells[2][len(COUNTS) + 1] == tuple(f"{100 * value:.0f}" for value in control)


@pytest.fixture(scope="module")
def written(demo_store, tmp_path_factory):
    """The folder of a store with the demo and of the JSON that the command wrote."""
    root = tmp_path_factory.mktemp("evaluation")
    stores.copied(demo_store, root / "store")
    assert command_line.main(arguments(root)) == 0
    return root


def arguments(root, *more):
    known = ["--store", str(root / "store"), "--model", "digits-standard", "--data", "digits", "--images", "6"]
    known += ["--attack", "pgd-linf:eps=48/255,steps=10", "--methods", ",".join(CHEAP)]
    return ["evaluate", *known, "--out", str(root / "table.json"), *more]


def test_the_command_writes_what_was_asked_for(written):
    found = json.loads((written / "table.json").read_text())
    assert (found["model"], found["data"], found["images"], found["first"]) == ("digits-standard", "digits", 6, 128)
    assert (found["kept"], found["maps"]) == ([0.05, 0.1, 0.2, 0.3, 0.5], [8, 16, 32, 64, 128])
    assert 2 <= found["fooled"] <= 6
    assert [row["name"] for row in found["methods"]] == list(CHEAP)
    assert found["left_out"] == ["relu"]


def test_the_command_measures_faithfulness_beside_layer_matched_random_maps(written):
    found = json.loads((written / "table.json").read_text())
    text = tables.evaluation_text(found)
    for row in found["methods"]:
        measures = row["measures"]
        assert (measures["sizes"], measures["images"]) == (list(FAITHFULNESS_SIZES), found["fooled"])
        for side in ("denoising", "noising"):
            assert [len(measures[side][name]["faithfulness"]) for name in ("chosen", "random")] == [10, 10]
            assert f"{100 * measures[side]['chosen']['cpr']['value']:.1f} [" in text
        assert sum(len(channels) for channels in measures["tests"]["channels"]) == 16
    two_run, random = (row["measures"] for row in found["methods"])
    assert two_run["denoising"]["chosen"]["cpr"]["value"] > random["denoising"]["chosen"]["cpr"]["value"]
    assert "One set of 16 channels for all" in text
    assert max(map(len, text.splitlines())) <= 132


def test_an_evaluation_that_was_stored_without_measures_opens_and_has_a_table(whole):
    assert not any("measures" in row for row in whole["methods"])
    assert "CPR" not in tables.evaluation_text(whole)


def test_numbers_of_maps_that_are_not_there_are_left_out(bundle):
    assert trials.map_counts(bundle, (2, 32, 33)) == (2, 32)
    assert trials.map_counts(bundle, (64,)) == (32,)


def test_the_same_command_gives_the_same_figures(written, tmp_path):
    out = tmp_path / "again.json"
    assert command_line.main(arguments(written, "--out", str(out))) == 0
    first, second = (json.loads(file.read_text()) for file in (written / "table.json", out))
    for one, other in zip(first["methods"], second["methods"], strict=True):
        for group in (*COLUMNS, "seed_jaccard"):
            assert one[group] == other[group]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "exists already"),
        (("--images", "1"), "at least 2"),
        (("--methods", "two-rum"), "Did you mean 'two-run'"),
        (("--first", "-1"), "must not be negative"),
        (("--maps", "8,x"), "whole numbers such as 8,16,32"),
        (("--maps", "16,8"), "rising numbers from 1 on"),
        (("--maps", "0,8"), "rising numbers from 1 on"),
        (("--set", "0"), "--set must be at least 1 channel"),
        (("--first", "499", "--out", "OTHER"), "at least 2 images of 2 classes"),
        (("--out", "missing/table.json"), "no folder missing"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_one_line(written, tmp_path, capsys, more, message):
    given = [str(tmp_path / "other.json") if part == "OTHER" else part for part in more]
    assert command_line.main(arguments(written, *given)) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]


def test_a_request_is_checked_before_anything_runs():
    with pytest.raises(BadSetting):
        evaluate.EvaluationRequest(engine.attack("pgd-linf"), 1, methods.DECLARED)
