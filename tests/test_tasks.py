"""One table of tasks: each has a request, a record, a title and a function; names on disk are fixed; commands keep results."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path

import pytest

import engine
from engine import demo, hashing
from engine.audit.manifest import Manifest
from engine.audit.results import Seal
from engine.audit.shards import Receipt
from engine.errors import UnknownName
from engine.parameters import TextValue
from engine.service import answers, tasks, worker
from engine.service.tasks import TASKS
from engine.store import Store
from engine.types.core import DatasetCard, ExplanationRequest, ModelCard

PAIR = ExplanationRequest("digits-standard", "digits", "pgd-linf:eps=24/255,steps=3", ("00003",))
FROZEN = {
    "attack-checks-request/1", "attack-checks/1", "attack-results-request/1", "attack-results/1", "attacked-group/1",
    "channel-set/1", "correct-images-request/1", "correct-images/1", "data-import-request/1", "data-import/1",
    "dataset-card/1", "dose-response-request/1", "dose-response/1", "edges/1", "empty-request/1",
    "evaluation-request/1", "evaluation-settings/1", "evaluation/1",
    "localisation/1",
    "rebuilt/1", "rebuild-request/1", "held-out-test/1", "held-out-test-request/1", "map-matching/1", "map-matching-request/1",
    "explanation-request/1",
    "explanation/1", "faithfulness-curve/1",
    "faithfulness-part-request/1", "faithfulness/1",
    "feature-request/1",
    "feature-visualization/1", "group-patching-request/1", "import-result/1", "layer-patching/1", "layer/1",
    "mean-ablation/1", "minimal-sets/1", "minimal-sets-request/1", "model-and-data/1", "model-card/1", "model-import-request/1",
    "model-import/1", "model-validation/1", "pace-request/1", "pace/1", "patching-curve/1", "patching-request/1",
    "patching-test/1", "run-seal/1", "shard-receipt/1", "shard-request/1", "strongest-channels-request/1",
    "top-crops/1",
}  # fmt: skip
"""Names that lie on disks or in keys: one may come to this set, none may leave it or change."""


def inner(kind: type, seen: set[type]) -> set[type]:
    """A dataclass and all that its fields may hold."""
    if dataclasses.is_dataclass(kind) and kind not in seen and not issubclass(kind, TextValue):
        seen.add(kind)
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            inner(hints[field.name], seen)
    for part in typing.get_args(kind):
        inner(part, seen)
    return seen


KEYED = set().union(*(inner(task.request, set()) for task in TASKS.values()), inner(ModelCard, set()))
STORED = {task.record for task in TASKS.values()} | {ModelCard, DatasetCard, Seal, Receipt}


def test_every_stored_or_keyed_class_has_a_schema_and_names_are_fixed():
    found = [hashing.schema(kind) for kind in KEYED | STORED]
    assert {schema.name for schema in found} == FROZEN
    assert len({schema.key_name for schema in found}) == len(found)
    assert dataclasses.is_dataclass(Manifest)


@pytest.mark.parametrize("kind", TASKS)
def test_the_function_of_a_task_is_there_and_takes_its_request(kind):
    module, _, name = TASKS[kind].run.partition(":")
    function = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(function, {**vars(worker), **vars(importlib.import_module(module))})
    assert hints["request"] is TASKS[kind].request
    returned = hints["return"]
    assert TASKS[kind].record in (returned, *typing.get_args(returned))


def test_titles_say_what_is_being_done():
    titles = [task.title for task in TASKS.values()]
    assert len(set(titles)) == len(titles)
    assert all(title.split()[0].endswith("ing") for title in titles)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    demo.install(made)
    return made


def test_what_a_command_computes_is_kept_and_not_computed_again(store):
    first = answers.result(answers.answers(store, quiet), tasks.EXPLANATION, PAIR)
    assert first.key == tasks.EXPLANATION.key(store, PAIR)
    assert store.records.has("examination", first.key)
    assert not list((store.root / "work").iterdir())

    def never(*_, **__):
        raise AssertionError("computed again")

    bare = dataclasses.replace(PAIR, attack=engine.attack("pgd-linf:steps=3,eps=24/255"))
    again = answers.answers(store, quiet)
    again.jobs.submit = never
    assert answers.result(again, tasks.EXPLANATION, bare).key == first.key


def test_a_command_fails_with_the_reason_of_the_work(store):
    with pytest.raises(UnknownName, match="No sample is called 'nobody'"):
        answers.result(answers.answers(store, quiet), tasks.EXPLANATION, dataclasses.replace(PAIR, samples=("nobody",)))
    assert not Path(store.root / "records" / "examination").exists()


def quiet(*_told: object) -> None:
    pass
