"""A plug-in is run as an import would run it, says where it fails, and what it prints is no part of an answer."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import safetensors.torch
import torch

from engine import __main__ as command_line
from engine.errors import BadInput
from engine.models import architectures, plugins, register
from engine.service import tasks, worker
from engine.store import Store
from engine.types.requests import Nothing, Place
from tests import toys

PLAIN = """
from torch import nn
from tests import toys
SIZE = (8, 8)
class Own(toys.Chain):
    pass
def build(weights, classes):
    return Own(classes=classes)
"""
LINES = PLAIN.count("\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    monkeypatch.setenv(plugins.VARIABLE, str(made))
    return made


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(toys.seeded(toys.Chain()).state_dict(), path)
    return path


def written(folder, source, name="own"):
    (folder / f"{name}.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    (folder / f"{name}.py").chmod(0o644)
    return f"plugin/{name}"


def module(name):
    return sys.modules[plugins.plugin(name).build.__module__]


FORMS = {
    "dataclass": """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Settings:
            width: int = 8
        """,
    "file": """
        import pathlib
        assert pathlib.Path(__file__).is_file() and pathlib.Path(__file__).name == "own.py"
        """,
    "script": """
        import torch
        @torch.jit.script
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2
        """,
    "source": """
        import inspect
        def one():
            return 1
        class C:
            x = 2
        assert "return 1" in inspect.getsource(one) and "x = 2" in inspect.getsource(C)
        """,
    "hints": """
        from __future__ import annotations
        import typing
        class Thing:
            a: Thing
        assert typing.get_type_hints(Thing)["a"] is Thing
        """,
    "named tuple": """
        import pickle, typing
        class P(typing.NamedTuple):
            a: int
        assert pickle.loads(pickle.dumps(P(1))) == P(1)
        """,
    "enumeration": """
        import copy, enum
        class E(enum.Enum):
            a = 1
        assert copy.deepcopy(E.a) is E.a
        """,
    "itself": """
        import importlib, sys
        assert importlib.import_module(__name__) is sys.modules[__name__]
        """,
    "not main": """
        if __name__ == "__main__":
            raise SystemExit("run as a program")
        """,
    "logging": """
        import logging
        logging.getLogger(__name__).warning("a word")
        """,
    "warning": """
        import warnings
        warnings.warn("a word", stacklevel=1)
        """,
    "thread": """
        import threading
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        """,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:a word", "ignore:.*torch.jit.script.*")
def test_what_an_import_allows_a_plugin_may_do(folder, form):
    name = written(folder, textwrap.dedent(FORMS[form]) + PLAIN)
    assert isinstance(architectures.build(name, toys.seeded(toys.Chain()).state_dict(), 3), toys.Chain)
    assert [item.name for item in folder.iterdir()] == ["own.py"]


@pytest.mark.parametrize(
    "source",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\nassert NAME == chr(233)\n" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
    ],
    ids=["byte order mark", "latin-1", "lines of Windows"],
)
def test_a_source_is_decoded_as_an_import_decodes_it(folder, source):
    assert callable(plugins.plugin(written(folder, source)).build)


def test_a_plugin_is_run_once_and_another_source_is_another_module(folder):
    name = written(folder, PLAIN)
    first = module(name)
    assert module(name) is first and sys.modules[first.__name__] is first and first.__file__ == str(folder / "own.py")
    written(folder, PLAIN + "ANOTHER = 1\n")
    second = module(name)
    assert second is not first and second.ANOTHER == 1 and sys.modules[first.__name__] is first
    third = module(written(folder, PLAIN, "other"))
    assert third is not first and third.__file__ == str(folder / "other.py")


def test_networks_of_a_plugin_can_be_copied_and_pickled(folder):
    network = architectures.build(written(folder, PLAIN), toys.seeded(toys.Chain()).state_dict(), 3)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(other) is type(network)
        assert torch.equal(other(toys.pictures(2)), network(toys.pictures(2)))


def test_the_lines_that_are_shown_are_those_that_run_whatever_lies_there_since(folder):
    build = plugins.plugin(written(folder, PLAIN)).build
    written(folder, "# nothing\n" * 20)
    assert inspect.getsource(build) == "def build(weights, classes):\n    return Own(classes=classes)\n"


def test_a_plugin_that_fails_is_no_module_and_may_be_mended(folder):
    name = written(folder, "1 / 0\n")
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(BadInput, match=r"ZeroDivisionError: division by zero \(own\.py, line 1\)\.$"):
            plugins.plugin(name)
    assert set(sys.modules) == before
    assert callable(plugins.plugin(written(folder, PLAIN)).build)


def test_no_thread_sees_half_a_plugin(folder):
    name = written(folder, "import time\ntime.sleep(0.05)\n" + PLAIN)
    found = []
    threads = [threading.Thread(target=lambda: found.append(module(name))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1


FAILING = {
    f"{PLAIN}\n1 / 0": ("ZeroDivisionError", LINES + 2),
    "x = (": ("SyntaxError: '(' was never closed", 1),
    f"{PLAIN}def build(weights, classes):\n    raise KeyError('x')": ("KeyError: 'x'", LINES + 2),
    f"{PLAIN}def inner(): return [][1]\ndef build(weights, classes): return inner()": ("IndexError", LINES + 1),
    f"{PLAIN}def build(weights, classes):\n    import sys\n    sys.exit('no')": ("SystemExit: no", LINES + 3),
    "\nimport sys\nsys.exit(0)": ("SystemExit: 0", 3),
    "\nwho = input('Who? ')": ("EOFError", 2),
    "class Odd(BaseException): pass\nraise Odd('x')": ("Odd: x", 2),
    "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd": ("Odd", 3),
    "\nfrom .neighbour import x": ("ImportError: attempted relative import", 2),
    "\nfrom . import neighbour": ("ImportError: attempted relative import", 2),
    "\nimport neighbour": ("ModuleNotFoundError: No module named 'neighbour'", 2),
    "\nimport nothing_of_that_name": ("ModuleNotFoundError", 2),
    f"{PLAIN}def __getattr__(name):\n    raise RuntimeError(name)": ("RuntimeError", LINES + 2),
    f"{PLAIN}MEAN = STD = (10**400, 1, 1)": ("OverflowError", None),
    "def f():\n    f()\nf()": ("RecursionError", 2),
}


def test_an_error_in_a_forward_is_told_with_the_line_of_its_source(tmp_path, folder, weights, capsys):
    written(folder, PLAIN.replace("pass", "def forward(self, x): 1 / 0"))
    (tmp_path / "names.txt").write_text("\n".join(toys.CLASSES))
    options = ["--weights", str(weights), "--classes", str(tmp_path / "names.txt"), "--architecture", "plugin/own"]
    assert command_line.main(["model", "add", "--store", str(tmp_path / "store"), "--name", "m", *options]) == 2
    reason = "The network cannot answer an image of 8x8 pixels in a batch of others (own.py, line 6): division by zero."
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {reason}"


@pytest.mark.parametrize("source", FAILING)
def test_an_error_of_a_plugin_is_told_in_one_line_with_the_line_of_its_source(
    tmp_path, folder, weights, source, capsys
):
    written(folder, PLAIN, "neighbour")
    written(folder, source)
    (tmp_path / "names.txt").write_text("\n".join(toys.CLASSES))
    options = ["--weights", str(weights), "--classes", str(tmp_path / "names.txt"), "--architecture", "plugin/own"]
    code = command_line.main(["model", "add", "--json", "--store", str(tmp_path / "store"), "--name", "m", *options])
    told = capsys.readouterr()
    reason, line = FAILING[source]
    last = told.err.splitlines()[-1]
    assert code == 2 and told.out == "" and "Traceback" not in told.err
    assert f"error: The plug-in 'plugin/own' fails: {reason}" in last
    assert line is None or f"(own.py, line {line})." in last
    is_neighbour = "neighbour" in source
    assert last.endswith("A plug-in is one file: put what it needs into it, or install it.") is is_neighbour
    assert not (tmp_path / "store").exists()


TALKING = """
import atexit, os, sys, warnings
print('imported')
os.system('echo from a shell')
sys.stdout.write('imported again')
atexit.register(print, 'goodbye')
""" + PLAIN.replace(
    "pass", "def forward(self, x):\n        print('forward')\n        return super().forward(x)"
).replace("    return Own", "    print('built')\n    return Own")


@pytest.mark.cluster
def test_what_a_plugin_prints_never_gets_among_what_a_command_says(tmp_path, folder, weights):
    written(folder, TALKING)
    (tmp_path / "names.txt").write_text("\n".join(toys.CLASSES))
    options = ["--weights", str(weights), "--classes", str(tmp_path / "names.txt"), "--architecture", "plugin/own"]
    command = ["model", "add", "--json", "--store", str(tmp_path / "store"), "--name", "m", *options]
    done = subprocess.run([sys.executable, "-m", "engine", *command], capture_output=True, text=True, check=False)
    assert isinstance(json.loads(done.stdout), dict), done.stderr
    assert all(word in done.stderr for word in ("imported", "from a shell", "built", "forward", "goodbye"))


def test_what_a_plugin_prints_at_work_in_a_worker_goes_to_stderr(tmp_path, folder, weights, capsys):
    store = Store(tmp_path / "store")
    source = TALKING.replace("atexit.register(print, 'goodbye')", "").replace("os.system('echo from a shell')", "")
    register.add(store, register.Submission("m", written(folder, source), weights, toys.CLASSES))
    place = Place("m", "")
    worker.perform(tasks.order(tasks.VALIDATION, tasks.VALIDATION.key(store, place), place), str(store.root))
    told = capsys.readouterr()
    assert told.out == "" and all(word in told.err for word in ("imported", "built", "forward"))


def test_what_any_work_prints_goes_to_stderr(tmp_path, capsys):
    store = Store(tmp_path / "store")
    order = tasks.order(tasks.DEMO, "0" * 32, Nothing())
    worker.perform(order, str(store.root), compute=lambda *_: print("at work"))  # noqa: T201 (what is tested)
    assert capsys.readouterr() == ("", "at work\n")


def test_streams_are_as_before_after_work_that_fails(monkeypatch):
    before = sys.stdin, sys.stdout
    with pytest.raises(BadInput):
        worker.perform({}, "nowhere")
    with pytest.raises(BadInput), plugins.guarded("plugin/own"):
        raise BadInput("x")
    assert (sys.stdin, sys.stdout) == before


@pytest.mark.cluster
def test_whoever_reads_but_the_first_line_of_an_answer_gets_it_without_a_traceback():
    shell = f"{sys.executable} -m engine architectures --only alexnet | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
