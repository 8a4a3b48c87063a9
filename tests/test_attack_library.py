"""Targeted attacks, corruptions, and the attacks of pyautoattack behind our wrapper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from engine import images
from engine.attacks import autoattack, gradient, runner
from engine.attacks import noise as corruption
from engine.attacks.attacked import Subjects
from engine.errors import BadInput
from engine.specs import catalogue
from engine.specs.catalogue import CORRUPTIONS, ApgdCe, ApgdDlr, ApgdT, Square
from tests import toys

COUNT = 24
STRONG = "32/255"
CLASSES = tuple("abcde")
SEEDS = torch.arange(COUNT) * 7919
SAMPLES = tuple(str(k) for k in range(COUNT))


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(toys.seeded(toys.Residual(len(CLASSES)), 3), classes=CLASSES)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return toys.pictures(COUNT)


@pytest.fixture(scope="module")
def labels(bundle, pictures) -> Tensor:
    with torch.no_grad():
        return bundle.logits(pictures).argmax(dim=1)


def attacked(bundle, pictures, labels, identifier: str):
    return runner.run(bundle, pictures, labels, catalogue.attack(identifier), SEEDS, samples=SAMPLES)


def fooled(result) -> np.ndarray:
    return np.array([outcome.status == "fooled" for outcome in result.outcomes])


# Targeted attacks


def test_targets_follow_their_rule_and_are_never_the_label(bundle, pictures, labels):
    with torch.no_grad():
        logits = bundle.logits(pictures)
    least = gradient.targets_of("least-likely", labels, logits, SEEDS)
    assert torch.equal(least, logits.argmin(dim=1))
    assert torch.equal(gradient.targets_of("next", labels, logits, SEEDS), (labels + 1) % 5)
    drawn = gradient.targets_of("random", labels, logits, SEEDS)
    assert torch.equal(drawn[3:4], gradient.targets_of("random", labels[3:4], logits[3:4], SEEDS[3:4]))
    assert len(((drawn - labels) % 5).unique()) == 4
    flat = torch.zeros(COUNT, 5)
    for rule in ("next", "least-likely", "random"):
        assert not (gradient.targets_of(rule, labels * 0, flat, SEEDS) == 0).any()
    assert gradient.targets_of("none", labels, logits, SEEDS) is None


class Linear:
    """Five classes, each as near as any other: every target is within reach."""

    classes, device = CLASSES, torch.device("cpu")

    def __init__(self) -> None:
        self.network = nn.Linear(3 * 8 * 8, 5, bias=False)
        with torch.no_grad():
            self.network.weight.copy_(torch.randn(5, 192, generator=torch.Generator().manual_seed(0)))

    def logits(self, given: Tensor) -> Tensor:
        return self.network((given - 0.5).flatten(1))


@pytest.mark.parametrize("name", ["fgsm-linf", "pgd-linf", "pgd-l2", "pgd-l1", "mifgsm-linf"])
def test_a_targeted_attack_reaches_its_target_where_an_untargeted_one_goes_anywhere(name, pictures):
    model, epsilon = Linear(), {"pgd-l2": "2", "pgd-l1": "12"}.get(name, "48/255")
    with torch.no_grad():
        own = model.logits(pictures).argmax(dim=1)
    aimed = attacked(model, pictures, own, f"{name}:eps={epsilon},target=random").outcomes
    free = attacked(model, pictures, own, f"{name}:eps={epsilon}").outcomes
    assert all(outcome.target is None for outcome in free)
    assert all(outcome.after.label == outcome.target != outcome.label for outcome in aimed)
    assert sum(other.after.label == one.target for one, other in zip(aimed, free, strict=True)) < COUNT // 2


def test_an_image_that_was_wrong_to_begin_with_has_no_target(bundle, pictures, labels):
    wrong = labels.clone()
    wrong[0] = (labels[0] + 1) % 5
    outcomes = attacked(bundle, pictures, wrong, "fgsm-linf:target=next").outcomes
    assert outcomes[0].target is None
    assert outcomes[1].target == (int(labels[1]) + 1) % 5


# pyautoattack


def _reference(attack_class, bundle, subjects, epsilon: float, **options) -> Tensor:
    """The library's own `perturb`, which returns the clean image where it did not succeed."""
    attack = attack_class(bundle.logits, norm="Linf", eps=epsilon, n_iter=20, seed=0, device=bundle.device, **options)
    return attack.perturb(subjects.images, subjects.labels)


