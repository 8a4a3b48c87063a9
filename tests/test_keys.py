"""Content keys: equal content has one key everywhere, different content never shares one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import hashing, serialization
from engine.errors import BadInput, StoreError
from engine.hashing import Schema
from engine.types.core import AttackResultsRequest, ExplanationRequest

REQUEST = ExplanationRequest("m", "d", engine.attack("pgd-linf:eps=8/255"), ("00001",))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@pytest.mark.cluster
def test_a_key_is_the_same_in_every_process():
    program = (
        "import engine; from engine import hashing;"
        "attack = engine.attack('pgd-linf:eps=8/255');"
        "print(hashing.content_key(engine.ExplanationRequest('m', 'd', attack, ('00001',))))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashing.content_key(REQUEST)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"data": "e"},
        {"attack": engine.attack("fgsm-linf")},
        {"samples": ("00002",)},
        {"method": engine.method("mask")},
        {"seed": 1},
    ],
)
def test_every_field_of_a_request_counts(change):
    assert hashing.content_key(replace(REQUEST, **change)) != hashing.content_key(REQUEST)


def test_nouns_with_equal_fields_have_different_keys():
    fgsm = engine.attack("fgsm-linf")
    first, second = AttackResultsRequest("m", "d", fgsm, 1), AttackResultsRequest("m", "d", fgsm, 1, seed=1)
    assert hashing.content_key(first) != hashing.content_key(second)
    assert hashing.content_key(first) != hashing.content_key(("m", "d", fgsm, 1, 0))


@dataclass(frozen=True)
class First:
    SCHEMA: ClassVar = Schema("first/1")
    size: int


@dataclass(frozen=True)
class Second:
    SCHEMA: ClassVar = Schema("second/1", "Second")
    size: int


def test_nouns_are_told_apart_by_their_schema_alone():
    assert hashing.content_key(First(1)) == hashing.content_key(First(1))
    assert hashing.content_key(First(1)) != hashing.content_key(Second(1))


def test_a_class_without_a_schema_has_no_key():
    with pytest.raises(TypeError, match="Bare has no SCHEMA"):
        hashing.content_key(dataclasses.make_dataclass("Bare", [("size", int)])(1))


def test_a_renamed_field_keeps_its_key_and_its_stored_name():
    @dataclasses.dataclass(frozen=True)
    class Renamed:
        SCHEMA: ClassVar = Schema("first/1")
        width: int = dataclasses.field(metadata=hashing.stored_as("size"))

    assert hashing.content_key(Renamed(1)) == hashing.content_key(First(1))
    assert serialization.flatten(Renamed(1)).value == {"size": 1}
    assert serialization.rebuild(Renamed, {"size": 1}) == Renamed(1)
    with pytest.raises(StoreError, match="no field called 'width'"):
        serialization.rebuild(Renamed, {"width": 1})


def test_what_only_looks_alike_has_different_keys():
    alike = [1, 1.0, True, "1", Fraction(1), None, "null", (1,), ((1,),)]
    assert len({hashing.content_key(value) for value in alike}) == len(alike)


def test_extra_values_are_part_of_the_key():
    assert hashing.content_key("a", "b") != hashing.content_key("ab")
    assert hashing.content_key("a", "b") != hashing.content_key(("a", "b"))


def test_fractions_are_exact():
    assert hashing.content_key(Fraction(8, 255)) == hashing.content_key(Fraction(16, 510))
    assert hashing.content_key(Fraction(8, 255)) != hashing.content_key(Fraction(8 / 255))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes"])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(BadInput):
        hashing.content_key(value)


@given(PLAIN, PLAIN)
def test_keys_are_equal_only_for_equal_values(first, second):
    assert (hashing.content_key(first) == hashing.content_key(second)) == (repr(first) == repr(second))


def test_arrays_are_told_apart_by_values_shape_and_type_but_not_by_layout():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert hashing.array_hash(array) == hashing.array_hash(np.asfortranarray(array))
    assert hashing.array_hash(array) == hashing.array_hash(array.astype(">f4"))
    changed = array.copy()
    changed[1, 2] += 1
    others = [array.reshape(3, 2), array.astype(np.float64), array.view(np.int32), changed]
    assert len({hashing.array_hash(item) for item in [array, *others]}) == 5


def test_a_field_that_came_later_changes_no_older_key():
    @dataclasses.dataclass(frozen=True)
    class Noun:
        SCHEMA: ClassVar = Schema("noun/1")
        old: int

    before = hashing.content_key(Noun(1))
    later = dataclasses.make_dataclass(
        "Renamed",
        [("old", int), ("new", str, dataclasses.field(default="usual", metadata=hashing.GROWN))],
        frozen=True,
        namespace={"SCHEMA": Schema("noun/1")},
    )
    assert hashing.content_key(later(1)) == before
    assert hashing.content_key(later(1, "other")) != before
