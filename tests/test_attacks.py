"""Attacks: laws over the whole catalogue, proof against an independent implementation, and what a run leaves behind."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchattack
from torch import Tensor, nn

from engine import images
from engine.attacks import autoattack, gradient, guards, noise, runner
from engine.attacks.attacked import Fellows
from engine.errors import BadInput
from engine.models.network import predictions
from engine.specs import catalogue, threat_model
from engine.specs.catalogue import ATTACKS, Fgsm, MiFgsm, NoiseGaussian, PgdLinf

CLASSES = tuple("abcd")
COUNT = 32
STRONG = Fraction(32, 255)
BUDGETED = [name for name in ATTACKS if ATTACKS[name].epsilon is not None]
REAL_ATTACKS = [name for name, spec in ATTACKS.items() if not spec.is_control]
FEW = {"steps": 10, "queries": 100}
"""Of the attacks that are long by default: enough for a network of four feature maps."""
STEADY = {f"corruption-{kind}" for kind in ("blur", "brightness", "contrast", "jpeg", "pixelate")}
"""Corruptions that draw nothing at random."""


@dataclass(frozen=True, eq=False)
class Model:
    """What the engine's bundle offers to an attack."""

    network: nn.Module
    classes: tuple[str, ...] = CLASSES

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def logits(self, pictures: Tensor) -> Tensor:
        """Computed in float64, where batch size does not change which way a gradient points."""
        return self.network(pictures.double())


def test_every_attack_has_a_runner_and_its_familys_tables_know_it():
    tables = {
        "ascent": gradient.CLIMBERS,
        "library": autoattack.PROPOSERS,
        "matched noise": runner.MATCHED,
        "corruption": noise.CORRUPTERS,
    }
    for spec in ATTACKS.values():
        assert spec.family in runner.RUNNERS
        assert spec in tables.get(spec.family, {spec: None})
    assert sum(map(len, tables.values())) == sum(spec.family in tables for spec in ATTACKS.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_only_an_attack_with_a_budget_has_a_limit(name):
    spec = ATTACKS[name]()
    assert (spec.limit(64) is None) == (spec.epsilon is None) == (spec.norm is threat_model.NO_NORM)


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 8 * 8, len(CLASSES)),
        )
    return Model(network.double().eval())


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    values = np.random.default_rng(0).integers(0, 256, size=(COUNT, 1, 8, 8), dtype=np.uint8)
    return torch.from_numpy(images.to_float(values))


@pytest.fixture(scope="module")
def labels(model, pictures) -> Tensor:
    with torch.no_grad():
        return model.logits(pictures).argmax(dim=1)


SEEDS = torch.arange(COUNT) * 7919


def quick(name: str, **values):
    """The defaults of an attack, but short."""
    spec = ATTACKS[name]()
    found = {field.name: min(FEW[field.name], getattr(spec, field.name)) for field in fields(spec) if field.name in FEW}
    return replace(spec, **found, **values)


def quick_at(name: str, epsilon: str):
    return quick(name, epsilon=catalogue.attack_at(name, epsilon).epsilon)


SAMPLES = tuple(f"{index:05d}" for index in range(COUNT))


def attacked(model, pictures, labels, spec, seeds=SEEDS):
    samples, fellows = SAMPLES[: len(pictures)], fellows_of(pictures, labels)
    return runner.run(model, pictures, labels, spec, seeds[: len(pictures)], samples=samples, fellows=fellows)


def fellows_of(pictures, labels) -> Fellows:
    """What an attack on a whole class learns from; nothing that was learned before is known again."""
    return Fellows(f"pictures {next(CALLS)}", lambda label, count: pictures[labels == label][:count])


CALLS = itertools.count()


def changes(result, pictures) -> np.ndarray:
    return result.stored.astype(int) - images.to_bytes(pictures.numpy())


def never(rows: Tensor, _points: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.bool)


# Laws that every attack and control obeys


