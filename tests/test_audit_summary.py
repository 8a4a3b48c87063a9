"""Planted rows give the figures one can count by hand; files and the log keep what was put into them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import pyarrow.parquet
import pytest

from engine import serialization, statistics
from engine.audit import report, shards, summary
from engine.audit.manifest import AuditedModel, Chosen, Condition, Manifest
from engine.audit.plan import AuditPlan, Images, Threshold
from engine.audit.shards import Rows

CLASSES = ("ant", "bee", "cat")
FGSM, PGD = "fgsm-linf:eps=8/255", "pgd-linf:eps=8/255,steps=10"
WEAK, STRONG = "pgd-linf:eps=2/255,steps=10", "pgd-linf:eps=16/255,steps=10"


def table(answers: str, truth: str = "aaaabbbbcc", before: str | None = None, **changes) -> Rows:
    """Rows whose images are answered by the first letters of class names; `!` stands for an attack that broke down."""
    before = before or truth
    count, index = len(truth), {name[0]: k for k, name in enumerate(CLASSES)}
    labels, first = (np.array([index[item] for item in text], dtype=np.int32) for text in (truth, before))
    after = np.array([index.get(one, labels[k]) for k, one in enumerate(answers)], dtype=np.int32)
    status = tuple(
        "failed" if one == "!" else "clean_wrong" if b != t else "resisted" if a == t else "fooled"
        for one, t, b, a in zip(answers, labels, first, after, strict=True)
    )
    zeros, samples = np.zeros(count), tuple(f"{k:05d}" for k in range(count))
    made = Rows(
        samples, samples, labels, first, zeros, after, zeros, status, zeros, zeros, np.ones(count, dtype=bool),
        np.full(count, shards.NO_TARGET), samples, np.zeros(count, dtype=bool), zeros, zeros, (), (),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def manifest(*names: tuple[str, str], thresholds: tuple[Threshold, ...] = (), baseline: str = "") -> Manifest:
    """A manifest with these (kind, name) conditions for every model."""
    roles = ("candidate", "baseline") if baseline else ("candidate",)
    plan = AuditPlan(
        "plan", "one", baseline, "data", "none", "custom", (), (), (), (), (), Images(10), thresholds, 0, "cpu", 1
    )
    models = tuple(AuditedModel(role, role, "x", "h", "w", 1, 3, (8, 8), (0.5,), (0.5,), (("s", 2),)) for role in roles)
    conditions = tuple(Condition(f"{role}-{name}", role, kind, name) for role in roles for kind, name in names)
    images = Chosen("data", "h", tuple("0123456789"), tuple("0123456789"), (0,) * 10, ("",) * 10)
    return Manifest(1, 1, (), plan, models, CLASSES, images, (), conditions, 10, "float32")


def summarised(made: Manifest, *found: Rows) -> summary.Summary:
    folders = (condition.folder for condition in made.conditions)
    return summary.summarise(made, dict(zip(folders, found, strict=True)), is_interim=False)


def test_a_share_of_the_area_is_told_as_such_in_text_and_json():
    name, weaker = "noise-patch:eps=0.03125", "noise-patch:eps=0.01"
    made = manifest(("attack", FGSM), ("curve", name), ("curve", weaker))
    (model,) = summarised(made, table("aaaabbbbcc"), table("aaaabbbbcc"), table("aaaabbbbcc")).models
    told = [report.condition_name(condition) for condition in model.conditions]
    assert told == [FGSM, f"{name} (3.125 % of the area)", f"{weaker} (1 % of the area)"]
    assert [point["strength"] for point in report._model(model)["curve"]] == ["1 % of the area", "3.125 % of the area"]


def test_the_worst_case_is_per_image_and_not_the_worst_attack():
    made = manifest(("attack", FGSM), ("attack", PGD))
    (model,) = summarised(made, table("bbaabbbbcc"), table("aabbbbbbcc")).models
    assert [condition.accuracy.value for condition in model.conditions] == [0.8, 0.8]
    assert model.worst_case.accuracy.value == pytest.approx(0.6)
    assert model.worst_case.statuses["fooled"] == 4
    expected = statistics.clopper_pearson(6, 10)
    assert (model.worst_case.accuracy.low, model.worst_case.accuracy.high) == (expected.low, expected.high)


def test_controls_and_curve_are_told_but_never_make_the_worst_case():
    made = manifest(("attack", FGSM), ("control", "noise-sign:eps=8/255"), ("curve", STRONG))
    (model,) = summarised(made, table("aaaabbbbcc"), table("bbbbaaaaaa"), table("bbbbaaaaaa")).models
    assert model.worst_case.accuracy.value == 1.0
    assert [condition.accuracy.value for condition in model.conditions[1:]] == [0.0, 0.0]


def test_an_image_that_could_not_be_judged_is_dropped_unless_another_attack_fooled_it():
    made = manifest(("attack", FGSM), ("attack", PGD))
    (model,) = summarised(made, table("!!aabbbbcc"), table("baaabbbbcc")).models
    assert (model.conditions[0].accuracy.n, model.conditions[0].attempted) == (8, 10)
    assert (model.worst_case.accuracy.n, model.worst_case.statuses["fooled"]) == (9, 1)
    assert model.worst_case.statuses["failed"] == 1


def test_resistance_counts_only_images_that_were_right_before():
    made = manifest(("attack", FGSM))
    (model,) = summarised(made, table("baabbbbbcc", before="baaabbbbcc")).models
    (one,) = model.conditions
    assert (one.accuracy.n, one.accuracy.value) == (10, 0.8)
    assert (one.resistance.n, one.resistance.value) == (9, pytest.approx(8 / 9))


def test_a_wrong_image_that_is_right_by_chance_afterwards_is_no_success():
    made = manifest(("premade", "red"))
    (model,) = summarised(made, table("aaaabbbbcc", before="baaabbbbcc")).models
    assert model.conditions[0].accuracy.value == 0.9


def test_confusion_names_every_pair_largest_first():
    made = manifest(("attack", FGSM))
    (model,) = summarised(made, table("bbcabbbbab")).models
    found = [(item.true, item.into, item.images) for item in model.conditions[0].confusion]
    assert found == [("ant", "bee", 2), ("ant", "cat", 1), ("cat", "ant", 1), ("cat", "bee", 1)]
    assert [(class_.name, class_.accuracy.n, class_.has_few) for class_ in model.conditions[0].classes] == [
        ("ant", 4, True),
        ("bee", 4, True),
        ("cat", 2, True),
    ]


def test_a_curve_joins_attacks_that_differ_in_strength_alone():
    made = manifest(("attack", FGSM), ("attack", PGD), ("curve", STRONG), ("curve", WEAK))
    found = [table("aaaabbbbcc"), table("baaabbbbcc"), table("bbaabbbbcc"), table("aaaabbbbcc")]
    (model,) = summarised(made, *found).models
    assert [(point.attack, point.accuracy.value) for point in model.curve] == [(WEAK, 1.0), (PGD, 0.9), (STRONG, 0.8)]
    assert model.is_monotone
    found[2], found[3] = table("aaaabbbbcc"), table("bbbbaaaabb")
    assert not summarised(made, *found).models[0].is_monotone


@pytest.mark.parametrize(
    ("count", "n", "at_least", "outcome"),
    [
        (10, 10, 0.69, "pass"),
        (10, 10, 0.70, "inconclusive"),
        (0, 10, 0.31, "fail"),
        (0, 10, 0.30, "inconclusive"),
        (0, 0, 0.1, "inconclusive"),
    ],
)
def test_a_threshold_is_decided_by_the_whole_exact_interval(count, n, at_least, outcome):
    """10 of 10: the exact 95 % interval begins at 0.025 ** (1 / 10) = 0.6915."""
    assert statistics.decide(count, n, at_least, 0.95) == outcome


def test_thresholds_speak_of_their_condition_metric_and_class():
    asked = (
        Threshold("clean", "clean", "accuracy", 0.5, 0.95),
        Threshold("worst", "worst-case", "accuracy", 0.99, 0.95),
        Threshold("bees", FGSM, "resistance", 0.3, 0.95, "bee"),
        Threshold("later", PGD, "accuracy", 0.3, 0.95),
    )
    made = manifest(("clean", "clean"), ("attack", FGSM), thresholds=asked)
    found = summarised(made, table("aaaabbbbcc"), table("bbbbbbbbbb")).thresholds
    assert [(item.outcome, item.n, item.value) for item in found] == [
        ("pass", 10, 1.0),
        ("fail", 10, 0.4),
        ("pass", 4, 1.0),
        ("inconclusive", 0, None),
    ]


def test_models_are_compared_on_the_same_images():
    made = manifest(("clean", "clean"), ("attack", FGSM), baseline="two")
    right, half = table("aaaabbbbcc"), table("bbbbabbbcc")
    found = summarised(made, right, half, right, right).pairings
    assert [item.name for item in found] == ["clean", FGSM, "worst-case"]
    attacked = found[1]
    assert (attacked.n, attacked.only_candidate, attacked.only_baseline) == (10, 0, 5)
    assert attacked.difference == -0.5
    assert attacked.low < -0.5 < attacked.high < 0
    assert attacked.p_value == pytest.approx(2 * 0.5**5)
    assert attacked.p_holm == pytest.approx(min(1, 3 * attacked.p_value))


def test_a_summary_is_read_back_as_it_was():
    made = manifest(("clean", "clean"), ("attack", FGSM), baseline="two")
    found = summarised(made, *[table("aaaabbbbcb")] * 4)
    assert serialization.rebuild(summary.Summary, serialization.flatten(found).value) == found


def scored(count: int = 4) -> Rows:
    generator = np.random.default_rng(0)
    scores, total = shards.scaled([generator.normal(size=(count, width)) for width in (3, 5)])
    labels = np.arange(count, dtype=np.int32) % 2
    made = table("abab"[:count], "abab"[:count])
    return dataclasses.replace(
        made, labels=labels, scores=scores, flow=scores, is_scored=np.ones(count, dtype=bool), score_total=total
    )


def test_scaled_scores_can_be_turned_back(tmp_path):
    values = [np.random.default_rng(0).normal(size=(4, width)) * 1e-5 for width in (3, 5)]
    found, total = shards.scaled(values)
    for own, original in zip(found, values, strict=True):
        assert np.allclose(own.astype(float) * total[:, None] / 8, original, rtol=1e-3)
    assert np.mean([np.abs(site.astype(float)).sum(axis=1) for site in found], axis=1).sum() == pytest.approx(
        8, rel=1e-3
    )
    empty, nothing = shards.scaled([np.zeros((2, 3))])
    assert not empty[0].any()
    assert not nothing.any()


def test_rows_come_back_as_they_were_and_other_readers_understand_them(tmp_path):
    made, path = scored(), tmp_path / "rows.parquet"
    shards.write_rows(path, made, ["stem", "layer1.0"], {"run": "r"})
    back = shards.read(path)
    for field in dataclasses.fields(Rows):
        assert np.array_equal(
            np.concatenate([np.ravel(item) for item in getattr(back, field.name)])
            if field.name in ("scores", "flow")
            else getattr(back, field.name),
            np.concatenate([np.ravel(item) for item in getattr(made, field.name)])
            if field.name in ("scores", "flow")
            else getattr(made, field.name),
        ), field.name
    assert shards.from_plain([shards.read_plain(path)]).scores == ()
    frame = pandas.read_parquet(path)
    assert list(frame["score_001"][2]) == list(made.scores[1][2])
    metadata = pyarrow.parquet.ParquetFile(path)
    assert metadata.schema_arrow.field("score_001").metadata[b"site"] == b"layer1.0"
    chunk = metadata.metadata.row_group(0).column(metadata.metadata.num_columns - 1)
    assert chunk.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" not in chunk.encodings


def test_parts_added_in_one_order_give_one_cube_whatever_the_blocks(tmp_path):
    whole = scored()
    halves = [shards.picked(whole, chosen) for chosen in ([0, 1], [2, 3])]
    for name, parts in (("whole", [whole]), ("halves", halves)):
        (tmp_path / name).mkdir()
        shards.merge(tmp_path / name, "candidate", (1, 2, 8), [(0, shards.cube_part(part)) for part in parts])
    first, second = (shards.Cube(tmp_path / name, "candidate") for name in ("whole", "halves"))
    for measure in shards.MEASURES:
        for labels in (None, [0], [0, 1]):
            a, b = (item.statistics(0, "kept", measure, labels) for item in (first, second))
            assert a.n == b.n == (4 if labels != [0] else 2)
            assert np.allclose(a.mean, b.mean)
            assert np.allclose(a.variance, b.variance)
    values = np.concatenate(whole.flow, axis=1).astype(float)
    assert np.allclose(first.statistics(0, "kept", "flow").mean, values.mean(axis=0)), "flow keeps its sign"
    assert first.statistics(0, "fooled").n == 0
