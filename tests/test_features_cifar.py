"""How often the pictures of a real network are doubted, with their own patches and with those of another map."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from engine import statistics
from engine.features import gallery, visualization
from engine.models import register
from tests import shared_data
from tests.shared_data import NEEDS_SHARED

PER_SITE = 4

pytestmark = [*NEEDS_SHARED, pytest.mark.slow]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Maps of every site of ResNet-20, drawn by seed, each judged twice: (own patches, another map's patches)."""
    store = shared_data.filled(tmp_path_factory.mktemp("features"), "resnet20")
    bundle, dataset = register.bundle(store, "resnet20"), store.dataset("cifar10")
    patches = gallery.build(bundle, dataset, lambda *_: None)
    found = []
    for k, site in enumerate(bundle.sites):
        foreign = _another_maps(patches, k, site.channels // 3)
        for channel in np.random.default_rng(k).choice(site.channels, PER_SITE, replace=False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(visualization, "paint", _once(visualization.paint))
                place = k, int(channel)
                found.append(
                    [
                        visualization.visualize(bundle, dataset, item, place, lambda *_: None)
                        for item in (patches, foreign)
                    ]
                )
    return found


def _another_maps(patches, site: int, step: int):
    """The gallery with the patches of each map of a site given to the map `step` further on."""

    def turned(ranked):
        return tuple(np.roll(one, step, axis=0) if k == site else one for k, one in enumerate(ranked))

    positions = turned(patches.activation_positions)
    return replace(patches, activation=turned(patches.activation), activation_positions=positions)


def _once(paint):
    """The picture depends on no patches, so it is made once for both verdicts."""
    made = []

    def painted(*arguments):
        if not made:
            made.append(paint(*arguments))
        return made[0]

    return painted


def rate(name: str, hits: list[bool]) -> float:
    """The share of hits; `pytest -s` shows it with its interval."""
    interval = statistics.wilson(sum(hits), len(hits))
    sys.stdout.write(f"{name}: {sum(hits)} of {len(hits)} [{interval.low:.3f}, {interval.high:.3f}]\n")
    return sum(hits) / len(hits)


def test_few_pictures_are_doubted_beside_their_own_patches(judged):
    assert rate("not recognised beside its own patches", ["foreign" in own.doubts for own, _ in judged]) <= 0.2
    assert rate("far beyond every real image", ["beyond" in own.doubts for own, _ in judged]) <= 0.1
    assert rate("weaker than a real patch", ["weak" in own.doubts for own, _ in judged]) <= 0.1


def test_four_in_five_are_doubted_beside_the_patches_of_another_map(judged):
    """A picture that has nothing to do with the patches ranks anywhere among the other maps: it passes once in five."""
    assert (
        rate("not recognised beside another channel's patches", ["foreign" in other.doubts for _, other in judged])
        >= 0.7
    )
