"""The finding that decides the design: a mask that keeps the answer keeps the label, not the image.

Keep a share of every site, zero the rest, and the network still gives the image's class. Put an image of another class
through the same mask: it is given that class too. Guarded on a residual network and on a plain one without batch norm.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine import demo
from engine.attribution import datapaths, scorers
from engine.attribution.baselines import Case
from engine.demo import train
from engine.models import checkpoints
from engine.models import network as bundles
from engine.models.hooks import PerMap
from engine.models.zoo import DIGITS_MEAN, DIGITS_STD, DigitsResNet

IMAGES = 60


class PlainNetwork(nn.Sequential):
    """VGG in small: pairs of 3x3 convolutions with bias, pooling between them, no batch norm and no shortcut."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inputs = 1
        for width in (16, 32, 48):
            for _ in range(2):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)


def residual() -> nn.Module:
    network = DigitsResNet()
    network.load_state_dict(checkpoints.read(demo.weights("digits-standard")))
    return network.eval()


def plain() -> nn.Module:
    return train.train("standard", 10, 0, make=PlainNetwork)


@pytest.fixture(scope="module", params=[residual, plain], ids=["residual", "plain"])
def trained(request):
    declared = bundles.Preprocessing(1, (32, 32), DIGITS_MEAN, DIGITS_STD)
    bundle = bundles.bundle(request.param(), declared, bundles.Identity(demo.CLASSES))
    images, labels = train.tensors(demo.held_out())
    with torch.no_grad():
        right = (torch.cat([bundle.logits(part) for part in images.split(100)]).argmax(1) == labels).nonzero()[:, 0]
    assert len(right) >= 0.95 * len(labels)
    case = Case(images[right][:IMAGES], labels[right][:IMAGES])
    return bundle, case, scorers.train(bundle, case, seed=0)


def kept_and_swapped(bundle, case: Case, per_map: PerMap, share: float) -> tuple[float, float]:
    """Share of images that keep their class under their own mask, and of other-class images given it too."""
    chosen = scorers.share_of_each_site(per_map, share)
    keep = datapaths.survives(bundle, case, chosen)
    others = _of_another_class(case.targets)
    gates = tuple(site.float() for site in chosen)
    swap = datapaths.gate_labels(bundle, case.images, others, gates) == case.targets
    return float(keep.float().mean()), float(swap.float().mean())


def _of_another_class(labels: Tensor) -> Tensor:
    """For each image the next one that has another label."""
    rows = []
    for k in range(len(labels)):
        step = next(s for s in range(1, len(labels)) if labels[(k + s) % len(labels)] != labels[k])
        rows.append((k + step) % len(labels))
    return torch.tensor(rows)


def test_a_trained_mask_keeps_the_answer_with_a_fifth_of_the_maps(trained):
    keep, _ = kept_and_swapped(*trained, 0.2)
    assert keep >= 0.9


def test_the_same_mask_forces_that_answer_on_other_images(trained):
    _, swap = kept_and_swapped(*trained, 0.2)
    assert swap >= 0.8


def test_without_a_mask_no_image_is_forced(trained):
    bundle, case, per_map = trained
    assert kept_and_swapped(bundle, case, per_map, 1.0) == (1.0, 0.0)
