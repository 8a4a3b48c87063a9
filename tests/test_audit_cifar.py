"""The real CIFAR-10 ResNet-20: killed again and again on a real cluster, the audit ends as if nothing had happened."""

from __future__ import annotations

import pytest

from tests import kill_audit, shared_data
from tests.shared_data import NEEDS_SHARED
from tests.test_audit_processes import Cluster, copied, place

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


pytestmark = [*NEEDS_SHARED, pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store filled by the documented commands, and the plan beside it."""
    folder = tmp_path_factory.mktemp("cifar-audit")
    shared_data.filled(folder, "resnet20")
    (folder / "plan.toml").write_text(PLAN)
    return folder


def test_worker_server_and_scheduler_killed_in_turn_lose_and_change_nothing(filled, tmp_path_factory):
    peace, war = (copied(filled, tmp_path_factory.mktemp(name)) for name in ("peace", "war"))
    undisturbed = kill_audit.told(kill_audit.start_quietly(peace))
    assert undisturbed["worst_case"]["n"] == IMAGES
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        last, battle = kill_audit.fight(war, cluster)
    finally:
        cluster.kill(len(cluster.processes))
    found = kill_audit.ended("killed", (war, peace), last, (0.0, battle))
    assert kill_audit.is_sound(found), found
    assert len(found.blows) == kill_audit.BLOWS
    assert {name: last[name] for name in last if name != "seconds"} == {
        name: undisturbed[name] for name in undisturbed if name != "seconds"
    }
    summary = place(war).result / "summary.json"
    summary.write_bytes(summary.read_bytes() + b" ")
    forged = kill_audit.ended("forged", (war, peace), last, (0.0, battle))
    assert forged.differing == ("result/summary.json",)
    assert not kill_audit.is_sound(forged)
