"""Names of classes: one Unicode form wherever they are taken or compared, and never one of two in silence."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dashboard import links, progress
from dashboard.links import ViewState
from dashboard.panels.registry import model as registry
from engine import __main__ as command_line
from engine import class_names, demo
from engine.audit import doubts, manifest, plan, summary
from engine.data import csv_table, register, sources
from engine.data.csv_table import Columns
from engine.data.sources import Images
from engine.errors import BadInput
from engine.models import register as load
from engine.store import Store
from tests import audits

COMPOSED, DECOMPOSED = "café", unicodedata.normalize("NFD", "café")
CRANES = ("crane", "ring", "crane", "eel")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def test_a_class_is_named_by_name_index_or_both():
    assert [class_names.index(text, CRANES) for text in ("ring", "2", "crane@2", "crane@0", " eel ")] == [1, 2, 2, 0, 3]
    assert class_names.index(DECOMPOSED, ("x", COMPOSED)) == class_names.index(COMPOSED, ("x", DECOMPOSED)) == 1


@pytest.mark.parametrize(
    ("text", "names", "reason"),
    [
        ("crane", CRANES, "'crane' stands twice in the list of classes; say which one is meant: 'crane@0', 'crane@2'"),
        ("1", ("1", "0"), "'1' is the name of one class and the index of another; .*: '1@0', '0@1'"),
        (COMPOSED, (COMPOSED, DECOMPOSED), "stands twice"),
        ("4", CRANES, "No class is called '4'"),
        ("ring@0", CRANES, "No class is called 'ring@0'"),
        ("-1", CRANES, "No class"),
        ("²", CRANES, "No class"),
        ("", CRANES, "No class"),
        ("crane@2", (*CRANES, "crane@2"), "stands|index of another"),
        ("9" * 5000, CRANES, "No class"),
    ],
)
def test_a_text_that_means_two_classes_or_none_is_refused(text, names, reason):
    with pytest.raises(BadInput, match=reason):
        class_names.index(text, names)


def test_digits_that_are_their_own_indices_are_not_doubtful():
    assert [class_names.index(str(k), demo.CLASSES) for k in range(10)] == list(range(10))


def test_what_classes_are_called_is_never_called_twice_and_leads_back():
    assert class_names.handles(CRANES) == ("crane@0", "ring", "crane@2", "eel")
    assert [class_names.index(handle, CRANES) for handle in class_names.handles(CRANES)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name", ["", "  ", "\u3164", "\u115f\u1160", "\u034f", "ca\u200bt", "cat\u200d", "\ufeffcat", "a\u00adb"]
)
def test_names_of_which_nothing_or_not_all_can_be_seen_are_refused(name):
    with pytest.raises(BadInput, match="Class 2 in a list must be"):
        sources.checked_names("a list", ["dog", name])


def test_names_that_stand_twice_or_look_alike_are_told():
    assert list(class_names.remarks(("cat", "dog"))) == []
    (twice,) = class_names.remarks(CRANES)
    assert twice.startswith("1 class name stands twice (first: 'crane', classes 0 and 2)")
    for other in ("Cat", "c at", "ｃａｔ", "cat\ufe0f", "ca\u034ft"):
        (alike,) = class_names.remarks(("cat", "dog", other))
        assert alike.startswith("1 class name looks like another one (first: 'cat' and ")
        assert class_names.index("cat", ("cat", "dog", other)) == 0


def test_lists_are_matched_in_one_form_and_a_name_that_could_mean_two_is_not():
    assert class_names.matched(CRANES, CRANES) == (0, 1, 2, 3)
    assert class_names.matched((DECOMPOSED, "eel"), ("eel", COMPOSED)) == (1, 0)
    assert class_names.matched(("crane", "eel"), CRANES) == (-1, 3)
    assert class_names.matched(("crane", "crane", "eel"), ("eel", "crane")) == (-1, -1, 0)


def put(path, folders):
    for name, picture in zip(folders, PIXELS, strict=False):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path / name)
    return path


def test_folders_lists_tables_and_archives_take_names_in_one_form(tmp_path):
    folder = put(tmp_path / "set", [f"{DECOMPOSED}/{DECOMPOSED}.png", "dog/b.png"])
    (tmp_path / "names.txt").write_text(f"dog\n{DECOMPOSED}\n", encoding="utf-8")
    names = sources.read_classes(tmp_path / "names.txt")
    assert names == ("dog", COMPOSED)
    found = sources.read_folder(folder, names)
    assert (found.y.tolist(), found.names) == ([1, 0], (COMPOSED, "b"))
    assert sources.read_folder(folder).classes == (COMPOSED, "dog")
    np.savez(tmp_path / "set.npz", x=PIXELS, y=np.zeros(6, int), classes=np.array([DECOMPOSED, " dog"]))
    assert sources.read_npz(tmp_path / "set.npz").classes == (COMPOSED, "dog")
    table = tmp_path / "table.csv"
    table.write_text(f"file,label\n{COMPOSED}.png,{DECOMPOSED}\n", encoding="utf-8")
    read = csv_table.read(table, folder / DECOMPOSED, Columns(), None)
    assert (read.classes, read.names) == ((COMPOSED,), (COMPOSED,))
    assert csv_table.read(table, folder / DECOMPOSED, Columns(), names).y.tolist() == [1]


def test_a_table_takes_the_file_that_is_written_just_so_where_two_differ_in_nothing_but_their_form(tmp_path):
    folder = put(tmp_path / "set", [f"{COMPOSED}.png", f"{DECOMPOSED}.png"])
    for name, picture in ((COMPOSED, PIXELS[0]), (DECOMPOSED, PIXELS[1])):
        (tmp_path / "table.csv").write_text(f"file,label\n{name},0\n", encoding="utf-8")
        assert np.array_equal(csv_table.read(tmp_path / "table.csv", folder, Columns(), None).x[0], picture)
    (tmp_path / "table.csv").write_text(f"file,label\n{COMPOSED},0\n{DECOMPOSED},1\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"2 pictures are called .* differ only in how letters are composed"):
        csv_table.read(tmp_path / "table.csv", folder, Columns(), None)


@pytest.mark.parametrize("other", [DECOMPOSED, f"{COMPOSED} "])
def test_two_folders_of_one_class_are_refused(tmp_path, other):
    with pytest.raises(BadInput, match="2 folders of set are called 'café' and differ only in white space or"):
        sources.read_folder(put(tmp_path / "set", [f"{COMPOSED}/a.png", f"{other}/b.png"]))


def test_a_label_that_is_the_number_of_one_class_and_the_name_of_another_is_refused(tmp_path):
    folder = put(tmp_path / "set", ["a.png", "b.png"])
    (tmp_path / "table.csv").write_text("file,label\na,0\nb,1\n")
    assert csv_table.read(tmp_path / "table.csv", folder, Columns(), ("0", "1")).y.tolist() == [0, 1]
    with pytest.raises(
        BadInput, match=r"Line 2 of table\.csv has the label '0', which is the number of one class and the name"
    ):
        csv_table.read(tmp_path / "table.csv", folder, Columns(), ("1", "0"))
    (tmp_path / "table.csv").write_text("file,label\na,1\nb,2\n")
    assert csv_table.read(tmp_path / "table.csv", folder, Columns(first_label=1), ("1", "2")).y.tolist() == [0, 1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The demo's network with two classes of one name, its digits, and a data set that has that name once."""
    made = Store(tmp_path_factory.mktemp("names") / "store")
    names = ("zero", "one", DECOMPOSED, "three", "crane", "five", "crane", "seven", "8", "nine")
    load.add(made, load.Submission("net", demo.ARCHITECTURE, demo.weights(demo.MODELS[0]), names))
    found = audits.some_digits()
    register.add(made, "digits", replace(found, classes=names), source="npz", epsilon="24/255")
    few = Images(found.x[:2], np.array([0, 1]), ("seven", "crane"), ("a", "b"))
    register.add(made, "single", few, source="npz")
    composed = replace(found, classes=(*names[:2], COMPOSED, *names[3:]))
    register.add(made, "composed", composed, source="npz")
    return made


