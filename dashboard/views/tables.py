"""The heads of tables and the bars of intervals that several pages draw alike."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html

NARROWEST = 0.5
"""Per cent of the bar that an interval takes at least, so that it is seen."""


def head(titles: Sequence[str]) -> html.Thead:
    """Return a row of column heads."""
    return html.Thead(html.Tr([html.Th(title, scope="col") for title in titles]))


def interval(low: float, value: float, high: float) -> html.Span:
    """Return a share, 0 to 1, as a point on a bar within its interval."""
    width = max(NARROWEST, 100 * (high - low))
    span = html.Span(className="span", style={"left": f"{100 * low:.2f}%", "width": f"{width:.2f}%"})
    return html.Span([span, html.Span(className="point", style={"left": f"{100 * value:.2f}%"})], className="interval")
