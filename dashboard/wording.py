"""Numbers as the panels write them (three significant digits, a real minus sign, per cent with a space), and what is awaited."""

from __future__ import annotations

from typing import Any

from engine import Answer

SMALLEST, FINE, WHOLE, LARGEST = 0.0001, 0.001, 0.0995, 0.995
"""Shares below the first are not written in digits, below the second with two decimals, from the third on in whole per cent."""


def number(value: float) -> str:
    """Return three significant digits, for example `0.0312`."""
    return f"{value:.3g}".replace("-", "−")


def signed(value: float) -> str:
    """Return three significant digits with a sign, for example `+1.25`; zero has none."""
    return "0" if value == 0 else f"{value:+.3g}".replace("-", "−")


def percent(share: float) -> str:
    """Return a share in per cent: two significant digits, at most two decimals, never 0 or 100 for what is neither.

    `percent` of assets/dom.js writes the same.
    """
    size = abs(share)
    if 0 < size < SMALLEST:
        text = f"<{100 * SMALLEST:g}"
    elif size < FINE:
        text = f"{round(100 * size, 2):g}"
    elif size < WHOLE:
        text = f"{100 * size:.2g}"
    else:
        text = ">99" if LARGEST <= size < 1 else f"{100 * size:.0f}"
    return f"{'−' if share < 0 else ''}{text} %"


def signed_percent(share: float) -> str:
    """Return the same with a sign; zero has none."""
    return percent(share) if share <= 0 else f"+{percent(share)}"


def bounds(low: float, high: float) -> str:
    """Return an interval of shares as `[low, high]` in per cent."""
    return f"[{percent(low).removesuffix(' %')}, {percent(high).removesuffix(' %')}]"


def measured(value: float, low: float, high: float) -> str:
    """Return an accuracy with its interval, to a tenth of a per cent: a threshold is held to as much."""
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def awaited(answer: Answer[Any], *, doing: str, failed: str) -> str:
    """Return what is said while an answer has no value: how far the work is, or why it failed."""
    if answer.state == "failed":
        return f"{failed}: {answer.message}"
    done = f" ({answer.done} of {answer.total})" if answer.total else ""
    return f"{(answer.message or doing).rstrip('. …')}{done} …"
