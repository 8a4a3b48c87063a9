"""How a network is written changes neither its answers nor what is read from it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from engine.errors import EngineError
from engine.models.network import ModelBundle
from tests import rewrites, toys

FAMILIES = [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith("dense: ") else name for name in rewrites.FAMILIES
]
"""The densely connected ones take as long as all the others together."""
TOLERANCE = 1e-5
"""Of the largest logit: other spellings round otherwise."""


def answers(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network((toys.pictures(4, rewrites.SIDE) - 0.5) / 0.25)


def shape(bundle: ModelBundle) -> tuple[object, ...]:
    """What of a bundle does not depend on names."""
    links = tuple((link.source, link.target, bool(link.through)) for link in bundle.links)
    return tuple((site.channels, site.height, site.width) for site in bundle.sites), links


@functools.cache
def readings(family: str) -> tuple[ModelBundle | Exception, ...]:
    """Return every member of a family as it is read, or the error; reading is what takes the time here."""
    return tuple(reading(member) for member in rewrites.family(family))


def reading(member: nn.Module) -> ModelBundle | Exception:
    try:
        return toys.bundle(member, rewrites.SIDE)
    except Exception as error:
        return error


def difference(bundle: ModelBundle | Exception, original: nn.Module, plain: ModelBundle) -> str:
    """Return how a member is read otherwise than the plainest of its family; empty where it is not, or is refused."""
    if isinstance(bundle, EngineError):
        return ""
    if isinstance(bundle, Exception):
        return f"{type(bundle).__name__}: {bundle}"
    if shape(bundle) != shape(plain):
        return f"{shape(bundle)}, not {shape(plain)}"
    with torch.no_grad():
        told, expected = bundle.logits(toys.pictures(4, rewrites.SIDE)).cpu(), answers(original)
    error = float((told - expected).abs().max() / expected.abs().max())
    return "" if error < TOLERANCE else f"logits differ by {error:.1e} of their size"


@pytest.mark.parametrize("family", FAMILIES)
def test_all_members_of_a_family_answer_alike(family):
    plain, *others = (answers(member) for member in rewrites.family(family))
    assert len(others) >= 2
    assert (plain[0] - plain[1]).abs().max() > 0.01 * plain.abs().max()
    for other in others:
        torch.testing.assert_close(other, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_member_of_a_family_is_read_otherwise_than_the_plainest(family):
    plain, *others = readings(family)
    assert isinstance(plain, ModelBundle)
    originals = rewrites.family(family)[1:]
    pairs = zip(others, originals, strict=True)
    found = {k: difference(other, original, plain) for k, (other, original) in enumerate(pairs, start=1)}
    assert {k: text for k, text in found.items() if text} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_member_of_a_family_is_read(family):
    found = {k: str(error) for k, error in enumerate(readings(family)) if isinstance(error, Exception)}
    # A convolution spelled as a product of unfolded patches is the one that is refused, and by name.
    known = "(reshape)" if family.endswith(": convolution") else "none"
    assert {k: text for k, text in found.items() if text and known not in text} == {}