@pytest.mark.parametrize(
    ("spec", "attack_class", "options"),
    [
        (ApgdCe, APGDAttack, {"loss": "ce"}),
        (ApgdDlr, APGDAttack, {"loss": "dlr"}),
        (ApgdT, APGDAttack_targeted, {"n_target_classes": 4}),
    ],
)
def test_our_loop_breaks_as_many_images_as_the_librarys_own(spec, attack_class, options, bundle, pictures, labels):
    """Starts differ (ours are each image's own), so the sets may differ by the few images that depend on them."""
    result = attacked(bundle, pictures, labels, f"{spec.name}:eps=12/255,steps=20")
    subjects = Subjects(pictures, images.to_bytes(pictures.numpy()), labels, SEEDS)
    with torch.random.fork_rng():
        points = _reference(attack_class, bundle, subjects, 12 / 255, **options)
    with torch.no_grad():
        theirs = (bundle.logits(points).argmax(dim=1) != labels).numpy()
    assert 3 <= theirs.sum() < COUNT
    assert (fooled(result) != theirs).sum() <= 2


def test_given_the_same_start_apgd_takes_the_librarys_steps(bundle, pictures, labels, monkeypatch):
    def draw(shape: torch.Size) -> Tensor:
        torch.manual_seed(0)
        return 2 * torch.rand(shape) - 1

    def their_start(given: Tensor, _seeds: Tensor, epsilon: float) -> Tensor:
        noise = draw(given.shape)
        return (given + epsilon * noise / noise.abs().amax(dim=(1, 2, 3), keepdim=True)).clamp(0, 1)

    monkeypatch.setattr(autoattack, "_start", their_start)
    spec = ApgdCe(steps=20)
    subjects = Subjects(pictures, images.to_bytes(pictures.numpy()), labels, SEEDS)
    seen = {}

    class Kept(autoattack.Strongest):
        def offer(self, rows: Tensor, points: Tensor) -> None:
            seen.setdefault("points", points)
            super().offer(rows, points)

    monkeypatch.setattr(autoattack, "Strongest", Kept)
    with torch.random.fork_rng():
        autoattack.attack(bundle, subjects, spec)
        attack = APGDAttack(bundle.logits, norm="Linf", eps=8 / 255, n_iter=20, seed=0, loss="ce", device="cpu")
        attack.init_hyperparam(pictures)
        torch.manual_seed(0)
        best = attack.attack_single_run(pictures, labels)[0]
    assert torch.allclose(seen["points"], best, atol=1e-6)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "square"])
def test_a_resisting_image_is_a_real_perturbation(name, bundle, pictures, labels):
    queries = "queries=30" if name == "square" else "steps=5"
    result = attacked(bundle, pictures, labels, f"{name}:eps=2/255,{queries}")
    statuses = [outcome.status for outcome in result.outcomes]
    assert "resisted" in statuses
    assert "unperturbed" not in statuses


def test_of_the_points_offered_the_one_that_fools_is_kept_and_then_the_one_of_the_highest_loss(
    bundle, pictures, labels
):
    strong = attacked(bundle, pictures, labels, f"pgd-linf:eps={STRONG}")
    weak = attacked(bundle, pictures, labels, "noise-sign:eps=1/255")
    broken, held = int(np.flatnonzero(fooled(strong))[0]), int(np.flatnonzero(~fooled(weak))[0])
    subjects = Subjects(pictures, images.to_bytes(pictures.numpy()), labels, SEEDS)
    strongest = autoattack.Strongest.of(bundle, subjects, catalogue.attack_at("apgd-ce", STRONG))
    row = torch.tensor([broken])
    points = {
        name: runner.unit(result.stored, bundle.device)[row] for name, result in (("strong", strong), ("weak", weak))
    }
    for name in ("weak", "strong", "weak"):
        strongest.offer(row, points[name])
    assert np.array_equal(strongest.stored[broken], strong.stored[broken])
    assert broken not in strongest.left().tolist()
    assert held in strongest.left().tolist() or held == broken


