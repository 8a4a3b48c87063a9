"""Every classifier of torchvision either yields its sites and the paths between them, or is refused in one precise sentence."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torchvision.models import regnet

from engine.errors import Unsupported
from engine.models import bundle as bundles
from engine.models import paths, sites
from engine.models.bundle import Identity, Preprocessing

EVERY = torchvision.models.list_models(module=torchvision.models)
REFUSED = {
    "convnext": r"'permute_1' \(permute\) before site 0 cannot be followed from map to map",
    "maxvit": r"window_attention.attn_layer.0\) before site 6 cannot be followed from map to map",
    "shufflenet": r"'getitem_5' \(getitem\) before site 6 cannot be followed from map to map",
    "swin_v2": r"'features_1_0_attn_relative_coords_table' .* before site 0 cannot be followed from map to map",
    "swin": r"'features_0_2' \(features.0.2\) before site 0 cannot be followed from map to map",
    "vit": r"has 0 places with feature maps; at least 2 are needed",
}
"""By the beginning of the name, the longest first."""
QUICK = (
    "alexnet", "vgg11", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "googlenet", "inception_v3",
    "squeezenet1_0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf",
    "efficientnet_b0", "efficientnet_v2_s", "shufflenet_v2_x0_5", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
"""The smallest of every family; the others carry a marker."""
SIDES = {"inception_v3": 299, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}


@pytest.fixture
def weightless(monkeypatch):
    """Networks of shapes alone: nothing is drawn, allocated or computed."""
    original = regnet.BlockParams.from_init_params.__func__

    def with_numbers(kind, *args, **options):
        with torch.device("cpu"):
            return original(kind, *args, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(with_numbers))
    with torch.device("meta"):
        yield


def taken_apart(name):
    """The sites and paths of a classifier, and its taps put in."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    side = SIDES.get(name, 224)
    declared = Preprocessing(3, (side, side), (0.5,) * 3, (0.25,) * 3)
    walker, nodes, shapes = bundles._sites(network, declared, Identity((), name))
    described, found = sites.describe(walker, nodes, shapes), paths.find(walker, nodes, shapes)
    bundles._insert_taps(walker, nodes, found)
    return described, found


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
@pytest.mark.usefixtures("weightless")
def test_a_classifier_yields_its_sites_or_is_refused_in_one_sentence(name):
    refusals = [reason for beginning, reason in REFUSED.items() if name.startswith(beginning)]
    if refusals:
        with pytest.raises(Unsupported, match=refusals[0]) as refused:
            taken_apart(name)
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        return
    described, found = taken_apart(name)
    assert len({site.name for site in described}) == len(described) >= 5
    # Whatever a site shows comes from the site before it: none is left hanging.
    assert {path.target for path in found} == set(range(1, len(described)))
    assert {path.source for path in found} == set(range(len(described) - 1))


def test_the_quick_ones_stand_for_every_family():
    assert set(QUICK) <= set(EVERY)
    families = {name.rstrip("0123456789").split("_")[0].rstrip("0123456789x") for name in EVERY}
    assert families == {name.rstrip("0123456789").split("_")[0].rstrip("0123456789x") for name in QUICK}
