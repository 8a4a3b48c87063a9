"""Starting and stopping the server: the command line, the settings, gunicorn's entry."""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
from dashboard import __main__ as command
from dashboard import auth, settings
from dashboard.auth import Login
from dashboard.server import listen
from dashboard.settings import Settings
from tests.guarded import OpenedAuditor

CHECKOUT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(http://(\S+))(/\?token=\S+)")


def _free_port() -> int:
    with listen("127.0.0.1", 0) as probe:
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "Auditor", OpenedAuditor, raising=False)
    for name in [name for name in os.environ if name.startswith("FAULTLINE_")]:
        monkeypatch.delenv(name)


def _fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command line, which must end with code 2 and one line, and return the line."""
    try:
        code = command.main(arguments)
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert re.fullmatch(r"faultline: [^\n]+\n", output.err)
    return output.err


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "many"], "invalid int value: 'many'"),
        (["--port", "70000"], "[0, 65535], got 70000"),
        (["--port", "-1"], "got '-1'"),
        (["--nonsense"], "--nonsense"),
        (["extra"], "extra"),
        (["--host", "0.0.0.0"], "FAULTLINE_HOSTS"),
        (["--host", "::"], "FAULTLINE_HOSTS"),
        (["--host", "192.168.1.5"], "FAULTLINE_HOSTS"),
        (["--host", "example.org"], "FAULTLINE_HOSTS"),
        (["--scheduler", "tcp://somewhere:8786", "--port", "0"], "tls://"),
        (["--new-link", "--store", "/nonexistent/store"], "No server was ever started"),
    ],
)
def test_bad_arguments_end_with_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in _fails(arguments, capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "99999"),
        ("HTTPS", "maybe"),
        ("BODY_LIMIT", "0"),
        ("HOSTS", "http://a.example"),
        ("HOSTS", "*"),
        ("HOSTS", "a b"),
    ],
)
def test_bad_environment_ends_with_one_line(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FAULTLINE_{name}", value)
    _fails(["--store", "unused"], capsys)


def test_a_port_in_use_is_named_before_the_store_is_touched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        line = _fails(["--port", port, "--store", str(tmp_path / "store")], capsys)
    assert port in line
    assert "--port" in line
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_a_file_ends_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a store" in _fails(["--port", "0", "--store", str(tmp_path / "file")], capsys)


def test_no_link_is_made_for_a_server_that_has_ended(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    login = Login.open(tmp_path)
    auth.remember(login, Settings(tmp_path, port=_free_port()))
    assert "No server answers" in _fails(["--new-link", "--store", str(tmp_path)], capsys)
    assert list((login.folder / "links").iterdir()) == []


# --- settings --------------------------------------------------------------------------------------------------------


def test_arguments_outrank_the_environment_and_the_environment_the_defaults() -> None:
    given = settings.from_environment({"FAULTLINE_PORT": "9000", "FAULTLINE_HOSTS": " A.example, b.example:80 "})
    assert (given.port, given.allowed_hosts, given.host) == (9000, ("a.example", "b.example:80"), "127.0.0.1")
    assert settings.from_environment({}) == Settings(Path("faultline-store"))


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:8050"),
        ({"host": "::1"}, "http://[::1]:8050"),
        ({"host": "localhost", "port": 9}, "http://localhost:9"),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example",)}, "http://a.example:8050"),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example:80",)}, "http://a.example:80"),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example",), "is_https": True}, "https://a.example"),
        ({"allowed_hosts": ("a.example",), "is_https": True}, "https://a.example"),
    ],
)
def test_the_link_names_what_browsers_call_the_server(given: dict, address: str) -> None:
    assert Settings(Path("store"), **given).address == address


def test_one_process_of_a_parent_is_first(tmp_path: Path) -> None:
    login = Login.open(tmp_path)
    (login.folder / "announced-1-1").touch()
    assert [auth.is_first(login) for _ in range(3)] == [True, False, False]
    assert len(list(login.folder.glob("announced-*"))) == 1


# --- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("dashboard.app, dashboard.server, dashboard.__main__", {"torch", "torchvision"}),
        ("dashboard.__main__", {"torch", "dash", "plotly"}),
    ],
)
def test_importing_stays_light(modules: str, absent: set[str]) -> None:
    script = f"import sys, {modules}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert "engine" in loaded.split()
    assert absent & set(loaded.split()) == set()


# --- a whole life ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(command_line: list[str], output: Path, **environment: str) -> Iterator[subprocess.Popen]:
    with output.open("wb") as file:
        process = subprocess.Popen(
            command_line,
            cwd=CHECKOUT,
            env=os.environ | environment | {"PYTHONUNBUFFERED": "1", "HOME": str(output.parent)},
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def _wait_for(text: str, output: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while text not in output.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(output.read_text())
        time.sleep(0.1)
    return output.read_text()


def _follow(link: str) -> tuple[int, int]:
    """Open a one-time link as a browser does and return the statuses of the exchange and of the page."""
    _, host, path = LINK.search(link).groups()
    statuses, headers = [], {}
    for address in (path, "/"):
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", address, headers=headers)
        reply = connection.getresponse()
        statuses.append(reply.status)
        headers = {"Cookie": reply.getheader("Set-Cookie", "").partition(";")[0]}
    return statuses[0], statuses[1]


@pytest.mark.cluster
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_server_starts_with_a_link_and_ends_cleanly(end: signal.Signals, tmp_path: Path) -> None:
    store, output, port = tmp_path / "store", tmp_path / "output", _free_port()
    with _process(
        [sys.executable, "-m", "tests.guarded", "--store", str(store), "--port", str(port)], output
    ) as process:
        printed = _wait_for("Ctrl-C", output, process)
        assert len(LINK.findall(printed)) == 1
        assert str(store) in printed
        assert _follow(printed) == (303, 200)
        again = subprocess.run(
            [sys.executable, "-m", "dashboard", "--new-link", "--store", str(store)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert _follow(again) == (303, 200)
        process.send_signal(end)
        assert process.wait(20) == 0
    assert output.read_text() == printed
    assert (store / "demo").exists()
    assert (store / f"closed-{process.pid}").exists()
    listen("127.0.0.1", port).close()


def _gunicorn(port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "-b",
        f"127.0.0.1:{port}",
        "-k",
        "gthread",
        "-w",
        "2",
        "--threads",
        "2",
        "tests.guarded:serve_wsgi()",
    ]


@pytest.mark.cluster
@pytest.mark.slow
def test_under_gunicorn_one_link_is_printed_and_the_auditors_are_closed(tmp_path: Path) -> None:
    store, output, port = tmp_path / "store", tmp_path / "output", _free_port()
    with _process(_gunicorn(port), output, FAULTLINE_STORE=str(store), FAULTLINE_PORT=str(port)) as process:
        assert _follow(_wait_for("Ctrl-C", output, process)) == (303, 200)
        time.sleep(2)
        process.terminate()
        process.wait(20)
    assert len(LINK.findall(output.read_text())) == 1
    assert len(list(store.glob("closed-*"))) == 2


@pytest.mark.cluster
@pytest.mark.slow
def test_gunicorn_ends_with_a_line_where_the_environment_is_wrong(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with _process(_gunicorn(_free_port()), output, FAULTLINE_STORE=str(tmp_path), FAULTLINE_HOST="0.0.0.0") as process:
        assert process.wait(30) != 0
    assert "faultline: '0.0.0.0' can be reached from other machines" in output.read_text()
    # No trace of ours; gunicorn 27 may add one of its own arbiter when two workers end in the same moment.
    assert "wsgi.py" not in output.read_text()


@pytest.mark.cluster
def test_what_the_page_draws_loads_no_pandas():
    code = (
        "import sys, dashboard.app, dashboard.server\n"
        "from dashboard.panels.channel import figure\n"
        "from dashboard.panels.network import figure as river\n"
        "river.empty().to_json(), figure.empty_histogram('light').to_json(), figure.empty_response('dark').to_json()\n"
        "print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.cluster
def test_pandas_is_loaded_before_anything_is_drawn(tmp_path: Path):
    code = (
        "import sys, engine; from pathlib import Path; from dashboard import server, settings; from tests import guarded\n"
        "engine.Auditor = guarded.OpenedAuditor\n"
        "server.open_auditor(settings.Settings(Path(sys.argv[1]))); print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.cluster
def test_the_web_process_gives_back_what_it_no_longer_uses():
    code = "from dashboard import server; print(server.give_back_memory())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
