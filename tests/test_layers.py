"""The house as a table: every module has its layer, and arrows point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "engine.errors",
        "engine.version",
        "engine.schemas",
        "engine.commands.told",
        "engine.commands.audit_options",
        "engine.commands.intake_options",
        "engine.commands.prove_options",
        "engine.streams",
        "engine.data.leftovers",
    ),
    ("engine.class_names", "engine.text_values"),
    ("engine.selection", "engine.keys", "engine.files"),
    ("engine.settings", "engine.images", "engine.methods"),
    ("engine.attacks.rounding",),
    ("engine.attacks.spec",),
    ("engine.attacks.corruption_specs",),
    ("engine.attacks.catalogue",),
    (
        "engine.records.certificate",
        "engine.records.credibility",
        "engine.records.feature",
        "engine.records.proof",
        "engine.audit.paces",
    ),
    ("engine.records",),
    ("engine.comparison", "engine.membership", "engine.serial"),
    ("engine.statistics",),
    (
        "engine.records.certificate_parts",
        "engine.records.imports",
        "engine.records.intake",
        "engine.records.restoration",
        "engine.intake.inbox",
    ),
    ("engine.records.requests",),
    ("engine.store",),
    ("engine.jobs",),
    ("engine.audit",),
    ("engine.data",),
    ("engine.models",),
    ("engine.attacks",),
    ("engine.tracing",),
    ("engine.connections", "engine.datapaths"),
    ("engine.demo", "engine.controls"),
    ("engine.examination",),
    (
        "engine.features",
        "engine.rosters",
        "engine.credibility",
        "engine.blocks",
        "engine.proving",
        "engine.evaluation",
        "engine.intake",
    ),
    ("engine.benchmark", "engine.audit.verify"),
    ("engine.audit.runs",),
    ("engine.audit.report", "engine.audit.watching", "engine.frames"),
    ("engine.loaded",),
    ("engine.tasks",),
    ("engine.work",),
    ("engine.computations",),
    ("engine.answering",),
    ("engine.commands",),
    ("engine.auditor",),
    ("engine",),
    ("engine.__main__",),
    (
        "dashboard.auditor",
        "dashboard.ids",
        "dashboard.theme",
        "dashboard.settings",
        "dashboard.wording",
        "dashboard.markup",
        "dashboard.pictures",
    ),
    ("dashboard.auth", "dashboard.guard", "dashboard.links"),
    ("dashboard.protocol",),
    ("dashboard.progress",),
    ("dashboard.panels",),
    ("dashboard.media", "dashboard.page"),
    ("dashboard.app",),
    ("dashboard.server",),
    ("dashboard",),
    ("dashboard.__main__", "dashboard.wsgi"),
)
"""From the ground up. A name stands for its module or package; the longest name that fits decides."""

BELOW_THE_LINE = (
    "engine.attacks", "engine.models", "engine.data.torchvision_sets", "engine.demo",
    "engine.tracing", "engine.connections", "engine.controls", "engine.datapaths", "engine.examination", "engine.rosters",
    "engine.features", "engine.proving", "engine.credibility", "engine.blocks", "engine.evaluation", "engine.benchmark",
    "engine.intake.checks", "engine.intake.exact_edges", "engine.intake.mistakes", "engine.intake.proofs",
    "engine.intake.seen_pixels", "engine.audit.verify", "engine.computations",
)  # fmt: skip
"""Only these may import torch, and only in worker processes and commands."""
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


def imports(path: Path) -> set[str]:
    """Every module an import statement names, in functions too; `from package import module` names the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def layer(module: str) -> int:
    """The place of a module, by the longest name of the table that is it or holds it."""
    fitting = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name not in FORBIDDEN)
    ]
    if not fitting:
        raise LookupError(f"{module} has no place in LAYERS: give it one")
    return max(fitting)[1]


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module):
    own = [name for name in imports(MODULES[module]) if name.partition(".")[0] in FORBIDDEN]
    upward = [name for name in own if layer(name) > layer(module)]
    assert upward == [], f"{module} imports from above"


@pytest.mark.parametrize("module", MODULES)
def test_each_half_keeps_to_its_libraries(module):
    package = module.partition(".")[0]
    named = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert not named & FORBIDDEN[package]
    if not module.startswith(BELOW_THE_LINE):
        assert not named & TORCH, f"{module} is above the line under which torch is imported"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("dashboard")])
def test_the_dashboard_uses_only_what_the_engine_exports(module):
    assert not [name for name in imports(MODULES[module]) if name.startswith("engine.")]


def room(module: str) -> str:
    """The panel, package or module of the dashboard that a module is part of."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["panels"] else 2])


def test_the_rooms_of_the_dashboard_need_each_other_in_one_direction_only():
    needed: dict[str, set[str]] = {}
    for module in (name for name in MODULES if name.startswith("dashboard.")):
        own = {room(name) for name in imports(MODULES[module]) if name.startswith("dashboard.")}
        needed.setdefault(room(module), set()).update(own - {room(module)})
    while free := {name for name, others in needed.items() if not others & needed.keys()}:
        for name in free:
            del needed[name]
    assert needed == {}, "these need each other"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_600_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 600


def test_nine_in_ten_functions_are_under_25_lines():
    bodies = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                bodies.append(node.end_lineno - first.lineno + 1)
    assert sorted(bodies)[int(0.9 * len(bodies))] < 25


@pytest.mark.cluster
@pytest.mark.parametrize(
    "package", ["engine", "dashboard", "dashboard.app", "engine.auditor", "engine.work", "engine.commands.audit"]
)
def test_importing_the_upper_half_imports_no_torch(package):
    program = f"import sys, {package}; sys.exit(bool({{'torch', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
