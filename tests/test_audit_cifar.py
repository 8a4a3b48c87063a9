"""The real CIFAR-10 ResNet-20: killed again and again on a real cluster, the audit ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal

import pytest

from engine.audit.catalogue import Catalogue
from tests import audits, test_cifar
from tests.asking import until
from tests.test_audit_processes import Cluster, copied, place, processes_of, shards, start

IMAGES = 60
PLAN = f"""
model = "resnet20"
data = "cifar10"
method = "gradient"
attacks = ["fgsm-linf:eps=1/255", "pgd-linf:eps=1/255,steps=10"]
controls = false
threads = 1
[images]
count = {IMAGES}
block = 6
"""


pytestmark = [*test_cifar.pytestmark, pytest.mark.slow]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store filled by the documented commands, and the plan beside it."""
    folder = tmp_path_factory.mktemp("cifar-audit")
    test_cifar.filled(folder, "resnet20")
    (folder / "plan.toml").write_text(PLAN)
    return folder


def told(audit) -> dict:
    output, noise = audit.communicate(timeout=900)
    assert audit.returncode in (0, 3), noise
    return json.loads(output)


def test_worker_server_and_scheduler_killed_in_turn_lose_and_change_nothing(filled, tmp_path_factory):
    peace, war = (copied(filled, tmp_path_factory.mktemp(name)) for name in ("peace", "war"))
    undisturbed = told(start(peace))
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        audit = start(war, *cluster.options)
        total = undisturbed["shards"]["total"]
        until(lambda: shards(war) >= total // 6, 300)
        cluster.processes.pop().kill()
        until(lambda: shards(war) >= total // 3, 300)
        os.kill(audit.pid, signal.SIGKILL)
        audit.communicate()
        until(lambda: not processes_of(audit.pid), 20)
        audit = start(war, *cluster.options)
        until(lambda: shards(war) >= total // 2, 300)
        cluster.kill(len(cluster.processes))
        assert told(audit)["status"] == "interrupted"
        cluster.start()
        found = told(start(war, *cluster.options))
    finally:
        cluster.kill(len(cluster.processes))
    assert audits.tables(place(war)) == audits.tables(place(peace))
    assert len(Catalogue(war / "store").shards(place(war).run)) == total
    same = {name: value for name, value in undisturbed.items() if name != "seconds"}
    assert {name: value for name, value in found.items() if name != "seconds"} == same
    assert found["worst_case"]["n"] == IMAGES
