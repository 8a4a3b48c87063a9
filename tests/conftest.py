"""What every test needs, however the suite was started."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

# Two test processes on two cores: threads of theirs would wait for each other. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Servers that tests start have their worker for themselves.
os.environ.setdefault("FAULTLINE_DEMO_AUDIT", "0")

import pytest

from engine.store import Store
from tests import started_processes, stores

# A shell starts background jobs with SIGINT ignored, and every process started from here would ignore it too: servers
# that the tests end as Ctrl-C does would go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
started_processes.watch()

DEMO_FIXTURES = {"demo_store", "small_demo_store"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the demo store, before `-m` chooses."""
    for item in items:
        if DEMO_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("demo")
        if item.get_closest_marker("browser") or item.get_closest_marker("cluster"):
            # Servers and their sockets are ended in the middle of things there; what is collected later warns in another test.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from started_processes.judged(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from started_processes.judged(item))


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The embedded demo, to be copied (`stores.copied`) or read; the last check is that nobody wrote into it."""
    from engine import demo

    store = Store(tmp_path_factory.mktemp("demo") / "store")
    demo.install(store)
    yield from untouched(store)


@pytest.fixture(scope="session")
def small_demo_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The demo's networks and 40 of its digits (`tests.audits`), to be copied or read like `demo_store`."""
    from tests import audits

    yield from untouched(audits.fill(tmp_path_factory.mktemp("small-demo") / "store"))


def untouched(store: Store) -> Iterator[Store]:
    before = stores.content(store.root)
    yield store
    assert stores.content(store.root) == before, "a test wrote into the store that all tests share"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On networks this small, threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