class Scripted:
    """An attack of the library that returns given points: the strongest, which ones were broken, and the last that fool."""

    def __init__(self, best: Tensor, fooling: Tensor) -> None:
        self.best, self.fooling, self.y_target, self.target_class = best, fooling, None, None

    def __call__(self, *_positional, **_named) -> Scripted:
        return self

    def init_hyperparam(self, _images: Tensor) -> None:
        """Nothing to prepare."""

    def attack_single_run(self, images: Tensor, *_positional, **named):
        if "is_targeted" in named:
            return self.best
        return self.best, torch.zeros(len(images)), None, self.fooling


@pytest.mark.parametrize(("name", "attack_class"), [("apgd-ce", "APGDAttack"), ("fab-t", "FABAttack_PT")])
def test_where_rounding_undoes_a_point_of_the_library_another_one_is_tried(
    name, attack_class, bundle, pictures, labels, monkeypatch
):
    """APGD: the last point that fooled. FAB: the same change at the whole budget."""
    strong = attacked(bundle, pictures, labels, f"pgd-linf:eps={STRONG}")
    change = runner.unit(strong.stored, bundle.device) - pictures
    monkeypatch.setattr(autoattack, attack_class, Scripted(pictures + 0.4 / 32 * change, pictures + change))
    found = attacked(bundle, pictures, labels, f"{name}:eps={STRONG},steps=1")
    assert fooled(strong).sum() > 3
    full = np.abs(strong.stored.astype(int) - images.to_bytes(pictures.numpy())).max(axis=(1, 2, 3)) == 32
    assert np.array_equal(fooled(found)[full], fooled(strong)[full])


def test_a_point_that_is_not_finite_gives_its_image_up(bundle, pictures, labels):
    subjects = Subjects(pictures, images.to_bytes(pictures.numpy()), labels, SEEDS)
    strongest = autoattack.Strongest.of(bundle, subjects, Square())
    spoiled = pictures.clone()
    spoiled[2, 0, 0, 0] = torch.nan
    strongest.offer(torch.arange(COUNT), spoiled)
    assert strongest.broken.nonzero()[:, 0].tolist() == [2]


@pytest.mark.parametrize(("name", "classes"), [("apgd-dlr", 2), ("apgd-t", 3), ("fab-t", 1)])
def test_too_few_classes_are_refused_before_the_network_is_asked(name, classes, pictures):
    class Silent:
        network, device = nn.Identity(), torch.device("cpu")

        def __init__(self) -> None:
            self.classes = CLASSES[:classes]

        def logits(self, _images: Tensor) -> Tensor:
            raise RuntimeError

    with pytest.raises(BadInput, match=f"Not applicable: {name} needs at least {classes + 1} classes"):
        attacked(Silent(), pictures, torch.zeros(COUNT, dtype=torch.int64), name)


@pytest.mark.parametrize(
    ("name", "classes"), [("apgd-dlr", 3), ("apgd-t", 4), ("fab-t", 2), ("fab-t", 3), ("apgd-ce", 2)]
)
def test_the_fewest_classes_an_attack_takes_are_enough(name, classes, pictures):
    bundle = toys.bundle(toys.seeded(toys.Residual(classes), 4), classes=CLASSES[:classes])
    with torch.no_grad():
        own = bundle.logits(pictures).argmax(dim=1)
    result = attacked(bundle, pictures, own, f"{name}:eps={STRONG},steps=5")
    assert fooled(result).any()


