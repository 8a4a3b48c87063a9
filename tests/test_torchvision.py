"""Every classifier of torchvision either yields its sites and the paths between them, or is refused in one precise sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import Unsupported
from engine.models import architectures, graph

EVERY = architectures.surveyed_names()
TABLE = Path(architectures.__file__).with_name("ARCHITECTURES.md")
REFUSED = {
    "maxvit": r"^The operation 'blocks.0.layers.0.layers.window_attention\.\S+' .* no exact share of one map in the next",
    "swin": r"^The operation 'features.1.0.attn\.\S+' .* lets every position or map weigh every other",
    "vit": r"^The operation 'encoder.layers.encoder_layer_0.self_attention' .* lets every position weigh every other",
}
"""By the beginning of the name."""
QUICK = ("alexnet", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "convnext_tiny", "vit_b_16")
LONG = (
    "vgg11", "vgg11_bn", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "googlenet", "inception_v3", "squeezenet1_0",
    "mobilenet_v3_large", "mnasnet0_5", "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0", "efficientnet_v2_s",
    "shufflenet_v2_x0_5", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
"""Together the smallest of every family; the long ones take 4 to 25 s. Larger ones of the same families are a survey."""


def marked(name: str) -> object:
    """The name with the marker that says how long it takes."""
    if name in QUICK:
        return name
    return pytest.param(name, marks=pytest.mark.slow if name in LONG else pytest.mark.survey)


def told() -> dict[str, str]:
    """The table of the documentation: its line by name."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


@pytest.mark.parametrize("name", [marked(name) for name in EVERY])
def test_a_classifier_yields_its_sites_or_is_refused_in_one_sentence_as_the_table_says(name):
    side = architectures.architecture(name).size[0]
    refusals = [reason for beginning, reason in REFUSED.items() if name.startswith(beginning)]
    if refusals:
        with pytest.raises(Unsupported, match=refusals[0]) as refused:
            architectures.taken_apart(name)
        reason = str(refused.value).removesuffix(graph.FOLLOWED)
        assert told()[name] == architectures.Row(name, side, reason=reason).line()
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        return
    described, found = architectures.taken_apart(name)
    assert len({site.name for site in described}) == len(described) >= 5
    # Whatever a site shows comes from the site before it: none is left hanging.
    assert {path.target for path in found} == set(range(1, len(described)))
    assert {path.source for path in found} == set(range(len(described) - 1))
    assert (
        told()[name] == architectures.Row(name, side, len(described), sum(site.channels for site in described)).line()
    )


def test_the_smallest_stand_for_every_family():
    smallest = {*QUICK, *LONG}
    assert smallest <= set(EVERY)
    families = {name.rstrip("0123456789").split("_")[0].rstrip("0123456789x") for name in EVERY}
    assert families == {name.rstrip("0123456789").split("_")[0].rstrip("0123456789x") for name in smallest}


def test_the_table_names_every_classifier_once_and_in_order():
    assert tuple(told()) == EVERY
    assert TABLE.read_text(encoding="utf-8").startswith(architectures.HEAD)


def test_surveying_leaves_torchvision_and_the_default_device_as_they_were():
    before = architectures.regnet.BlockParams.__dict__["from_init_params"]
    with architectures.weightless():
        assert torch.zeros(1).is_meta
    assert architectures.regnet.BlockParams.__dict__["from_init_params"] is before
    assert not torch.zeros(1).is_meta
