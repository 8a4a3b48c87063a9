"""The certificate card: how far each datapath can be trusted, and what putting maps back restored."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, html

from dashboard import ids


def layout() -> html.Div:
    """Return the card; its tables are drawn in the browser from the network's facts."""
    checks = html.Div([html.H3("Certificate"), html.Div(id=ids.CHECKS)], className="card")
    restored = html.Div([html.H3("Clean maps put back"), html.Div(id=ids.RESTORATION)], className="card")
    return html.Div([checks, restored, html.Div(id=ids.FAILURES, className="failures")], className="cards")


def register(app: Dash) -> None:
    """Draw the tables when the facts arrive."""
    app.clientside_callback(ClientsideFunction("facts", "card"), Input(ids.FACTS, "data"), prevent_initial_call=True)
