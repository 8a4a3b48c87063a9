"""Syntax trees of modules, for tests that read the code."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module.

    No garbage is collected meanwhile: what a finalizer raises is formatted by parsing source, and Python 3.11 ends a parse within
    a parse with "SystemError: AST constructor recursion depth mismatch".
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
