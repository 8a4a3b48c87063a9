"""The house as a table: every package has one row, arrows point down, and no two packages import each other."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import sources

ROOT = Path(__file__).resolve().parents[1]

ROWS: tuple[tuple[str, ...], ...] = (
    ("engine.errors", "engine.streams"),
    ("engine.class_names", "engine.images", "engine.parameters", "engine.statistics"),
    ("engine.hashing", "engine.serialization", "engine.specs"),
    ("engine.types",),
    ("engine.store",),
    ("engine.data", "engine.jobs", "engine.models"),
    ("engine.attacks",),
    ("engine.attribution", "engine.demo"),
    ("engine.audit", "engine.checks", "engine.features", "engine.patching"),
    ("engine.benchmark", "engine.results", "engine.review", "engine.service"),
    ("engine", "engine.cli", "engine.__main__"),
    (
        "dashboard.auditor", "dashboard.auth", "dashboard.guard", "dashboard.guide",
        "dashboard.ids", "dashboard.links",
        "dashboard.markup",
        "dashboard.pictures", "dashboard.settings", "dashboard.strengths", "dashboard.theme", "dashboard.wording",
    ),
    ("dashboard.protocol",),
    ("dashboard.panels",),
    ("dashboard.app", "dashboard.media", "dashboard.page", "dashboard.progress", "dashboard.server",
        "dashboard.transfers",
    ),
    ("dashboard", "dashboard.__main__", "dashboard.wsgi"),
)  # fmt: skip
"""From the ground up: packages, and modules that stand outside of one. Each has exactly one row."""
MOST_FILES = {"engine": 134, "dashboard": 73}
MOST_ROWS = 16

BELOW_THE_LINE = (
    "engine.attacks", "engine.attribution", "engine.audit.compute", "engine.audit.verify", "engine.benchmark",
    "engine.checks", "engine.data.torchvision_sets", "engine.demo", "engine.features", "engine.models",
    "engine.patching", "engine.service.computations",
)  # fmt: skip
"""Only these may import torch, and only in worker processes and commands."""
WITHOUT_TORCH = (
    "engine.specs.catalogue", "engine.specs.methods", "engine.attribution.comparison", "engine.service.auditor",
    "engine.service.tasks", "engine.service.worker",
    "engine.cli.audit", "engine.audit.runs", "engine.audit.report", "engine", "dashboard", "dashboard.app",
)  # fmt: skip
"""Importing these loads no torch."""
TORCH = {"torch", "torchvision", "safetensors"}
FORBIDDEN = {
    "engine": {"dash", "plotly", "flask", "dashboard", "dash_cytoscape", "dash_mantine_components"},
    "dashboard": TORCH | {"captum", "distributed"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("engine", "dashboard"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module an import statement names, in functions too; `from package import module` names the module."""
    found = set()
    for node in ast.walk(sources.parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return frozenset(found)


def package(module: str) -> str:
    """`engine.models.graph` is in `engine.models`; `engine.errors` stands for itself."""
    return ".".join(module.split(".")[:2])


@functools.cache
def graph() -> dict[str, set[str]]:
    """Which packages each package imports."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        own = {package(name) for name in imports(path) if name in MODULES}
        found.setdefault(package(module), set()).update(own - {package(module)})
    return found


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def row(name: str) -> int:
    return next(place for place, names in enumerate(ROWS) if name in names)


def test_every_package_has_one_row_and_there_are_few():
    named = [name for names in ROWS for name in names]
    assert sorted(named) == sorted(graph())
    assert len(ROWS) <= MOST_ROWS


@pytest.mark.parametrize("name", graph())
def test_arrows_point_down(name):
    assert [other for other in graph()[name] if row(other) > row(name)] == []


def test_no_packages_and_no_modules_import_each_other_in_a_circle():
    assert cycle(graph()) == []
    assert cycle({module: imports(path) & set(MODULES) - {module} for module, path in MODULES.items()}) == []


def test_a_circle_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


@pytest.mark.parametrize("name", MOST_FILES)
def test_there_are_not_too_many_files(name):
    assert len([module for module in MODULES if module.partition(".")[0] == name]) <= MOST_FILES[name]


@pytest.mark.parametrize("module", MODULES)
def test_each_half_keeps_to_its_libraries(module):
    half = module.partition(".")[0]
    named = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert not named & FORBIDDEN[half]
    if not module.startswith(BELOW_THE_LINE):
        assert not named & TORCH, f"{module} is above the line under which torch is imported"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("dashboard")])
def test_the_dashboard_uses_only_what_the_engine_exports(module):
    assert not [name for name in imports(MODULES[module]) if name.startswith("engine.")]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_600_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 600


def lengths() -> list[int]:
    found = []
    for path in MODULES.values():
        for node in ast.walk(sources.parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                found.append(node.end_lineno - first.lineno + 1)
    return sorted(found)


def test_functions_are_short():
    found = lengths()
    assert found[int(0.9 * len(found))] < 25
    assert found[-1] <= 40


@pytest.mark.cluster
@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_importing_the_upper_half_imports_no_torch(module):
    program = f"import sys, {module}; sys.exit(bool({{'torch', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
