"""How a network is written changes neither its answers nor what is read from it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import EngineError
from engine.models.bundle import ModelBundle
from tests import rewrites, toys

TOLERANCE = 1e-5
"""Of the largest logit: other spellings round otherwise."""


def answers(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network((toys.pictures(4, rewrites.SIDE) - 0.5) / 0.25)


def shape(bundle: ModelBundle) -> tuple[object, ...]:
    """What of a bundle does not depend on names."""
    links = tuple((link.source, link.target, bool(link.through)) for link in bundle.links)
    return tuple((site.channels, site.height, site.width) for site in bundle.sites), links


def difference(read: nn.Module, original: nn.Module, plain: ModelBundle) -> str:
    """Return how a member is read otherwise than the plainest of its family; empty where it is not, or is refused."""
    try:
        bundle = toys.bundle(read, rewrites.SIDE)
    except EngineError:
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if shape(bundle) != shape(plain):
        return f"{shape(bundle)}, not {shape(plain)}"
    with torch.no_grad():
        told, expected = bundle.logits(toys.pictures(4, rewrites.SIDE)).cpu(), answers(original)
    error = float((told - expected).abs().max() / expected.abs().max())
    return "" if error < TOLERANCE else f"logits differ by {error:.1e} of their size"


def refusal(network: nn.Module) -> str:
    try:
        toys.bundle(network, rewrites.SIDE)
    except EngineError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("family", rewrites.FAMILIES)
def test_all_members_of_a_family_answer_alike(family):
    plain, *others = (answers(member) for member in rewrites.family(family))
    assert len(others) >= 2
    assert (plain[0] - plain[1]).abs().max() > 0.01 * plain.abs().max()
    for other in others:
        torch.testing.assert_close(other, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))


@pytest.mark.parametrize("family", rewrites.FAMILIES)
def test_no_member_of_a_family_is_read_otherwise_than_the_plainest(family):
    plain, *others = rewrites.family(family)
    bundle = toys.bundle(plain, rewrites.SIDE)
    originals = rewrites.family(family)[1:]
    found = {k: difference(other, originals[k - 1], bundle) for k, other in enumerate(others, start=1)}
    assert {k: text for k, text in found.items() if text} == {}


@pytest.mark.parametrize("family", rewrites.FAMILIES)
def test_every_member_of_a_family_is_read(family):
    found = {k: refusal(member) for k, member in enumerate(rewrites.family(family))}
    # A convolution spelled as a product of unfolded patches is the one that is refused, and by name.
    known = "(reshape)" if family.endswith(": convolution") else "none"
    assert {k: text for k, text in found.items() if text and known not in text} == {}
