"""The benchmark runs on the demo and says what it compared; its peers answer the same question."""

from __future__ import annotations

import json
import math

import pytest
import torch

from engine import benchmark
from engine.attribution import scorers
from engine.benchmark import Scale
from engine.models import register
from tests import stores, toys

TINY = Scale(rows=4, repeats=1, exchange_images=1, peer_images=1, peer_steps=2, agreement_steps=2)


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    return stores.copied(demo_store, tmp_path_factory.mktemp("benchmark") / "store")


def ask(bundle, count=3):
    images = toys.pictures(count)
    targets = bundle.logits(images).argmax(1)
    return scorers.Question(images, targets, torch.full_like(targets, -1))


def test_every_part_is_measured_beside_a_plain_pass(store):
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    rows = benchmark.measure_passes(bundle, dataset, TINY)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert math.isfinite(row.value)
        assert (row.ratio is not None) == (row.unit in ("ms", "MiB"))
    assert next(row.value for row in rows if "image-passes" in row.name) == 5


def test_random_controls_are_counted_on_the_images_asked_for(store):
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    controls, transplant = benchmark.measure_transplants(bundle, dataset, TINY)
    assert controls.name == "20 random sets of 5 sizes patched in 1 images"
    assert (controls.unit, controls.reference) == ("s", benchmark.TARGET)
    assert (transplant.unit, transplant.value > 0) == ("ms", True)


def test_the_table_shows_every_row_and_is_plain_json(store, monkeypatch):
    monkeypatch.setattr(benchmark, "_pair", lambda *_: [benchmark.measured("new pair", 1.0, "s", 2.0)])
    monkeypatch.setattr(benchmark.gallery, "build", lambda *_: None)
    monkeypatch.setattr(benchmark, "measure_passes", lambda *_: [])
    monkeypatch.setattr(benchmark, "measure_transplants", lambda *_: [])
    monkeypatch.setattr(benchmark, "is_there", lambda: False)
    found = benchmark.run(store, "digits-standard", "digits", TINY)
    assert json.loads(json.dumps(found["rows"][1])) == {
        "name": "new pair", "value": 1.0, "unit": "s", "reference": 2.0, "ratio": 0.5, "note": "",
    }  # fmt: skip
    text = benchmark.text(found)
    assert "0.50x" in text and benchmark.MISSING in text
    assert all(row["name"] in text for row in found["rows"])


def test_peak_memory_counts_what_lives_at_once():
    def together():
        kept = [torch.ones(2**18) for _ in range(4)]
        return len(kept)

    def in_turn():
        for _ in range(4):
            torch.ones(2**18)

    row = benchmark.memory("ones", together, in_turn)
    assert row.reference == pytest.approx(1.0, abs=0.1) and row.ratio == pytest.approx(4.0, abs=0.5)


def test_paired_times_compare_the_two_in_turn():
    calls = []
    row = benchmark.paired("order", lambda: calls.append("own"), lambda: calls.append("other"), repeats=2, count=1)
    # The first call of each turn is not counted.
    assert calls == ["own", "own", "other", "other"] * 2
    assert row.reference is not None and row.unit == "ms"


def test_captums_conductance_is_ours_at_many_steps():
    pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")
    bundle = toys.bundle(toys.seeded(toys.Residual()))
    asked = ask(bundle)
    own = scorers.conductance(bundle, asked, torch.zeros_like(asked.images), steps=100).scores
    assert benchmark.correlation(own, benchmark.layer_conductance(bundle, asked, 100)) >= 0.999
    assert benchmark.correlation(own, tuple(site.flip(1) for site in own)) < 0.9


def test_captums_gradient_times_activation_is_ours():
    pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")
    bundle = toys.bundle(toys.seeded(toys.Residual()))
    asked = ask(bundle)
    own = scorers.at_once(bundle, asked).scores
    for site, peer in zip(own, benchmark.gradient_times_activation(bundle, asked), strict=True):
        assert torch.allclose(site, peer, rtol=1e-4, atol=1e-5)
    assert all(probe.visit is None and not probe._forward_hooks for probe in bundle.taps)
