"""ARIA and data attributes for components: their names carry a dash, which no keyword argument can."""

from __future__ import annotations

from typing import Any


def aria(**values: str) -> dict[str, Any]:
    """Return `aria-` attributes to be unpacked into a component: `aria(label="Filters")`."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """Return `data-` attributes to be unpacked into a component: `data(run="…")`; an underscore becomes a dash."""
    return {f"data-{name.replace('_', '-')}": value for name, value in values.items()}
