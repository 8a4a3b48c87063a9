"""How strong an attack may be asked to be: what menus offer, how it is written, what it is in the attack's own unit."""

from __future__ import annotations

import re

from engine import MEASURES, AttackCard, DatasetCard, SettingCard

PIXEL_STRENGTHS = ("0.25/255", "0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255", "24/255", "32/255")
LENGTH_STRENGTHS = ("0.1", "0.25", "0.5", "1", "2", "3", "5", "10")
SUM_STRENGTHS = ("1", "2", "5", "8", "12", "20", "30", "50", "100")
AREA_STRENGTHS = ("0.01", "0.02", "0.05", "0.1", "0.15", "0.2", "0.25")
USUAL_STRENGTHS = {"pixel": PIXEL_STRENGTHS, "length": LENGTH_STRENGTHS, "sum": SUM_STRENGTHS, "area": AREA_STRENGTHS}
"""By scale of the measure."""
STRENGTH = re.compile(r"\d{1,9}(\.\d{1,9})?(/[1-9]\d{0,8})?")
"""How a strength may be written."""


def epsilon_setting(attack: AttackCard) -> SettingCard | None:
    """Return the attack's strength setting, or None when it has none."""
    return next((card for card in attack.settings if card.name == "epsilon"), None)


def first_strength(data: DatasetCard | None, attack: AttackCard) -> str | None:
    """Return the strength to start with: the data set's own for an Linf attack, else the attack's; None without one."""
    setting = epsilon_setting(attack)
    suggested = data.epsilon if data and attack.norm == "linf" else ""
    return (suggested or setting.default) if setting else None


def scale(setting: SettingCard) -> str:
    """Return whether a strength is a `pixel` change, a Euclidean `length`, a `sum` of changes or a share of the `area`."""
    return MEASURES[setting.unit].scale


def strength_title(setting: SettingCard, text: str) -> str:
    """Return what menus show of a strength: as it is written, or `5 % of the area`."""
    value = strength(text)
    return MEASURES["area"].text(value) if setting.unit == "area" and value is not None else text


def offered(attack: AttackCard | None, shown: str | None) -> list[str]:
    """Return the useful strengths within an attack's range, its default and the shown one among them, weakest first."""
    setting = epsilon_setting(attack) if attack else None
    if setting is None:
        return []
    usual = USUAL_STRENGTHS[scale(setting)]
    named = {text: strength(text) or 0.0 for text in (*usual, setting.default, shown or setting.default)}
    ordered = sorted(named, key=lambda text: named[text])
    return [text for text in ordered if setting.low <= named[text] <= setting.high]


def strength(text: str) -> float | None:
    """Return the value of a strength as written, `8/255` or `0.05`; None for anything else."""
    if not STRENGTH.fullmatch(text):
        return None
    above, _, below = text.partition("/")
    return float(above) / float(below) if below else float(above)