def test_a_stored_data_set_and_model_agree_whatever_form_their_names_were_stored_in(store):
    classes = store.model_card("net").classes
    labels = store.dataset("composed").labels_for_classes(classes)
    assert labels.tolist() == store.dataset("composed").labels.tolist()
    with pytest.raises(BadInput, match="Class 'crane' of data set 'single' stands twice among the model's 10 classes"):
        store.dataset("single").labels_for_classes(classes)
    with pytest.raises(BadInput, match="stands twice among the data set's classes, and once among the model's"):
        store.dataset("digits").labels_for_classes((*dict.fromkeys(classes), "ten"))


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("crane", "stands twice"),
        ("", "No class is called ''"),
        ("8@7", "No class"),
        ("9", None),
        (COMPOSED, None),
        ("crane@6", None),
    ],
)
def test_prove_takes_a_class_that_is_one_and_no_other(store, tmp_path, capsys, monkeypatch, label, reason):
    monkeypatch.setattr("engine.cli.study._answered", lambda *_: {})
    monkeypatch.setattr("engine.patching.tables.patching_text", lambda found: "")
    place = ["--store", str(store.root), "--model", "net", "--data", "digits", "--out", str(tmp_path / "p.json")]
    code = command_line.main(["patching", *place, "--attack", "pgd-linf:eps=24/255", "--class", label, "--images", "2"])
    told = capsys.readouterr().err
    assert (code == 2 and reason in told and told.count("\n") == 1) if reason else code == 0
    if not reason:
        wanted = class_names.index(label, store.model_card("net").classes)
        attempted = json.loads((tmp_path / "p.json").read_text())["attempted"]
        assert attempted == list(store.dataset("digits").keys_of(wanted)[:2])


PLAN = """
model = "net"
data = "composed"
attacks = ["fgsm-linf:eps=24/255"]
[images]
count = 30
[[thresholds]]
name = "t"
condition = "clean"
at_least = 0.5
class = "{label}"
"""


