"""The certificate card: how far each datapath can be trusted, and what putting maps back restored."""

from __future__ import annotations

from dash import html

from dashboard import ids


def layout() -> html.Div:
    """Return the card; its tables are drawn in the browser when the network's facts arrive (see views/network.py)."""
    checks = html.Div([html.H3("Certificate"), html.Div(id=ids.CHECKS)], className="card")
    restored = html.Div([html.H3("Clean maps put back"), html.Div(id=ids.RESTORATION)], className="card")
    return html.Div([checks, restored, html.Div(id=ids.FAILURES, className="failures")], className="cards")
