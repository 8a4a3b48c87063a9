"""Watching the work: each stage of a view says what is done, what is missing and whether to ask again."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from dashboard import progress
from engine import Answer, DatapathChecks, Faithfulness, UnknownName
from engine.jobs import queue
from tests.fakes import FakeAuditor


class At(FakeAuditor):
    """Answers one question with a given answer, the rest like the fake."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers

    def attack_results(self, request):
        return self.answers.get("attack_results") or super().attack_results(request)

    def explanation(self, request):
        return self.answers.get("explanation") or super().explanation(request)

    def faithfulness_checks(self, request):
        return self.answers.get("faithfulness_checks") or super().faithfulness_checks(request)

    def gallery(self, model, data):
        return self.answers.get("gallery") or super().gallery(model, data)


def test_a_view_that_is_ready_names_its_explanation_and_what_has_arrived():
    work = progress.look({}, FakeAuditor())
    assert work.stage == "faithfulness"
    assert work.key == "fake00000"
    assert work.request["samples"] == ["00000"]
    assert set(work.arrived) == {"noise control", "clean", "restoration", "kinship"}
    assert work.progress.is_working
    assert (work.progress.done, work.progress.total) == (3, 5)
    assert work.gallery == "ready"


def test_the_counts_name_everything_that_was_attempted():
    assert progress.look({}, FakeAuditor()).counts == "50 attempted · 0 clean wrong · 25 fooled · 25 resisted"
    assert (
        progress.look({"label": "1"}, FakeAuditor()).counts == "50 attempted · 25 clean wrong · 25 fooled · 0 resisted"
    )


def test_a_view_without_a_layer_is_shown_where_the_datapaths_part_at_its_strongest_map():
    auditor = FakeAuditor()
    work = progress.look({"share": 0.3}, auditor)
    found = auditor.explained(work.key)
    site = [place.name for place in found.sites].index(work.view["layer"])
    both = [max(pair) for pair in zip(found.clean.strength[site], found.adversarial.strength[site], strict=True)]
    assert work.view["channel"] == both.index(max(both))


class Explained(FakeAuditor):
    """Has explained the first image of some classes before; the checks of some of them speak against it."""

    def __init__(self, stored, refuted=()):
        self.stored, self.refuted, self.asked = stored, refuted, []

    def is_stored(self, request):
        return getattr(request, "label", None) in self.stored or getattr(request, "samples", ("-",))[0] in {
            f"{label:05d}" for label in self.stored
        }

    def attack_results(self, request):
        self.asked.append(request.label)
        return super().attack_results(request)

    def faithfulness_checks(self, request):
        swap = 0.0 if int(request.samples[0]) in self.refuted else 1.0
        checks = DatapathChecks(16, 0.0, 0.0, wrong_class=0.0, swap=swap, noisy_copy=0.0)
        return Answer("ready", Faithfulness(checks, checks, done=("clean", "adversarial")))


def test_a_link_without_a_class_opens_on_the_first_stored_image_whose_checks_hold():
    assert progress.look({}, Explained({0, 4, 5})).view["label"] == "0"
    assert progress.look({}, Explained({0, 4, 5}, refuted={0, 4})).view["label"] == "5"
    assert progress.look({}, Explained({0, 4, 5}, refuted={0, 4, 5})).view["label"] == "0"
    assert progress.look({"label": "4"}, Explained({4, 5}, refuted={4})).view["label"] == "4"
    assert progress.look({"sample": "00000"}, Explained({4})).view["label"] == "0"


def test_nothing_is_computed_to_find_the_image_to_open_with():
    auditor = Explained({8})
    assert progress.look({}, auditor).view["label"] == "8"
    assert set(auditor.asked) == {8}


def test_the_menu_of_classes_begins_with_what_a_link_without_a_class_gets():
    assert progress.look({}, FakeAuditor()).menus["label"].options[0]["label"] == "First class that fits"


def test_a_layer_and_map_that_were_asked_for_are_kept():
    work = progress.look({"layer": "layer1.0", "channel": 3}, FakeAuditor())
    assert (work.view["layer"], work.view["channel"]) == ("layer1.0", 3)


@pytest.mark.parametrize(
    ("question", "stage", "text"),
    [
        ("attack_results", "attack results", "Attacking the images of class '0' … 12 of 50"),
        ("explanation", "explanation", "Explaining sample 00000 … 12 of 50"),
    ],
)
def test_work_in_progress_says_how_far_it_is_and_is_asked_again(question, stage, text):
    work = progress.look({}, At(**{question: Answer("working", None, 12, 50)}))
    assert (work.stage, work.progress.text, work.key) == (stage, text, None)
    assert work.progress.is_working
    assert not work.progress.can_retry


@pytest.mark.parametrize("question", ["attack_results", "explanation"])
def test_work_that_failed_says_why_and_can_be_tried_again(question):
    work = progress.look({}, At(**{question: Answer("failed", message="The worker died 3 times.")}))
    assert work.stage == "failed"
    assert work.progress.can_retry
    assert not work.progress.is_working
    assert "The worker died 3 times." in work.empty["text"]
    assert work.menus["model"].value == "digits-standard"