def test_square_needs_no_gradient():
    class Stepped(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return (given * 8).round() / 8

    class Masked:
        network, classes, device = Stepped(), CLASSES, torch.device("cpu")

        def __init__(self, bundle) -> None:
            self.bundle = bundle

        def logits(self, given: Tensor) -> Tensor:
            return self.bundle.logits(self.network(given))

    plain = toys.bundle(toys.seeded(toys.Residual(5), 3), classes=CLASSES)
    masked, pictures = Masked(plain), toys.pictures(COUNT)
    with torch.no_grad():
        own = masked.logits(pictures).argmax(dim=1)
    blind = fooled(attacked(masked, pictures, own, f"square:eps={STRONG},queries=200"))
    assert blind.sum() > 2 * fooled(attacked(masked, pictures, own, f"apgd-ce:eps={STRONG},steps=20")).sum()


def test_fab_finds_changes_smaller_than_the_budget(bundle, pictures, labels):
    result = attacked(bundle, pictures, labels, f"fab-t:eps={STRONG},steps=20")
    sizes = [outcome.linf for outcome in result.outcomes if outcome.status == "fooled"]
    assert len(sizes) > 3
    assert np.median(sizes) < 24 / 255


# Corruptions


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_more(name):
    smooth = torch.nn.functional.interpolate(toys.pictures(6, side=8), size=(32, 32), mode="bilinear")
    changes = [
        float((corruption.corrupted(CORRUPTIONS[name](level), smooth, SEEDS[:6]) - smooth).norm())
        for level in (1, 2, 3)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (3, 33)])
def test_a_corruption_keeps_the_shape_and_the_range(name, channels, side):
    given = toys.pictures(3, side=side)[:, :channels]
    found = corruption.corrupted(CORRUPTIONS[name](3), given, SEEDS[:3])
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1


def test_noise_corruptions_have_the_size_they_state():
    grey = torch.full((4, 3, 64, 64), 0.5)
    normal = corruption.corrupted(CORRUPTIONS["corruption-gaussian-noise"](1), grey, SEEDS[:4]) - grey
    assert float(normal.std()) == pytest.approx(0.04, rel=0.03)
    shot = corruption.corrupted(CORRUPTIONS["corruption-shot-noise"](2), grey, SEEDS[:4]) - grey
    assert float(shot.std()) == pytest.approx(np.sqrt(0.5 / 25), rel=0.03)
    impulse = corruption.corrupted(CORRUPTIONS["corruption-impulse-noise"](3), grey, SEEDS[:4])
    assert float((impulse != grey).float().mean()) == pytest.approx(0.12, rel=0.05)
    assert float((impulse == 1).sum() / (impulse == 0).sum()) == pytest.approx(1, rel=0.1)


def test_autoattack_is_the_name_of_all_four_stages_with_standard_parameters():
    epsilon = catalogue.attack("apgd-ce").epsilon
    full = catalogue.autoattack(epsilon)
    assert [spec.text for spec in full] == [
        "apgd-ce:eps=8/255,steps=100",
        "apgd-t:eps=8/255,steps=100",
        "fab-t:eps=8/255,steps=100",
        "square:eps=8/255,queries=5000",
    ]
    assert catalogue.is_autoattack(full, epsilon, 10)
    assert not catalogue.is_autoattack(full, epsilon, 3)
    assert not catalogue.is_autoattack(full[:3], epsilon, 10)
    assert not catalogue.is_autoattack((*full[:3], Square(epsilon, 1000)), epsilon, 10)


def test_nine_targets_are_tried_of_ten_classes(pictures):
    bundle = toys.bundle(toys.seeded(toys.Residual(10), 4), classes=tuple("abcdefghij"))
    asked = []

    class Watched:
        network, classes, device = bundle.network, bundle.classes, bundle.device

        def logits(self, given: Tensor) -> Tensor:
            asked.append(given.requires_grad)
            return bundle.logits(given)

    with torch.no_grad():
        own = bundle.logits(pictures).argmax(dim=1)
    result = attacked(Watched(), pictures, own, "apgd-t:eps=1/255,steps=3")
    assert not fooled(result).all()
    assert sum(asked) == 9 * (3 + 1)