@pytest.mark.parametrize("name", BUDGETED)
def test_no_budget_means_no_change(name, model, pictures, labels):
    result = attacked(model, pictures, labels, quick_at(name, "0"))
    assert not changes(result, pictures).any()
    assert {outcome.status for outcome in result.outcomes} == {"unperturbed"}


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("epsilon", ["1/255", "8/255", "13.5/255", "0.5"])
def test_a_stored_image_stays_within_its_budget(name, epsilon, model, pictures, labels):
    spec = quick_at(name, epsilon)
    change = changes(attacked(model, pictures, labels, spec), pictures) / 255
    if spec.norm.name == "linf":
        assert np.abs(change).max() <= float(spec.epsilon) + 1e-12
    elif spec.norm.name == "l1":
        assert np.abs(change).sum(axis=(1, 2, 3)).max() <= float(spec.epsilon) + 1e-12
    elif spec.norm.name == "area":
        for item in change.any(axis=1):
            rows, columns = np.nonzero(item)
            sides = [line.max() - line.min() + 1 if len(line) else 0 for line in (rows, columns)]
            assert max(sides) ** 2 <= float(spec.epsilon) * 64 + 1e-12
    else:
        assert spec.norm.name == "l2", "a norm of its own needs a branch here"
        limit = float(spec.epsilon) * (8 if isinstance(spec, NoiseGaussian) else 1)  # 8 = sqrt(64 pixels)
        assert np.sqrt((change**2).sum(axis=(1, 2, 3))).max() <= limit + 1e-12


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seeds_give_the_same_images(name, model, pictures, labels):
    first, second = (attacked(model, pictures, labels, quick(name)) for _ in range(2))
    assert np.array_equal(first.stored, second.stored)
    assert first.outcomes == second.outcomes


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if name not in ("fgsm-linf", "mifgsm-linf", "fab-t") and name not in STEADY]
)
def test_another_seed_gives_another_image(name, model, pictures, labels):
    spec = quick(name)
    first, second = (attacked(model, pictures, labels, spec, SEEDS + shift) for shift in (0, 1))
    # Not every image: PGD ends in the same corner from many starts.
    assert (first.stored != second.stored).any(axis=(1, 2, 3)).sum() > COUNT // 2


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_does_not_depend_on_its_batch_mates(name, model, pictures, labels):
    """Exact in float64; in float32 a convolution may round differently in a batch of another size."""
    together = attacked(model, pictures, labels, quick(name))
    for k in (0, 13):
        row = slice(k, k + 1)
        fellows = fellows_of(pictures, labels)
        alone = runner.run(
            model, pictures[row], labels[row], quick(name), SEEDS[row], samples=SAMPLES[row], fellows=fellows
        )
        assert np.array_equal(alone.stored[0], together.stored[k])


@pytest.mark.parametrize("name", ATTACKS)
def test_norms_and_answers_are_those_of_the_stored_image(name, model, pictures, labels):
    result = attacked(model, pictures, labels, quick(name))
    change = changes(result, pictures) / 255
    with torch.no_grad():
        again = predictions(model.logits(runner.unit(result.stored, model.device)))
    for k, outcome in enumerate(result.outcomes):
        # Some processors round the last bit of a batch otherwise than that of a part of it.
        assert outcome.after.label == again[k].label
        assert outcome.after.confidence == pytest.approx(again[k].confidence, rel=1e-12)
        assert outcome.linf == pytest.approx(np.abs(change[k]).max(), abs=1e-12)
        assert outcome.l2 == pytest.approx(np.linalg.norm(change[k].ravel()), abs=1e-12)
        assert outcome.l1 == pytest.approx(np.abs(change[k]).sum(), abs=1e-12)
        assert outcome.area == threat_model.AREA.sizes(change[k : k + 1])[0]
        assert outcome.sample == SAMPLES[k]
        assert (outcome.status == "fooled") == (outcome.after.label != outcome.label)


@pytest.mark.parametrize("name", ATTACKS)
def test_images_that_are_wrong_to_begin_with_are_left_alone(name, model, pictures, labels):
    mislabelled = labels.clone()
    mislabelled[::2] = (labels[::2] + 1) % len(CLASSES)
    result = attacked(model, pictures, mislabelled, quick(name))
    assert [outcome.status == "clean_wrong" for outcome in result.outcomes] == [k % 2 == 0 for k in range(COUNT)]
    assert not changes(result, pictures)[::2].any()
    assert changes(result, pictures)[1::2].any()


# What the attacks do


CLEAR = {"linf": "24/255", "l2": "1", "l1": "3", "area": "1/4"}
"""Strengths at which attacks on this network succeed, by norm."""
OF_NORM = {
    "linf": ("noise-sign", "noise-gaussian", "noise-shuffled"),
    "l2": (),
    "l1": ("noise-sparse",),
    "area": ("noise-patch",),
}


ALONE = [name for name in REAL_ATTACKS if name != "universal-patch"]
"""Those that look at one image alone. On pictures of noise, images of a class have nothing in common that could be learned."""