@pytest.mark.parametrize(
    ("label", "kept"), [("6", "crane@6"), ("crane@4", "crane@4"), (COMPOSED, DECOMPOSED), ("five", "five"), ("8", "8")]
)
def test_a_threshold_takes_a_class_that_is_one_and_no_other(store, label, kept):
    understood = plan.understood(plan.parse(PLAN.format(label=label), "plan.toml"), store)
    assert understood.thresholds[0].label == kept
    with pytest.raises(BadInput, match=r"plan\.toml line 11: .*'crane' stands twice"):
        plan.understood(plan.parse(PLAN.format(label="crane"), "plan.toml"), store)


@pytest.mark.cluster
def test_a_threshold_of_one_of_two_classes_is_decided_on_its_own_images(store, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN.format(label="crane@6"), encoding="utf-8")
    # A handful of images decides nothing, so the command does not end in success.
    assert command_line.main(["audit", str(tmp_path / "plan.toml"), "--store", str(store.root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["thresholds"][0]
    assert (found["class"], found["outcome"]) == ("crane@6", "inconclusive")
    labels, right = np.array([0, 2, 2, 2, 3]), np.array([False, True, True, False, False])
    for label, share, n in (("crane@0", 0.0, 1), ("crane@2", 2 / 3, 3), ("", 0.4, 5)):
        threshold = plan.Threshold("t", "clean", "accuracy", 0.5, 0.95, label)
        decision = summary._decision(threshold, doubts.chosen(threshold, treated(labels, right), CRANES), [])
        assert (decision.n, decision.value) == (n, pytest.approx(share))


def treated(labels, right):
    """How images fared without attack."""
    yes, no = np.ones(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool)
    samples, change = np.arange(len(labels)), np.zeros(len(labels))
    return doubts.Treated("clean", "clean", (), samples, labels, yes, right, right, no, no, change, change)


def test_a_run_made_before_that_asked_for_one_of_two_is_not_decided(store):
    threshold = plan.Threshold("t", "clean", "accuracy", 0.5, 0.95, "crane")
    reason = doubts.nothing_chosen(threshold, treated(np.array([0]), np.array([True])), CRANES)
    assert "more than one class is called 'crane'" in reason


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_images_of_a_precomputed_set_are_paired_whatever_form_their_names_have(store, tmp_path, forms):
    found = audits.some_digits()
    other = Store(tmp_path / "store")
    load.add(other, load.Submission("net", demo.ARCHITECTURE, demo.weights(demo.MODELS[0]), demo.CLASSES))
    for name, form in zip(("composed", "red"), forms, strict=True):
        names = tuple(unicodedata.normalize(form, f"é{k}") for k in range(len(found.x)))
        register.add(other, name, replace(found, names=names), source="npz")
    text = 'model = "net"\ndata = "composed"\n[images]\ncount = 5\n[[premade]]\nname = "a"\ndata = "red"\nepsilon = "8/255"\n'
    assert len(manifest.build(plan.understood(plan.parse(text, "p"), other), other).precomputed[0].samples) == 5


class Auditor:
    """What the page asks while it finds out what a link means."""

    def __init__(self, store):
        self.store, self.asked = store, []

    def attack_results(self, request):
        self.asked.append(request.label)
        return links.Answer("queued")

    def is_stored(self, _request):
        return False


@pytest.mark.parametrize(
    ("label", "place"), [("crane@6", 6), (COMPOSED, 2), (DECOMPOSED, 2), ("nine", 9), ("crane", 0), (None, 0)]
)
def test_a_link_leads_to_the_class_it_names_and_says_where_it_names_none(store, label, place):
    model, data = store.model_card("net"), store.data_card("composed")
    view = ViewState(model="net", data="composed", attack="pgd-linf", method="two-run", label=label)
    chosen = links.Resolved(view, (), (model,), (data,), (), (), model, data)
    auditor, notices = Auditor(store), []
    links._with_attack_results(chosen, auditor, notices, lambda _request: False)
    assert auditor.asked == [place]
    assert [("asked for class 'crane'" in notice) for notice in notices] == ([True] if label == "crane" else [])
    offered = [class_["value"] for class_ in progress._classes(chosen) if class_["value"] != progress.ANY]
    assert len(set(offered)) == 10 and "crane@6" in offered


def test_only_data_whose_classes_are_one_each_fit_a_model(store):
    model = store.model_card("net")
    fitting = [card.name for card in store.datasets() if links.fits(card, model)]
    assert fitting == list(registry.fitting(model, store.datasets())) == ["digits", "composed"]


def test_an_explanation_calls_two_classes_of_one_name_differently(store, tmp_path, capsys):
    place = ["--store", str(store.root), "--model", "net", "--data", "digits", "--out", str(tmp_path / "pair")]
    sample = store.dataset("digits").keys_of(6)[0]
    assert command_line.main(["examine", *place, "--sample", sample, "--attack", "pgd-linf:eps=24/255", "--quick"]) == 0
    assert "'crane@6' (" in capsys.readouterr().out
