"""What the page shows, as one value: the same in the store, in the link and in every callback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlencode

SHARES = (0.05, 0.1, 0.2, 0.3)
GROUP = "group"
"""The sample name that stands for up to `GROUP_SIZE` images together."""
GROUP_SIZE = 16
LONGEST = 200
"""Characters of a link value that are looked at; more is nobody's name."""
LONGEST_CHOICE = 2000
"""Characters of the one value that may list feature maps."""
CHANNEL_LIMIT = 1_000_000
CHOICES: dict[str, tuple[str, ...]] = {
    "outcome": ("fooled", "resisted"),
    "detail": ("blocks", "sites"),
    "theme": ("light", "dark"),
    "page": ("explain", "audits", "models"),
    "study": ("curve", "profile", "smallest", "defence"),
}


@dataclass(frozen=True, slots=True)
class ViewState:
    """One view of the page. None means "choose for me"; every field is one parameter of the link."""

    model: str | None = None
    data: str | None = None
    label: str | None = None
    """Class name; None is any class that has an image of the outcome."""
    attack: str | None = None
    epsilon: str | None = None
    """As written: `8/255` or `0.05`."""
    outcome: str = "fooled"
    sample: str | None = None
    """Sample key, `group`, or None for the first one."""
    method: str | None = None
    share: float = 0.2
    detail: str = "blocks"
    versus: str | None = None
    """Another attack, or strength of it, drawn beside: `mifgsm-linf@8/255`."""
    folded: str | None = None
    """Stages of the river that are drawn as one column, their names joined by commas."""
    layer: str | None = None
    channel: int | None = None
    theme: str = "light"
    prove: str | None = None
    """Which maps are put back, as `dashboard.viewmodels.choice` reads it."""
    study: str | None = None
    """What is asked of all fooled images of the class together."""
    page: str = "explain"
    run: str | None = None
    """Id of the audit run that the audits page shows."""
    intake: str | None = None
    """Model and data set whose intake report the models page shows: `MODEL@DATA`."""
    group: str | None = None
    sort: str | None = None
    scale: str | None = None

    @classmethod
    def from_dict(cls, stored: object) -> ViewState:
        """Return the view in `stored`; what is unusable is dropped, the share goes to the nearest one offered."""
        given = stored if isinstance(stored, Mapping) else {}
        values: dict[str, Any] = {field.name: _read(field.name, given.get(field.name)) for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def to_query(self) -> str:
        """Return the view as a query string; fields that are not set or equal to the default are left out."""
        default = asdict(ViewState())
        told = {name: value for name, value in asdict(self).items() if value is not None and value != default[name]}
        return urlencode(told)


def complaints(stored: object) -> tuple[str, ...]:
    """Return one sentence for each value of a link that `from_dict` could not use as it stood."""
    given = stored if isinstance(stored, Mapping) else {}
    view = asdict(ViewState.from_dict(given))
    found = []
    for name in (*CHOICES, "share", "channel"):
        value = given.get(name)
        if value not in (None, "") and str(value) != str(view[name]) and _number(value) != view[name]:
            shown = "nothing in particular" if view[name] is None else f"'{view[name]}'"
            found.append(f"The link asked for {name} '{str(value)[:80]}', which does not exist; showing {shown}.")
    return tuple(found)


def _read(name: str, value: object) -> str | float | int | None:
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if name == "share":
        return _nearest_share(value)
    if name == "channel":
        return _channel(value)
    text = str(value)[: LONGEST_CHOICE if name == "prove" else LONGEST].strip()
    if name in CHOICES and text not in CHOICES[name]:
        return None
    return text or None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _nearest_share(value: object) -> float | None:
    number = _number(value)
    if number is None or number != number:
        return None
    return min(SHARES, key=lambda share: abs(share - number))


def _channel(value: object) -> int | None:
    number = _number(value)
    if number is None or not 0 <= number < CHANNEL_LIMIT or number != int(number):
        return None
    return int(number)