@pytest.mark.parametrize("name", ALONE)
def test_an_attack_fools_where_its_controls_do_not(name, model, pictures, labels):
    epsilon = CLEAR[ATTACKS[name].norm.name]
    fooled = {
        key: sum(
            outcome.status == "fooled" for outcome in attacked(model, pictures, labels, quick_at(key, epsilon)).outcomes
        )
        for key in (name, *OF_NORM[ATTACKS[name].norm.name])
    }
    assert fooled.pop(name) > COUNT // 2
    assert all(count < COUNT // 4 for count in fooled.values())


@pytest.mark.parametrize(
    ("spec", "independent"),
    [
        (MiFgsm(), lambda net: torchattack.MIFGSM(net, device="cpu", eps=8 / 255, steps=10)),
        (Fgsm(), lambda net: torchattack.FGSM(net, device="cpu", eps=8 / 255)),
        (
            PgdLinf(),
            lambda net: torchattack.PGD(net, device="cpu", eps=8 / 255, steps=10, alpha=2 / 255, random_start=False),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_ascents_are_bit_identical_to_an_independent_implementation(spec, independent, model, pictures, labels):
    """Before rounding, without stopping and without a random start, on 32 images (a mean over 32 scales exactly)."""
    network = nn.Sequential(model.network[:3], nn.Flatten(), model.network[4]).float()
    try:
        plain = _Float32(network)
        task = gradient.Task(pictures, labels, torch.zeros_like(pictures))
        with guards.isolated(network):
            ours = gradient.ascend(plain, task, gradient.ascent_of(spec), never).last
        theirs = independent(network)(pictures, labels).detach()
    finally:
        model.network.double()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, pictures)


class _Float32(Model):
    def logits(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)


def test_a_zero_gradient_does_not_stop_mifgsm_for_good(pictures):
    ascent = gradient.ascent_of(MiFgsm())
    still, momentum = ascent.advance(pictures, *(torch.zeros_like(pictures),) * 3)
    moved, _ = ascent.advance(pictures, still, momentum, torch.ones_like(pictures))
    assert (moved[pictures < 0.9] > 0).all()


def test_pgd_steps_cross_the_budget_whatever_their_number():
    sizes = {steps: gradient.ascent_of(PgdLinf(steps=steps)).size for steps in (10, 40)}
    assert sizes[10] == pytest.approx(2 / 255)
    assert sizes[40] == pytest.approx(0.5 / 255)


@pytest.mark.parametrize("epsilon", ["0.5", "3", "12"])
def test_sparse_steps_gain_nearly_what_the_best_change_of_their_length_gains(epsilon):
    """On a linear network the best one is known: the values of largest weight are moved to their ends, one after the other."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (16, 1, 16, 16), generator=generator) / 255
    network = nn.Linear(256, 2, bias=False).double().requires_grad_(False)
    network.weight.copy_(0.01 * torch.randn(2, 256, generator=generator))
    weights = network.weight[1] - network.weight[0]
    spec = catalogue.attack_at("pgd-l1", epsilon)
    start = gradient.outset_of(spec, pictures, torch.arange(16)).change
    assert float(start.flatten(1).abs().sum(dim=1).max()) <= float(epsilon) + 1e-5
    task = gradient.Task(pictures, torch.zeros(16, dtype=torch.int64), start)
    model = Model(nn.Sequential(nn.Flatten(), network), ("a", "b"))
    found = gradient.ascend(model, task, gradient.ascent_of(spec), never).points
    assert found.min() >= 0 and found.max() <= 1
    change = (found - pictures).flatten(1).double()
    assert torch.allclose(change.abs().sum(dim=1), torch.tensor(float(epsilon), dtype=torch.float64), atol=1e-3)
    room = torch.where(weights > 0, 1 - pictures.flatten(1), pictures.flatten(1)).double()
    order = weights.abs().argsort(descending=True)
    before = room[:, order].cumsum(dim=1) - room[:, order]
    spent = (float(epsilon) - before).clamp_min(0.0).minimum(room[:, order])
    shares = (change @ weights) / (spent @ weights.abs()[order])
    assert shares.mean() > 0.97 and shares.min() > 0.9


def test_a_change_ends_at_the_nearest_point_of_the_ball_in_the_box():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(4, 40, generator=generator)
    wanted = torch.randn(4, 40, generator=generator)
    found = gradient._nearest_in_l1(pictures, wanted, 3.0)
    distance = (found - wanted).norm(dim=1)
    assert torch.allclose(found.abs().sum(dim=1), torch.tensor(3.0), atol=1e-4)
    for _ in range(200):
        other = (pictures + found + 0.05 * torch.randn(4, 40, generator=generator)).clamp(0.0, 1.0) - pictures
        other = other * (3.0 / other.abs().sum(dim=1, keepdim=True)).clamp_max(1.0)
        assert ((other - wanted).norm(dim=1) >= distance - 1e-5).all()
    inside = 0.01 * wanted
    kept = gradient._nearest_in_l1(pictures, inside, 3.0)
    assert torch.equal(kept, (pictures + inside).clamp(0.0, 1.0) - pictures), "what is inside is only cut to [0, 1]"


def climbed(model, task, accept) -> tuple[gradient.Found, Tensor, Tensor]:
    """Ascend while writing down every point and its loss: (steps, batch, ...), the start left out."""
    seen = []

    class Watched(Model):
        def logits(self, given: Tensor) -> Tensor:
            answer = model.logits(given)
            seen.append((given.detach(), torch.nn.functional.cross_entropy(answer, task.labels, reduction="none")))
            return answer

    # Steps as large as the budget jump from corner to corner, so the last point is often not the best.
    found = gradient.ascend(Watched(model.network), task, gradient.SignAscent(0.2, 0.4, 6), accept)
    return found, torch.stack([points for points, _ in seen[1:]]), torch.stack([losses for _, losses in seen[1:]])


def test_an_ascent_that_is_confined_changes_nothing_elsewhere_and_climbs_inside(model, pictures, labels):
    where = torch.zeros(COUNT, 1, 8, 8)
    where[::2, :, 2:5, 2:5] = 1
    task = gradient.Task(pictures, labels, torch.zeros_like(pictures), where=where)
    found = gradient.ascend(model, task, gradient.SignAscent(1.0, 0.25, 10), never)
    change = (found.points - pictures).abs()
    assert not change[where == 0].any()
    assert change[0].sum() > 1
    with torch.no_grad():
        assert (task.gains(torch.arange(COUNT), model.logits(found.points))[::2] > 0.5).all()


@pytest.mark.parametrize("accepts", [False, True])
def test_the_point_of_highest_loss_is_kept_whether_or_not_the_attack_succeeds(model, pictures, labels, accepts):
    task = gradient.Task(pictures, labels, torch.zeros_like(pictures))
    found, points, losses = climbed(model, task, lambda rows, _: torch.full((len(rows),), accepts, dtype=torch.bool))
    assert len(losses) == 6
    assert torch.equal(found.points, points[losses.argmax(dim=0), torch.arange(COUNT)])
    assert not torch.equal(found.points, found.last)


def test_where_the_strongest_point_does_not_succeed_the_first_that_does_is_kept(model, pictures, labels):
    task = gradient.Task(pictures, labels, torch.zeros_like(pictures))
    first: dict[int, Tensor] = {}

    def only_the_first_asked(rows: Tensor, points: Tensor) -> Tensor:
        answer = torch.tensor([row not in first for row in rows.tolist()])
        first.update({row: point for row, point in zip(rows.tolist(), points, strict=True) if row not in first})
        return answer

    found, _, losses = climbed(model, task, only_the_first_asked)
    assert first
    assert all(torch.equal(found.points[row], point) for row, point in first.items())
    assert found.crossed.nonzero()[:, 0].tolist() == sorted(first)
    assert len(losses) == 6


@pytest.mark.parametrize(
    ("spec", "backward", "forward"), [(Fgsm(Fraction(64, 255)), 1, 3), (PgdLinf(Fraction(64, 255)), 10, 13)]
)
@pytest.mark.parametrize("wrong", [0, 10])
def test_an_attack_asks_the_network_no_more_than_it_needs(spec, backward, forward, wrong, model, pictures, labels):
    """Beyond its steps: each stored image once, of several points the last one, and of an image that is wrong no more than that."""
    asked = []
    labels = torch.where(torch.arange(COUNT) < wrong, (labels + 1) % len(CLASSES), labels)

    class Counting(Model):
        def logits(self, given: Tensor) -> Tensor:
            asked.append((len(given), given.requires_grad))
            return model.logits(given)

    attacked(Counting(model.network), pictures, labels, spec)
    assert sum(count for count, is_climbed in asked if is_climbed) == backward * (COUNT - wrong)
    assert sum(count for count, _ in asked) <= COUNT + (forward - 1) * (COUNT - wrong)


def test_an_attack_goes_on_beyond_a_point_that_fools_only_before_rounding():
    class Threshold(Model):
        def logits(self, given: Tensor) -> Tensor:
            brightness = given.double().mean(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(brightness), 1000 * (brightness - 100.4 / 255)], dim=1)

    grey = torch.full((1, 1, 2, 2), 100 / 255)
    small_steps = MiFgsm(steps=80)
    result = attacked(Threshold(nn.Identity(), ("dark", "bright")), grey, torch.tensor([0]), small_steps)
    assert result.outcomes[0].status == "fooled"
    assert (result.stored == 108).all()


def test_where_rounding_undoes_the_strongest_point_the_first_that_survives_it_is_stored():
    class Peaks(Model):
        """Right but for two brightnesses: strongly wrong at 103.5, which is stored as 104, and weakly at 105."""

        def logits(self, given: Tensor) -> Tensor:
            brightness = given.double().mean(dim=(1, 2, 3))
            level = 255 * brightness.detach()
            margin = torch.full_like(level, -1.0)
            margin[(level - 103.5).abs() < 0.1] = 5.0
            margin[(level - 105).abs() < 0.1] = 1.0
            # The gradient always points up.
            margin = margin + brightness - brightness.detach()
            return torch.stack([torch.zeros_like(margin), margin], dim=1)

    grey = torch.full((1, 1, 2, 2), 100 / 255)
    result = attacked(Peaks(nn.Identity(), ("dark", "bright")), grey, torch.tensor([0]), MiFgsm(steps=16))
    assert result.outcomes[0].status == "fooled"
    assert (result.stored == 105).all()


def test_an_image_that_a_masked_gradient_left_alone_is_called_unperturbed(model, pictures):
    masked = Model(nn.Sequential(_Steps(), *model.network))
    with torch.no_grad():
        own = masked.logits(pictures).argmax(dim=1)
    statuses = {outcome.status for outcome in attacked(masked, pictures, own, Fgsm()).outcomes}
    assert statuses == {"unperturbed"}


def test_a_resisting_image_is_perturbed_even_if_every_step_lowers_its_loss(model, pictures, labels):
    class Backwards(Model):
        def logits(self, given: Tensor) -> Tensor:
            return self.network((2 * given.detach() - given).double())

    result = attacked(Backwards(model.network), pictures, labels, Fgsm())
    assert {outcome.status for outcome in result.outcomes} == {"resisted"}


def test_an_image_whose_gradient_is_not_finite_is_reported_as_failed(model, pictures, labels):
    class Rooted(Model):
        def logits(self, given: Tensor) -> Tensor:
            return self.network(given.double()) + 0 * (given - given.detach()).sqrt().sum()

    result = attacked(Rooted(model.network), pictures, labels, PgdLinf())
    assert {outcome.status for outcome in result.outcomes} == {"failed"}


class _Steps(nn.Module):
    """Quantises its input: the gradient is zero everywhere."""

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures * 8).round() / 8


def test_a_network_that_breaks_under_attack_is_reported_as_failed(model, pictures, labels):
    clean = pictures.double()

    class Fragile(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            answer = model.network(given)
            known = torch.isclose(given[:, None], clean, atol=1e-6).flatten(2).all(dim=2).any(dim=1)
            return torch.where(known[:, None], answer, torch.full_like(answer, torch.nan))

    result = attacked(Model(Fragile()), pictures, labels, PgdLinf())
    assert {outcome.status for outcome in result.outcomes} == {"failed"}
    assert not changes(result, pictures).any()
    assert all(outcome.after == outcome.before for outcome in result.outcomes)


# Noise


def test_gaussian_noise_is_as_long_as_the_perturbation_even_on_black(pictures):
    dark = pictures * (pictures > 0.6)
    delta = torch.full_like(dark, 0.05)
    copies = noise.same_norm_noise(dark, delta, SEEDS, draws=3)
    assert copies.shape == (3 * COUNT, 1, 8, 8)
    assert copies.min() >= 0 and copies.max() <= 1
    lengths = (copies - dark.repeat_interleave(3, dim=0)).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.full_like(lengths, 0.4), rtol=1e-4)


def test_noise_copies_of_an_image_differ_and_stand_in_image_order(pictures):
    delta = torch.full_like(pictures, 0.02)
    together = noise.same_norm_noise(pictures, delta, SEEDS, draws=2)
    alone = noise.same_norm_noise(pictures[3:4], delta[3:4], SEEDS[3:4], draws=2)
    assert torch.equal(together[6:8], alone)
    assert not torch.equal(together[6], together[7])


def test_no_perturbation_gives_no_noise(pictures):
    assert torch.equal(noise.same_norm_noise(pictures, torch.zeros_like(pictures), SEEDS, draws=1), pictures)


def test_the_matched_noise_is_never_longer_than_its_perturbation_and_hardly_shorter(model, pictures, labels):
    spec = NoiseGaussian(STRONG)
    noisy = attacked(model, pictures, labels, spec)
    pgd = attacked(model, pictures, labels, PgdLinf(spec.epsilon, spec.steps))
    for one, other in zip(noisy.outcomes, pgd.outcomes, strict=True):
        assert 0.97 * other.l2 < one.l2 <= other.l2 + 1e-12


def test_shuffling_keeps_every_value_of_the_perturbation():
    delta = torch.linspace(-0.1, 0.1, 2 * 3 * 16).view(2, 3, 4, 4)
    moved = noise.shuffled(torch.full_like(delta, 0.5), delta, torch.tensor([1, 2])) - 0.5
    assert torch.allclose(moved.flatten(2).sort(dim=2).values, delta.flatten(2).sort(dim=2).values, atol=1e-6)
    # Channels move together: what was one pixel's colour stays one pixel's colour.
    assert torch.allclose((moved[:, 1] - moved[:, 0]), (delta[:, 1] - delta[:, 0]), atol=1e-6)
    assert not torch.allclose(moved, delta, atol=1e-3)


def test_sign_noise_moves_every_pixel_by_the_whole_budget():
    grey = torch.full((2, 1, 4, 4), 0.5)
    assert torch.allclose((noise.sign_noise(grey, 0.1, torch.tensor([1, 2])) - 0.5).abs(), torch.tensor(0.1))


def test_sparse_noise_makes_values_black_or_white_until_its_length_is_spent(pictures):
    change = noise.sparse_noise(pictures, 5.3, SEEDS) - pictures
    assert torch.allclose(change.flatten(1).abs().sum(dim=1), torch.tensor(5.3), atol=1e-4)
    ends = pictures + change
    partly = (change != 0) & (ends > 1e-6) & (ends < 1 - 1e-6)
    assert (partly.flatten(1).sum(dim=1) <= 1).all()
    assert (change > 0.1).any() and (change < -0.1).any()
    assert torch.equal(noise.sparse_noise(pictures, 1000.0, SEEDS).unique(), torch.tensor([0.0, 1.0]))


def test_a_noise_patch_fills_one_square_of_its_area_anywhere_on_the_picture():
    grey = torch.full((200, 3, 8, 12), 0.5)
    change = noise.patched(grey, Fraction(10, 96), torch.arange(200)) != 0.5
    assert (change.flatten(2).sum(dim=2) == 9).all()
    assert np.allclose(threat_model.AREA.sizes(change.numpy()), 9 / 96)
    covered = change.any(dim=1).float().mean(dim=0)
    assert (covered > 0).all(), "every pixel is reached, corners too"


# Rounding


def test_rounding_goes_to_the_nearest_value_inside_the_box():
    clean = np.full((1, 1, 1, 4), 100, dtype=np.uint8)
    wanted = np.array([[[[108.4, 108.6, 91.5, 100.4]]]], dtype=np.float32) / 255
    assert threat_model.within_linf(clean, wanted, 8).ravel().tolist() == [108, 108, 92, 100]


def test_a_budget_below_one_step_allows_no_change():
    assert threat_model.linf_reach(Fraction(1, 2) / 255) == 0
    assert threat_model.linf_reach(Fraction(8, 255)) == 8


def test_an_area_is_that_of_the_smallest_square_around_every_changed_pixel():
    change = np.zeros((5, 3, 8, 10), dtype=np.int64)
    change[1, 2, 7, 9] = -1
    change[2, 0, 1, 2], change[2, 1, 3, 3] = 5, 5  # three rows high, two columns wide
    change[3, :, :4, 2:6] = 9
    change[4, 0, 0, 0] = change[4, 0, 7, 9] = 1
    assert threat_model.AREA.sizes(change).tolist() == [0, 1 / 80, 9 / 80, 16 / 80, 1]
    assert threat_model.AREA.sizes(change.swapaxes(2, 3)).tolist() == [0, 1 / 80, 9 / 80, 16 / 80, 1]


@pytest.mark.parametrize(("share", "side"), [("0", 0), ("1/81", 0), ("1/80", 1), ("3/80", 1), ("1/4", 4), ("1", 8)])
def test_the_largest_square_of_a_share_fits_into_it_and_into_the_picture(share, side):
    assert threat_model.square_side(Fraction(share), 8, 10) == side


def test_rounding_into_a_ball_moves_as_few_pixels_as_will_do():
    generator = np.random.default_rng(1)
    clean = generator.integers(60, 190, size=(20, 1, 8, 8), dtype=np.uint8)
    change = generator.normal(size=clean.shape)
    change *= 30.0 / np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
    wanted = ((clean + change) / 255).astype(np.float32)
    stored = threat_model.within_l2(clean, wanted, np.full(20, 900)).astype(int) - clean
    squares = (stored**2).sum(axis=(1, 2, 3))
    assert squares.max() <= 900
    assert squares.min() > 900 - 2 * np.abs(stored).max()
    assert np.abs(stored - change).max() < 1.0


def test_rounding_keeps_the_sum_of_changes_and_moves_no_value_by_a_step():
    generator = np.random.default_rng(2)
    clean = generator.integers(60, 190, size=(20, 1, 8, 8), dtype=np.uint8)
    change = generator.normal(size=clean.shape)
    change *= 80.6 / np.abs(change).sum(axis=(1, 2, 3), keepdims=True)
    wanted = ((clean + change) / 255).astype(np.float32)
    stored = threat_model.within_l1(clean, wanted, np.full(20, 80)).astype(int) - clean
    free = threat_model.within_l1(clean, wanted, np.full(20, 1000)).astype(int) - clean
    assert np.abs(free).sum(axis=(1, 2, 3)).max() > 80, "rounding to nearest leaves the ball"
    assert np.abs(stored).sum(axis=(1, 2, 3)).max() == 80
    assert np.abs(stored - change).max() < 1.0
    assert threat_model.L1.sizes(stored).max() == pytest.approx(80 / 255)


# The network comes back as it was


class Lived(nn.Module):
    """A network in use: one frozen batch norm, a dropout, a parameter without gradient and one with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 4))
        self.train()
        self.body[1].eval()
        self.body[0].weight.requires_grad_(False)
        self.body[4].bias.grad = torch.ones(4)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.body(pictures)


def snapshot(network: nn.Module) -> list[object]:
    return [
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [None if parameter.grad is None else parameter.grad.tolist() for parameter in network.parameters()],
        [buffer.tolist() for buffer in network.buffers()],
        [parameter.tolist() for parameter in network.parameters()],
        torch.random.get_rng_state().tolist(),
    ]


def test_a_network_comes_back_as_it_was(pictures):
    network = Lived()
    before = snapshot(network)
    with guards.isolated(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        network.train()
        network(pictures.requires_grad_()).sum().backward()
        network.zero_grad(set_to_none=False)
        torch.rand(3)
    pictures.requires_grad_(False)
    assert snapshot(network) == before


def test_a_network_comes_back_as_it_was_after_an_exception(pictures):
    network = Lived()
    before = snapshot(network)
    with pytest.raises(KeyError), guards.isolated(network):
        network.train()
        network(pictures)
        raise KeyError
    assert snapshot(network) == before


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_leaves_the_network_and_the_generator_alone(name, pictures):
    network = Lived().double()
    model = Model(network)
    before = snapshot(network)
    with guards.isolated(network), torch.no_grad():
        own = model.logits(pictures).argmax(dim=1)
    with torch.no_grad():
        attacked(model, pictures, own, quick(name))
    assert snapshot(network) == before


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_that_ends_in_an_exception_leaves_the_network_and_the_generator_alone(name, pictures):
    network = Lived().double()

    class Dying(Model):
        def logits(self, given: Tensor) -> Tensor:
            if asked:
                network.train()
                self.network(given.double()).sum().backward() if given.requires_grad else None
                raise KeyError
            asked.append(given)
            return self.network(given.double())

    asked: list[Tensor] = []
    before = snapshot(network)
    with guards.isolated(network), torch.no_grad():
        own = Model(network).logits(pictures).argmax(dim=1)
    with pytest.raises(KeyError):
        attacked(Dying(network), pictures, own, quick(name))
    assert snapshot(network) == before


def test_a_network_that_autograd_cannot_see_through_leaves_images_as_they_are(model, pictures, labels):
    class Severed(Model):
        def logits(self, given: Tensor) -> Tensor:
            return model.logits(given).detach()

    for name in ("fgsm-linf", "mifgsm-linf", "fab-t"):
        statuses = {
            outcome.status for outcome in attacked(Severed(model.network), pictures, labels, quick(name)).outcomes
        }
        assert statuses == {"unperturbed"}


# What is refused


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * 255, r"must lie in \[0, 1\]"),
        (lambda x: (x - 0.5) / 0.5, r"must lie in \[0, 1\]"),
        (lambda x: x.masked_fill(x > 0.9, float("nan")), r"must lie in \[0, 1\]"),
        (lambda x: (x * 255).to(torch.uint8), "must be float32"),
        (lambda x: x.double(), "must be float32"),
        (lambda x: x[0], "must be .batch, channels, height, width."),
        (lambda x: x[:0], "not empty"),
        (lambda x: (x + 0.3 / 255).clamp(max=1), "8-bit values divided by 255"),
    ],
)
def test_images_that_are_not_eight_bit_in_0_to_1_are_refused(spoil, message, model, pictures, labels):
    with pytest.raises(BadInput, match=message):
        attacked(model, spoil(pictures), labels, Fgsm())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: y.masked_fill(y == y[0], -100), "Labels must lie between 0 and 3, got -100"),
        (lambda y: y.masked_fill(y == y[0], 4), "Labels must lie between 0 and 3, got 4"),
        (lambda y: y.float(), "Labels must be .32,. int64"),
        (lambda y: y[:5], "Labels must be .32,. int64"),
    ],
)
def test_labels_that_are_no_classes_are_refused(spoil, message, model, pictures, labels):
    with pytest.raises(BadInput, match=message):
        attacked(model, pictures, spoil(labels), Fgsm())


