"""A test that starts a process or a browser says so by its markers, or fails."""

from __future__ import annotations

import pytest

from tests import started_processes

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.conftest import pytest_runtest_call, pytest_runtest_setup

def pytest_configure(config):
    for name in ("browser", "cluster", "slow"):
        config.addinivalue_line("markers", name)
"""
SUITE = """
import multiprocessing, os, pytest, subprocess, sys

def by_subprocess():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)

def by_spawning():
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    child.join()

def by_forking():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

WAYS = [by_subprocess, by_spawning, by_forking]

@pytest.fixture
def started():
    by_subprocess()

@pytest.mark.parametrize("way", WAYS)
def test_unmarked(way):
    way()

@pytest.mark.slow
def test_marked_otherwise(started):
    pass

@pytest.mark.cluster
@pytest.mark.parametrize("way", WAYS)
def test_marked(way):
    way()

@pytest.mark.browser
def test_of_a_browser(started):
    pass

def test_that_starts_nothing():
    pass
"""


@pytest.mark.cluster
def test_a_process_without_its_marker_fails_its_test(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    ran = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:dash", "-p", "no:xdist")
    ran.assert_outcomes(passed=5, failed=3, errors=1)
    ran.stdout.fnmatch_lines(["This test starts a process and is marked neither 'cluster' nor 'browser': * -S -c *"])


DRIVER = "/somewhere/playwright/driver/node run-driver"


@pytest.mark.parametrize(
    ("markers", "commands", "lacking"),
    [
        (set(), [], None),
        ({"slow"}, ["python"], "'cluster'"),
        ({"cluster"}, ["python"], None),
        ({"browser"}, ["python", DRIVER], None),
        ({"cluster"}, ["python", DRIVER], "'browser'"),
        (set(), [DRIVER], "'browser'"),
    ],
)
def test_what_is_lacking_is_named(markers, commands, lacking):
    told = started_processes.missing_marker(markers, commands)
    assert told is None if lacking is None else lacking in told
