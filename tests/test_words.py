"""The words that the field does not use are gone from the page, from `--help` and from public names; old ones still work."""

import ast
import json
import re
from pathlib import Path

import dash_mantine_components as dmc
import pytest
from dash import dcc, html
from dash.development.base_component import Component

import engine
from dashboard import page, wording
from dashboard.links import ViewState
from dashboard.panels.audits import view as audits_view
from dashboard.panels.registry import view as registry_view
from engine import __main__ as command_line
from tests import sources, stores

ROOT = Path(__file__).resolve().parent.parent
RETIRED = re.compile(
    r"certificate(?!s?\b.{0,12}(file|\.))|\bprov(e|es|en|ing)\b|\bproofs?\b|put(s|ting)? back|kinship|attack flow|\bexamin"
    r"|\brosters?\b|\bresist(ance|ed|s)?\b|pre-?made|survivor|credib|\bbelieve|\bintake\b|\binbox\b|\bdesk\b|\bretired?\b"
    r"|synthes|scored by|kept per layer|^Beside\b",
    re.IGNORECASE,
)
LEGITIMATE = re.compile(
    r"^attack flow$|old name of|check its address and certificates|There is no certificate file|PEM file of the "
    r"cluster's|resistance' ?compares"
)
"""Certificates of TLS; the stored name of a line; what says how an old word is called now."""


def texts(path):
    """Yield the line and the text of every literal of a module that a reader may see: docstrings and keys left out."""
    tree = sources.parsed(path)
    hidden = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in hidden
            and " " in node.value
        ):
            yield node.lineno, node.value


@pytest.mark.parametrize("folder", ["dashboard", "engine"])
def test_no_text_that_is_shown_holds_a_retired_word(folder):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:100]}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in texts(path)
        if RETIRED.search(text) and not LEGITIMATE.search(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_text_of_a_script_holds_a_retired_word():
    literal = re.compile(r"'[^'\n]* [^'\n]*'|\"[^\"\n]* [^\"\n]*\"")
    wrong = [
        f"{path.name}: {match[0][:100]}"
        for path in sorted((ROOT / "assets").glob("*.js"))
        for match in literal.finditer(re.sub(r"/\*.*?\*/|//.*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))
        if RETIRED.search(match[0])
    ]
    assert not wrong, "\n".join(wrong)


def test_help_holds_no_retired_word(capsys):
    for words in ("", *command_line.COMMANDS):
        with pytest.raises(SystemExit):
            command_line.main([*words.split(), "--help"])
        shown = capsys.readouterr().out
        assert not RETIRED.search(shown), f"{words}: {RETIRED.search(shown)[0]}"


def test_public_names_hold_no_retired_word():
    defined = [
        (path, node.name)
        for folder in ("engine", "dashboard")
        for path in (ROOT / folder).rglob("*.py")
        for node in sources.parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    spaced = {name: re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name) for name in (*engine.__all__, *(n for _, n in defined))}
    assert not [name for name, words in spaced.items() if RETIRED.search(words)]
    modules = [path.stem for folder in ("engine", "dashboard") for path in (ROOT / folder).rglob("*.py")]
    assert not [name for name in modules if RETIRED.search(name.replace("_", " "))]


def test_links_of_older_versions_are_still_read():
    view = ViewState.from_dict({"prove": "flow:8", "intake": "m@d", "model": "m"})
    assert (view.patch, view.report, view.model) == ("flow:8", "m@d", "m")
    assert "patch=flow%3A8" in view.to_query() and "prove" not in view.to_query()


@pytest.mark.demo
def test_old_command_words_still_run_and_name_the_new_one(demo_store, tmp_path, capsys):
    store = stores.copied(demo_store, tmp_path / "store").root
    place = [
        "--store",
        str(store),
        "--model",
        "digits-standard",
        "--data",
        "digits",
        "--attack",
        "pgd-linf:eps=24/255,steps=3",
    ]
    code = command_line.main(
        ["prove", *place, "--images", "3", "--studies", "proof", "--maps", "8", "--out", str(tmp_path / "p.json")]
    )
    assert code == 0
    assert "'prove' is now called 'patching'" in capsys.readouterr().err
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["proof"] == {**written["test"], "is_proven": written["test"]["is_supported"]}
    code = command_line.main(["examine", *place, "--sample", "00001", "--quick", "--out", str(tmp_path / "pair")])
    assert code == 0
    assert "'examine' is now called 'explain'" in capsys.readouterr().err
    assert (tmp_path / "pair" / "examination.json").read_bytes() == (
        tmp_path / "pair" / "explanation.json"
    ).read_bytes()
    found = json.loads((tmp_path / "pair" / "explanation.json").read_text())
    assert found["parts_at"] == found["diverges_at"]
    assert found["clean"]["certificate"] == found["clean"]["faithfulness"]


def controls(component):
    """Yield every control and plot of a layout that has no term on itself or around it."""
    if isinstance(component, list | tuple):
        for part in component:
            yield from controls(part)
        return
    if not isinstance(component, Component) or "data-term" in component.to_plotly_json()["props"]:
        return
    kinds = dcc.Graph | html.Button | html.Select | html.Summary | dmc.Select | dmc.SegmentedControl | dmc.Switch
    if isinstance(component, kinds):
        yield component
    yield from controls(getattr(component, "children", None))


def test_every_control_and_plot_of_the_page_has_its_sentence():
    parts = (page.header(), page.explain(), audits_view.layout(), registry_view.layout())
    assert [getattr(one, "id", one) for one in controls(parts)] == []


def test_every_term_is_one_sentence_and_is_used():
    sources = [*(ROOT / "dashboard").rglob("*.py"), *(ROOT / "assets").glob("*.js")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "wording.py")
    for name, sentence in wording.TERMS.items():
        assert re.fullmatch(r"\S.{20,140}\.", sentence), name
        quoted = rf"['\"`]{re.escape(name)}['\"`]"
        starts = ("page-", "tab-", "drawer-", "study-", "verdict-", "save-", "run-", "import-")
        made = any(name.startswith(start) for start in starts)
        assert made or name in wording.COLUMNS.values() or re.search(quoted, code), f"{name} is nowhere used"