def test_every_image_needs_a_seed_and_a_key(model, pictures, labels):
    with pytest.raises(BadInput, match="Seeds must be"):
        runner.run(model, pictures, labels, Fgsm(), SEEDS[:3], samples=SAMPLES)
    with pytest.raises(BadInput, match="one sample key per image, got 3 for 32"):
        runner.run(model, pictures, labels, Fgsm(), SEEDS, samples=SAMPLES[:3])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: logits.softmax(dim=1), "probabilities"),
        (lambda logits: logits[:, :3], r"one tensor of shape \(32, 4\), got \(32, 3\)"),
        (lambda logits: (logits, logits), "got tuple"),
        (lambda logits: logits / 0, "not finite"),
    ],
)
def test_a_network_that_does_not_answer_logits_is_refused(answer, message, model, pictures, labels):
    class Odd(Model):
        def logits(self, given: Tensor) -> Tensor:
            return answer(model.logits(given))

    with pytest.raises(BadInput, match=message):
        attacked(Odd(model.network), pictures, labels, Fgsm())


# Predictions


def test_predictions_hold_the_five_largest_shares():
    (found,) = predictions(torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0, -2.0]]))
    assert found.label == 1
    assert [label for label, _ in found.top] == [1, 3, 2, 0, 4]
    assert found.top[0] == (found.label, found.confidence)
    assert found.confidence == pytest.approx(np.exp(3) / np.exp([0, 3, 1, 2, -1, -2]).sum())


def test_a_confident_prediction_still_orders_its_runners_up():
    (found,) = predictions(torch.tensor([[200.0, 0.0, 10.0]]))
    assert [label for label, _ in found.top] == [0, 2, 1]
    assert found.top[1][1] > found.top[2][1] > 0


@pytest.mark.cluster
def test_importing_the_engine_imports_no_torch():
    code = "import sys, engine, engine.images, engine.data.sources, engine.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GROWING = {
    "linf": ("2/255", "8/255", "24/255", "64/255"),
    "l2": ("0.25", "0.5", "1", "2"),
    "l1": ("0.5", "1", "2", "4"),
    "area": ("1/64", "1/16", "9/64", "1/4"),
}


@pytest.mark.parametrize("name", ALONE)
def test_more_budget_never_fools_fewer(name, model, pictures, labels):
    budgets = GROWING[ATTACKS[name].norm.name]
    specs = [quick_at(name, budget) for budget in budgets]
    counts = [
        sum(outcome.status == "fooled" for outcome in attacked(model, pictures, labels, spec).outcomes)
        for spec in specs
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
