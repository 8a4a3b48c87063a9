"""What a result depends on besides its inputs: the versions of the language, the libraries and Faultline."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

from engine.version import VERSION

LIBRARIES: Final = ("torch", "torchvision", "numpy", "pyautoattack")


def installed() -> tuple[tuple[str, str], ...]:
    """Return (name, version) pairs; a library that is not installed has an empty version. Imports none of them."""
    found = [("faultline", VERSION), ("python", platform.python_version())]
    return (*found, *((name, _version(name)) for name in LIBRARIES))


def difference(planned: tuple[tuple[str, str], ...], here: tuple[tuple[str, str], ...]) -> str:
    """Return in words what differs between two sets of versions, empty where nothing does."""
    other = dict(here)
    return ", ".join(
        f"{name} {version or 'absent'} was planned and {other.get(name) or 'none'} is installed"
        for name, version in planned
        if other.get(name, "") != version
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
