"""The parts of a certificate: computed one by one, merged as they arrive. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from engine.records import Certificate, Certificates

PARTS: Final = ("clean", "adversarial", "restoration", "stability", "kinship", "weights", "cross", "groups")
"""In the order in which they are asked for."""


def merge(partials: Sequence[Certificates]) -> Certificates:
    """Return what several parts say together: of each field the value that is there, of `done` and `failed` all."""
    return Certificates(
        clean=_joined([one.clean for one in partials]),
        adversarial=_joined([one.adversarial for one in partials]),
        restoration=next((one.restoration for one in partials if one.restoration is not None), None),
        kinship=next((one.kinship for one in partials if one.kinship is not None), None),
        classes=next((one.classes for one in partials if one.classes is not None), None),
        cross=next((one.cross for one in partials if one.cross is not None), None),
        groups=next((one.groups for one in partials if one.groups is not None), None),
        done=tuple(part for part in PARTS if any(part in one.done for one in partials)),
        failed=tuple(message for one in partials for message in one.failed),
        unavailable=tuple(message for one in partials for message in one.unavailable),
    )


def _joined(sides: Sequence[Certificate]) -> Certificate:
    """One side's certificate; a field that no part has set stays None, which reads `not run`."""
    known: dict[str, Any] = {}
    for side in sides:
        for one in dataclasses.fields(side):
            value = getattr(side, one.name)
            if value is not None and value != ():
                known.setdefault(one.name, value)
    return Certificate(**known)
