"""What is asked of a group of fooled images: searched and counted by real passes, answered through the facade."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

import engine
from engine.attribution import scorers
from engine.errors import BadInput, UnknownName
from engine.jobs import Progress
from engine.models import register
from engine.patching import causal, minimal, patch, subjects, trials
from engine.service import tasks, worker
from engine.service.auditor import Auditor
from engine.service.tasks import MOST_FOOLED
from engine.types.patching import CURVES, FooledRequest, GroupTestRequest, MapSet
from tests import stores

pytestmark = pytest.mark.usefixtures("one_thread")

STUDIES = ("group-proof", "smallest", "curve", "profile", "defence", "faithfulness-curve")
ATTACK = "pgd-linf:eps=24/255,steps=5"


def quiet(*_told: object) -> None:
    pass


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    return stores.copied(demo_store, tmp_path_factory.mktemp("studies") / "store")


@pytest.fixture(scope="module")
def digits(store):
    return register.bundle(store, "digits-standard"), store.dataset("digits")


@pytest.fixture(scope="module")
def request_(digits):
    """Six attacked digits of two classes."""
    samples = digits[1].keys_of(3)[:3] + digits[1].keys_of(5)[:3]
    return FooledRequest("digits-standard", "digits", engine.attack(ATTACK), samples)


@pytest.fixture(scope="module")
def group(digits, request_):
    return subjects.gather_group(*digits, request_)


@pytest.fixture(scope="module")
def pairs(group):
    return patch.exchanges(group, "restore")


@pytest.fixture(scope="module")
def found(digits, request_):
    return minimal.find(*digits, request_, quiet, 96)


def restored(bundle, group, row: int, chosen: torch.Tensor) -> bool:
    """The slow way: one image, its clean maps written in by hand, site after site."""
    parts = chosen.split([site.channels for site in bundle.sites])
    seen = {}

    def keep(number, tensor):
        seen[number] = tensor.clone()
        return tensor

    def put(number, tensor):
        if number < len(parts):
            tensor = tensor.clone()
            tensor[:, parts[number]] = seen[number][:, parts[number]]
        return tensor

    with torch.no_grad():
        with bundle.visiting(keep):
            bundle.logits(group.images.clean[row : row + 1])
        with bundle.visiting(put):
            return int(bundle.logits(group.images.adversarial[row : row + 1]).argmax()) == int(group.true[row])


def test_each_smallest_set_restores_its_image_and_no_map_of_it_can_be_left_out(digits, group, found):
    for row, one in enumerate(found.images):
        chosen = patch.mask(digits[0], one.chosen)
        assert one.is_restored
        assert restored(digits[0], group, row, chosen)
        assert 1 <= one.chosen.count <= one.prefix
        for place in chosen.nonzero()[:, 0] if one.chosen.count > 1 else ():
            without = chosen.clone()
            without[place] = False
            assert not restored(digits[0], group, row, without)


def test_the_prefix_before_restores_and_the_one_below_it_does_not(digits, group, found):
    ranks = scorers.ranks(digits[0], trials.attack_conductance(group))
    for row, one in enumerate(found.images):
        assert restored(digits[0], group, row, ranks[row] < one.prefix)
        assert not restored(digits[0], group, row, ranks[row] < one.prefix - 1)


def test_the_set_for_all_restores_its_share_and_random_ones_restore_less(digits, group, found):
    chosen = patch.mask(digits[0], found.shared.chosen)
    share = sum(restored(digits[0], group, row, chosen) for row in range(len(group.images.samples))) / len(
        group.images.samples
    )
    assert found.shared.is_reached
    assert share == found.shared.effect.flipped >= found.shared.wanted
    assert found.shared.random.flipped < share
    assert found.random.recovery < found.effect.recovery
    assert found.effect.flipped == 1.0


def test_a_search_that_cannot_succeed_ends_with_all_maps_and_says_so():
    ranks = torch.arange(10).expand(2, -1)

    def never(choices, _problems):
        return torch.zeros(len(choices), dtype=torch.bool)

    assert minimal.smallest_prefix(ranks, 10, never).tolist() == [10, 10]
    every = torch.ones(2, 10, dtype=torch.bool)
    assert minimal.pruned(every, ranks, never).equal(every)


def test_the_search_finds_a_planted_pair_among_many():
    """Problem 0 needs maps 3 and 17, problem 1 map 5 alone; all else is ballast."""
    needed = torch.zeros(2, 40, dtype=torch.bool)
    needed[0, [3, 17]] = needed[1, 5] = True
    asked = []

    def suffices(choices, problems):
        asked.append(len(problems))
        return (choices | ~needed[problems]).all(dim=1)

    ranks = torch.arange(40).expand(2, -1)
    prefix = minimal.smallest_prefix(ranks, 40, suffices)
    assert prefix.tolist() == [18, 6]
    assert minimal.pruned(ranks < prefix[:, None], ranks, suffices).equal(needed)
    assert sum(asked) <= 2 * (6 + 6) + 18 + 6 + 2 + 2 + 2, "doubling, bisection, one round, and one more to be sure"


def test_pairs_that_do_not_fit_into_memory_at_once_give_the_same(group, pairs, monkeypatch):
    bundle = group.bundle
    chosen = scorers.at_random(bundle, len(group.images.samples), 40, torch.Generator().manual_seed(1))
    choices = torch.cat(chosen, dim=1)[None]
    whole = pairs.tried(choices)
    per_image = 4 * sum(site.channels * site.height * site.width for site in bundle.sites)
    monkeypatch.setattr(patch, "HELD", 2 * per_image)
    parts = patch.exchanges(group, "restore")
    assert parts.only is None
    assert len(list(parts.blocks())) == -(-len(group.images.samples) // 2)
    tried = parts.tried(choices)
    assert torch.allclose(tried.recovered, whole.recovered, atol=1e-4)
    assert tried.labels.equal(whole.labels)


def test_the_curve_ends_at_all_labels_and_its_lines_are_told(digits, request_, monkeypatch):
    total = int(scorers.eligible(digits[0]).sum())
    monkeypatch.setattr(causal, "COUNTS", (1, 16, total, total + 1))
    monkeypatch.setattr(causal, "DRAWS", 3)
    curve = causal.curve(*digits, request_, quiet)
    assert curve.counts == (1, 16, total)
    assert {line.name for line in curve.lines} | {item.partition(":")[0] for item in curve.missing} == set(CURVES)
    by_name = {line.name: line for line in curve.lines}
    for name in ("attack flow", "one set for all", "datapath difference", "largest change", "random"):
        assert by_name[name].effects[-1].flipped == 1.0
        assert by_name[name].effects[-1].recovery == pytest.approx(1.0, abs=1e-3)
    assert by_name["random"].effects[0].n == 3 * len(curve.group.samples)
    assert by_name["attack flow"].effects[1].recovery > by_name["random"].effects[1].recovery
    assert by_name["another image"].their_own[-1].value > 0.9
    assert by_name["noisy copy"].effects[1].flipped == 0.0
    assert curve.group.excluded == ("relu",)


def test_the_profile_leaves_out_what_restores_trivially(digits, request_, pairs, monkeypatch):
    monkeypatch.setattr(causal, "DRAWS", 2)
    profile = causal.profile(*digits, request_, quiet)
    named = {item.site for item in profile.sites}
    for site in digits[0].sites:
        assert (site.name in named) is (site.is_eligible and not site.is_cut)
    assert named.isdisjoint(profile.excluded)
    assert len(named) + len(profile.excluded) == len(digits[0].sites)
    cut = next(k for k, site in enumerate(digits[0].sites) if site.is_cut and k)
    every = torch.zeros(
        1, len(pairs.fooled.images.samples), sum(site.channels for site in digits[0].sites), dtype=torch.bool
    )
    start = sum(site.channels for site in digits[0].sites[:cut])
    every[..., start : start + digits[0].sites[cut].channels] = True
    assert pairs.tried(every).effect(pairs.fooled.true).flipped == 1.0, "which is why cut layers are left out"


def test_a_defence_is_tried_on_images_it_was_not_found_on(digits, request_, monkeypatch):
    monkeypatch.setattr(causal, "DRAWS", 2)
    monkeypatch.setattr(causal, "CLEAN_IMAGES", 40)
    monkeypatch.setattr(causal, "MEAN_IMAGES", 20)
    hint = causal.hint(*digits, request_, quiet)
    assert set(hint.searched.samples).isdisjoint(hint.held_out.samples)
    assert set(hint.searched.samples) | set(hint.held_out.samples) <= set(request_.samples)
    assert hint.clean.before.n == 40
    assert hint.adversarial.before.value == 0.0, "every held-out image was fooled"
    assert hint.clean.change.value == pytest.approx(hint.clean.after.value - hint.clean.before.value)
    assert hint.clean.beyond_random.value == pytest.approx(hint.clean.after.value - hint.clean.random.value)
    assert hint.shared.chosen.count == sum(len(channel) for channel in hint.shared.chosen.channels)


def test_draws_of_one_image_do_not_pass_for_independent_trials():
    """Two of ten images are always hit: twenty draws of each tell no more than one."""
    hits = torch.zeros(20, 10, dtype=torch.bool)
    hits[:, :2] = True
    many, alone = patch.share(hits), patch.share(hits[:1])
    assert many.value == alone.value == 0.2
    assert many.high - many.low > 0.4
    assert patch.share(torch.zeros(20, 10, dtype=torch.bool)).high > 0.01, "none of 200 is not none ever"


def test_images_that_resist_are_left_out_and_counted(digits):
    samples = digits[1].keys_of(3)[:4]
    weak = FooledRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=8/255,steps=3"), samples)
    attacked = subjects.attack(*digits, weak)
    assert 0 < int((attacked.before != attacked.after).sum()) < len(samples)
    left = subjects.of_attacked(*digits, weak, attacked)
    assert subjects.group(left, len(samples)).attempted == len(samples)
    assert len(left.images.samples) == int((attacked.before != attacked.after).sum())
    none = dataclasses.replace(weak, attack=engine.attack("pgd-linf:eps=0,steps=1"))
    with pytest.raises(BadInput, match="fools none of the 4 images"):
        subjects.gather_group(*digits, none)


def test_the_other_images_are_of_neither_class(group):
    others = group.others
    labels = others.labels[others.rows]
    assert others.rows.shape == (len(group.images.samples), subjects.OTHERS)
    assert not bool((labels == group.true[:, None]).any() | (labels == group.into[:, None]).any())
    assert all(len(set(row)) == len(row) for row in others.rows.tolist())


def test_a_third_class_is_neither_of_the_two(group):
    drawn = [causal.thirds(dataclasses.replace(group, seed=seed)) for seed in range(30)]
    assert all(not bool(((third == group.true) | (third == group.into)).any()) for third in drawn)
    assert len({tuple(third.tolist()) for third in drawn}) > 1


@pytest.mark.parametrize("kind", STUDIES)
def test_a_worker_answers_each_study_with_its_record(store, request_, monkeypatch, kind):
    for module in (causal, minimal, minimal):
        monkeypatch.setattr(module, "DRAWS", 2)
    monkeypatch.setattr(causal, "CLEAN_IMAGES", 20)
    monkeypatch.setattr(causal, "MEAN_IMAGES", 20)
    monkeypatch.setattr(minimal, "PASSES", 1)
    monkeypatch.setattr(causal, "COUNTS", (2, 8))
    few = dataclasses.replace(request_, samples=request_.samples[:4])
    asked = GroupTestRequest(few, MapSet(("layer2.0",), ((1, 5),)), "restore") if kind == "group-proof" else few
    key = f"{list(STUDIES).index(kind):032x}"
    task = tasks.TASKS[kind]
    worker.perform(tasks.order(task, key, asked), str(store.root))
    assert type(store.records.read(kind, key, task.record)) is task.record


def test_a_group_that_cannot_be_is_refused_before_any_work(store, request_):
    auditor = Auditor.open(store.root)
    for wrong, error in (
        ({"samples": ()}, BadInput),
        ({"samples": ("00001", "00001")}, BadInput),
        ({"samples": ("nobody",)}, UnknownName),
        ({"samples": tuple(f"{k:05d}" for k in range(MOST_FOOLED + 1))}, BadInput),
        ({"model": "none"}, UnknownName),
    ):
        with pytest.raises(error):
            auditor.smallest_sets(dataclasses.replace(request_, **wrong))
    auditor.close()


class Waiting:
    """Jobs that keep what they are given."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}

    def submit(self, task: dict[str, Any], **_told: str) -> bool:
        self.tasks[task["key"]] = task
        return True

    def wait(self, _key: str, _seconds: float) -> None:
        pass

    def progress(self, _key: str) -> Progress:
        return Progress("working", 1, 3, "Searching")


def test_the_facade_hands_a_study_in_once_and_finds_it_again(store, request_, monkeypatch):
    monkeypatch.setattr(minimal, "DRAWS", 2)
    monkeypatch.setattr(minimal, "PASSES", 1)
    jobs = Waiting()
    auditor = Auditor(store, jobs)
    few = dataclasses.replace(request_, samples=request_.samples[1:3], attack=engine.attack("pgd-linf"))
    spelled = dataclasses.replace(few, attack=engine.attack_at("pgd-linf", "8/255"))
    monkeypatch.setattr(subjects, "attack", functools.partial(stronger, subjects.attack))
    assert auditor.smallest_sets(few).state == auditor.smallest_sets(spelled).state == "working"
    (task,) = jobs.tasks.values()
    worker.perform(task, str(store.root))
    answer = auditor.smallest_sets(spelled)
    assert (answer.state, answer.value.group.samples) == ("ready", few.samples)


def stronger(attack, bundle, dataset, request):
    """The same images under an attack that fools all of them."""
    return attack(bundle, dataset, dataclasses.replace(request, attack=engine.attack(ATTACK)))
