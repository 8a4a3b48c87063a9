"""Whatever network is handed in, it is read as it is or refused in a sentence: never misread, never another error."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from engine.models import architectures, plugins
from tests import generated
from tests.generated import Outcome
from tests.operations import STEPS, Operation

pytestmark = [
    # What somebody hands in may be written in an older way, and torch says so of it.
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]
QUICK, ALL = 25, 200
LEAST_READ = 0.4
"""Share of the random networks that must be read: a reader that refuses everything proves nothing."""
READ = ("activation", "arithmetic", "addition", "no-op", "norm", "input")
"""Groups of which every operation keeps maps apart, so that none may be refused."""
OPERATIONS = generated.every()
SHORTCUTS = [operation for group in STEPS.values() for operation in group]


@functools.cache
def outcome(seed: int) -> Outcome:
    return generated.outcome(generated.written(seed))


TORCHS_OWN = (
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning",
    "ignore:Using padding='same' with even kernel lengths:UserWarning",
)
"""What torch says of spellings that are generated on purpose: people hand them in."""


def slow_but(quick: list[Operation], operations: list[Operation]) -> list[object]:
    """Parameters by name, all slow but a few."""
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(operation, id=operation.name, marks=marks[operation in quick]) for operation in operations]


def firsts(count: int) -> list[Operation]:
    """The first operations of each group."""
    return [operation for group in STEPS.values() for operation in group[:count]]


def require_read_or_refused(found: Outcome) -> None:
    # What is told: a receptive field that holds all that a position depends on, and more; the report says so.
    assert found.kind in ("right", "refused", "told"), f"{found.kind}: {found.reason}"


@pytest.mark.parametrize(
    "seed", [seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.slow) for seed in range(ALL)]
)
def test_a_random_network_is_read_as_it_is_or_refused(seed):
    require_read_or_refused(outcome(seed))


@pytest.mark.slow
@settings(
    derandomize=True, deadline=None, max_examples=60, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(generated.networks())
def test_the_smallest_network_that_is_neither_read_nor_refused(made):
    require_read_or_refused(generated.outcome(made))


@pytest.mark.parametrize("operation", slow_but(firsts(2), list(OPERATIONS.values())))
def test_an_operation_is_read_as_it_is_or_refused(operation):
    found = generated.outcome(generated.around(operation))
    require_read_or_refused(found)
    assert operation.group not in READ or found.kind == "right", found.reason


@pytest.mark.parametrize("operation", slow_but(firsts(1), SHORTCUTS))
def test_an_operation_beside_a_shortcut_is_read_as_it_is_or_refused(operation):
    require_read_or_refused(generated.outcome(generated.beside(operation)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, ALL, 10))
def test_a_network_after_a_few_steps_of_training_is_read_as_it_is_or_refused(seed):
    require_read_or_refused(generated.outcome_after_training(generated.written(seed)))


@pytest.mark.slow
def test_many_random_networks_are_read(capsys):
    found = [outcome(seed) for seed in range(ALL)]
    with capsys.disabled():
        print(f"\n{generated.shares(found)}\n{generated.reasons(found)}")  # noqa: T201 (the table is for people)
    assert Counter(item.kind for item in found)["right"] >= LEAST_READ * ALL


def test_the_same_seed_writes_the_same_network_and_others_write_others():
    assert generated.source(7) == generated.source(7)
    assert len({generated.source(seed) for seed in range(50)}) == 50


@pytest.mark.filterwarnings(*TORCHS_OWN)
def test_every_operation_runs_and_gives_what_its_shape_says():
    beside = [generated.beside(operation) for operation in SHORTCUTS]
    for made in (*map(generated.around, OPERATIONS.values()), *beside):
        answer = generated.logits(generated.network(made)(generated.pictures(3, made)))
        assert answer.shape == (3, 3) and answer.isfinite().all(), made.source


@pytest.mark.filterwarnings(*TORCHS_OWN)
def test_random_networks_run_and_what_they_answer_depends_on_the_picture():
    alive = 0
    for seed in range(100):
        made = generated.written(seed)
        with torch.no_grad():
            answer = generated.logits(generated.network(made)(generated.pictures(3, made)))
        assert answer.shape == (3, 3) and answer.isfinite().all(), made.source
        alive += bool((answer[0] - answer[1]).abs().max() > 1e-3)
    assert alive >= 95


def test_names_are_unique_and_most_operations_are_drawn():
    groups = [*STEPS.values()]
    assert len({one.name for group in groups for one in group}) == sum(map(len, groups))
    drawn = {name for seed in range(ALL) for name in generated.operations(seed)}
    assert len(drawn) > 0.75 * len(OPERATIONS) > 300


def test_a_generated_network_is_a_plug_in(tmp_path, monkeypatch):
    made = generated.written(3)
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "own.py").write_text(made.source)
    (folder / "own.py").chmod(0o644)
    monkeypatch.setenv(plugins.VARIABLE, str(folder))
    assert architectures.architecture("plugin/own").size == made.size
    network = generated.network(made)
    loaded = architectures.build("plugin/own", network.state_dict(), 3)
    images = generated.pictures(2, made)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), network(images))


def test_training_changes_weights():
    made = generated.around(next(iter(STEPS["activation"])))
    before, after = generated.network(made).state_dict(), generated.trained(made).state_dict()
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
