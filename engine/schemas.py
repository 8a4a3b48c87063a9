"""Names under which values are stored and hashed. Fixed by hand: a class may be renamed and its data still opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass


@dataclass(frozen=True, slots=True)
class Schema:
    """The name of what a class stores, held by the class as `SCHEMA`. Once data lies on a disk it never changes."""

    name: str
    """What is stored, and the version of its form, for example `explanation/1`."""
    noun: str = ""
    """What stores of version 0.1 call it, and what keys of content call it for ever; empty for what came later."""

    @property
    def key_name(self) -> str:
        """What stands for the class in keys of content."""
        return self.noun or self.name

    def fits(self, stored: str) -> bool:
        """Tell whether a stored name, of this version or an older one, is this schema's."""
        return stored in (self.name, self.noun)


def schema(kind: type) -> Schema:
    """Return the schema of a class that is stored or hashed; raises TypeError for a class without one."""
    found = getattr(kind, "SCHEMA", None)
    if not isinstance(found, Schema):
        raise TypeError(f"{kind.__name__} has no SCHEMA, so it can neither be stored nor be part of a key.")
    return found


def stored_as(name: str) -> Mapping[str, str]:
    """Return the metadata of a dataclass field that was renamed: the name under which it is stored and hashed for ever."""
    return {"stored": name}


def stored_name(field: Field) -> str:
    """Return the name under which a field is stored and hashed."""
    return field.metadata.get("stored", field.name)