def test_a_part_that_failed_is_told_and_the_rest_is_shown():
    known = Faithfulness(done=("clean",), failed=("The swap control ended without a result.",))
    work = progress.look({}, At(faithfulness_checks=Answer("ready", known)))
    assert work.key == "fake00000"
    assert work.progress.text == "The swap control ended without a result."
    assert work.progress.can_retry


def test_a_gallery_at_work_keeps_the_page_asking():
    work = progress.look(
        {}, At(faithfulness_checks=Answer("ready", Faithfulness()), gallery=Answer("working", None, 1, 4))
    )
    assert (work.stage, work.gallery) == ("gallery", "working")
    assert work.progress.is_working


def test_when_all_is_there_nothing_is_asked_again():
    work = progress.look({}, At(faithfulness_checks=Answer("ready", Faithfulness(done=("clean",)))))
    assert work.stage == "done"
    assert not work.progress.is_working


def test_no_image_of_the_outcome_is_an_empty_state_with_counts_and_a_way_out():
    work = progress.look({"outcome": "resisted", "label": "1"}, FakeAuditor())
    assert (work.stage, work.key) == ("empty", None)
    assert work.empty["title"] == "No image of class '1' resisted"
    assert "25 fooled" in work.empty["text"]
    assert "set the attack result to 'fooled' (25 here), lower epsilon, or choose another class" in work.empty["text"]


def test_an_empty_store_waits_for_a_model():
    class Empty(FakeAuditor):
        def models(self):
            return ()

    work = progress.look({}, Empty())
    assert work.stage == "setup"
    assert work.progress.is_working
    assert work.empty["title"] == "No model to show yet"


def test_unknown_names_are_named_and_the_page_goes_on():
    work = progress.look({"model": "x", "attack": "y", "sample": "z", "detail": "w"}, FakeAuditor())
    assert [f"'{name}'" in text for name, text in zip("wxyz", work.notices, strict=True)] == [True] * 4
    assert work.key is not None


def test_a_wait_that_an_audit_causes_is_told():
    work = progress.look({}, At(explanation=Answer("working", None, 0, 0, queue.AUDITING)))
    assert "an audit is running" in work.progress.text
    assert work.progress.text.endswith("after the part it is at …")


def test_an_error_of_the_engine_becomes_its_text():
    class Broken(FakeAuditor):
        def explanation(self, request):
            raise UnknownName("sample", request.samples[0], ["00001"])

    work = progress.look({}, Broken())
    assert work.stage == "failed"
    assert "No sample is called '00000'" in work.progress.text


def test_an_error_that_is_not_the_engines_is_not_swallowed():
    class Broken(FakeAuditor):
        def explanation(self, request):
            return 1 // (len(request.samples) - 1)

    with pytest.raises(ZeroDivisionError):
        progress.look({}, Broken())


@pytest.mark.parametrize("stored", [{}, {"outcome": "resisted", "label": "1"}, {"model": "x"}, None])
def test_an_answer_is_plain_json(stored):
    json.dumps(asdict(progress.look(stored, FakeAuditor())))


def test_the_page_is_told_how_far_the_work_is_and_looks_again_while_it_goes_on():
    facts = progress.answer(FakeAuditor(), {"view": {"label": "2"}})
    assert facts["view"]["label"] == "2"
    assert facts["again"] is facts["progress"]["is_working"] is True


def test_another_strength_is_drawn_beside_once_it_has_been_explained():
    work = progress.look({"versus": "pgd-linf@8/255"}, FakeAuditor())
    assert work.rival["attack"] != work.request["attack"]
    assert work.rival["samples"] == work.request["samples"]
    offered = [option["value"] for option in work.menus["versus"].options]
    assert offered[0] == "nothing"
    assert "pgd-linf@8/255" in offered
    assert f"pgd-linf@{work.view['epsilon']}" not in offered


def test_while_it_is_explained_the_page_goes_on_and_says_so():
    class Slow(FakeAuditor):
        def explanation(self, request):
            done = super().explanation(request)
            return Answer("working", None, 1, 4) if "8/255" in request.attack.text else done

    work = progress.look({"versus": "pgd-linf@8/255"}, Slow())
    assert (work.key is not None, work.rival) == (True, None)
    assert work.progress.text == "Explaining the attack to compare with … 1 of 4"
    assert work.progress.is_working


@pytest.mark.parametrize("asked", ["pgd-linf", "x@8/255", "pgd-linf@9", "pgd-linf@<b>"])
def test_what_cannot_be_drawn_beside_is_named_and_nothing_is(asked):
    work = progress.look({"versus": asked}, FakeAuditor())
    assert work.rival is None
    assert work.view["versus"] is None
    assert any("drawn" in text or "draw" in text for text in work.notices)
