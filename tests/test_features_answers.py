"""Pictures, responses and noise maps through the facade: made by a worker, found again, refused in good time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import engine
from engine import demo, hashing
from engine.data import register
from engine.data.sources import Images
from engine.errors import UnknownName
from engine.jobs import Jobs
from engine.jobs import worker as errand
from engine.models import register as load
from engine.service import tasks, worker
from engine.service.auditor import Auditor
from engine.store import Store
from engine.types.checks import FeatureVisualization, Responses
from engine.types.core import ExplanationRequest
from engine.types.requests import FeatureRequest
from tests import dying_work, fake_work, fakes
from tests.asking import until
from tests.test_auditor import PatientJobs

MODEL, UNSEEN, DATA = "digits-standard", "digits-unseen", "digits"
"""`UNSEEN` is the same network, of which nothing was asked yet."""
LAYER = "layer1.0"
ATTACK = "pgd-linf:eps=0.1,steps=3"


class WorkingJobs(PatientJobs):
    """The real work, done in this process when told to."""

    def work(self, most: int = 100) -> None:
        """Do what waits, at most so many pieces."""
        for key in list(self.waiting)[:most]:
            errand.run(worker.perform, self.waiting[key], str(self.root))
            del self.waiting[key]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """The network and every tenth image of the embedded demo, with the gallery and one explanation."""
    made = Store(tmp_path_factory.mktemp("features") / "store")
    for name in (MODEL, UNSEEN):
        load.add(made, load.Submission(name, demo.ARCHITECTURE, demo.weights(MODEL), demo.CLASSES))
    whole = demo.held_out()
    some = Images(whole.x[::10], whole.y[::10], whole.classes, whole.names[::10])
    register.add(made, DATA, some, source="embedded demo", epsilon="8/255")
    jobs = WorkingJobs(made.root)
    auditor = Auditor(made, jobs)
    auditor.gallery(MODEL, DATA)
    auditor.explanation(request(made))
    jobs.work()
    return made


def request(store: Store) -> ExplanationRequest:
    return ExplanationRequest(MODEL, DATA, engine.attack(ATTACK), store.dataset(DATA).keys_of(3)[:1])


@pytest.fixture
def jobs(store) -> WorkingJobs:
    return WorkingJobs(store.root)


@pytest.fixture
def auditor(store, jobs) -> Auditor:
    return Auditor(store, jobs)


@pytest.fixture
def key(auditor, store) -> str:
    return auditor.explanation(request(store)).value.key


def test_a_picture_is_made_on_request_and_kept(auditor, jobs, store):
    assert auditor.feature_visualization(MODEL, DATA, LAYER, 2).state == "working"
    assert auditor.feature_visualization(MODEL, DATA, LAYER, 2).state == "working"
    assert jobs.submitted == ["synthesis"]
    jobs.work()
    answer = auditor.feature_visualization(MODEL, DATA, LAYER, 2)
    assert isinstance(answer.value, FeatureVisualization)
    assert (answer.value.layer, answer.value.channel) == (LAYER, 2)
    assert answer.value.picture.shape == (32, 32, 1)
    assert not answer.value.picture.flags.writeable
    again = WorkingJobs(store.root)
    assert Auditor(Store(store.root), again).feature_visualization(MODEL, DATA, LAYER, 2).state == "ready"
    assert not again.submitted


def test_every_map_has_a_picture_of_its_own(auditor, jobs):
    places = [(LAYER, 0), (LAYER, 1), ("layer1.1", 0)]
    for layer, channel in places:
        auditor.feature_visualization(MODEL, DATA, layer, channel)
    jobs.work()
    found = [auditor.feature_visualization(MODEL, DATA, *place).value for place in places]
    assert [(item.layer, item.channel) for item in found] == places
    assert len({item.picture.tobytes() for item in found}) == len(places)


def test_a_picture_waits_for_the_gallery(auditor, jobs):
    answer = auditor.feature_visualization(UNSEEN, DATA, LAYER, 2)
    assert (answer.state, answer.message) == ("working", "Working on it")
    assert jobs.submitted == ["gallery"]


@pytest.mark.parametrize(
    "place",
    [
        ("unknown", DATA, LAYER, 0),
        (MODEL, "unknown", LAYER, 0),
        (MODEL, DATA, "layer9", 0),
        (MODEL, DATA, LAYER, 12),
        (MODEL, DATA, LAYER, -1),
        (MODEL, DATA, LAYER, "0"),
        (MODEL, DATA, LAYER, True),
    ],
)
def test_a_map_that_is_not_there_is_refused_before_any_work(auditor, jobs, place):
    with pytest.raises(UnknownName):
        auditor.feature_visualization(*place)
    assert not jobs.submitted


def test_responses_are_made_on_request_and_kept(auditor, jobs, key):
    assert auditor.responses(key).state == "working"
    assert jobs.submitted == ["responses"]
    jobs.work()
    answer = auditor.responses(key)
    assert isinstance(answer.value, Responses)
    assert answer.value.explanation == key
    assert answer.value.epsilons[5] == "25.5/255"
    with pytest.raises(UnknownName):
        auditor.responses("0" * 32)


def test_responses_of_an_attack_without_strength_fail_with_the_reason_and_can_be_forgiven(auditor, jobs, store):
    damaged = replace(request(store), attack=engine.attack("corruption-gaussian-noise"))
    auditor.explanation(damaged)
    jobs.work()
    key = auditor.explanation(damaged).value.key
    auditor.responses(key)
    jobs.work()
    assert "no epsilon" in auditor.responses(key).message
    assert auditor.responses(key).state == "failed"
    auditor.retry(damaged)
    assert auditor.responses(key).state == "working"


def test_noise_maps_are_stored_with_the_explanation(auditor, key):
    clean, adversarial = auditor.maps(key, 3)
    noise = auditor.noise_maps(key, 3)
    assert noise.shape == clean.shape
    assert noise.dtype == np.float32
    assert not noise.flags.writeable
    assert np.abs(noise - clean).max() > 0
    assert not np.array_equal(noise, adversarial)
    for site in (-1, 99):
        with pytest.raises(UnknownName):
            auditor.noise_maps(key, site)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("synthesis", FeatureRequest(MODEL, DATA, "layer9", 0, "0" * 32)),
        ("synthesis", FeatureRequest(MODEL, DATA, LAYER, 99, "0" * 32)),
        ("synthesis", FeatureRequest(MODEL, DATA, LAYER, -1, "0" * 32)),
    ],
)
def test_a_worker_trusts_no_place(store, kind, request_):
    with pytest.raises(UnknownName):
        worker.perform(tasks.order(tasks.TASKS[kind], hashing.content_key(kind), request_), str(store.root))


@pytest.mark.cluster
def test_a_worker_that_dies_over_a_picture_or_responses_is_replaced(tmp_path):
    made = Store(tmp_path / "store")
    fake_work.add_all(made)
    pair = ExplanationRequest(MODEL, DATA, engine.attack(ATTACK), ("00003",))
    auditor = Auditor(made, Jobs(made.root, dying_work.perform))
    key = tasks.EXPLANATION.key(made, pair)
    made.records.write("examination", key, replace(fakes.explanation(pair), key=key))

    def pictured():
        return auditor.feature_visualization(MODEL, DATA, LAYER, 2)

    try:
        until(lambda: pictured().state == auditor.responses(key).state == "ready", 60)
        assert pictured().value.channel == 2
    finally:
        auditor.close()
    assert (made.root / "died-synthesis").exists()
    assert (made.root / "died-responses").exists()
