"""Numbers as the panels write them (three significant digits, a real minus sign, per cent with a space), and what is awaited."""

from __future__ import annotations

from typing import Any

from engine import Answer


def number(value: float) -> str:
    """Return three significant digits, for example `0.0312`."""
    return f"{value:.3g}".replace("-", "−")


def signed(value: float) -> str:
    """Return three significant digits with a sign, for example `+1.25`; zero has none."""
    return "0" if value == 0 else f"{value:+.3g}".replace("-", "−")


def percent(value: float) -> str:
    """Return a share as per cent with two significant digits, for example `0.41 %`."""
    return f"{100 * value:.2g} %".replace("-", "−") if abs(value) < 0.995 else f"{100 * value:.0f} %".replace("-", "−")


def signed_percent(value: float) -> str:
    """Return the same with a sign."""
    return percent(value) if value <= 0 else f"+{percent(value)}"


def awaited(answer: Answer[Any], *, doing: str, failed: str) -> str:
    """Return what is said while an answer has no value: how far the work is, or why it failed."""
    if answer.state == "failed":
        return f"{failed}: {answer.message}"
    done = f" ({answer.done} of {answer.total})" if answer.total else ""
    return f"{(answer.message or doing).rstrip('. …')}{done} …"
