"""Keeping pandas out of the web process, which needs none of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class WithoutPandas(MetaPathFinder):
    """Answers every import of pandas as if it were not installed.

    pyarrow imports it merely to ask whether a value is a data frame: half a second and 40 MB, in whichever thread comes first.
    Meanwhile plotly in another thread finds the half-imported module, and its figure fails.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for pandas, and leave everything else to the other finders."""
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("The web process does without pandas.", name=fullname)
        return None


def without_pandas() -> None:
    """Keep pandas out of this process from now on."""
    if not any(isinstance(finder, WithoutPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, WithoutPandas())
