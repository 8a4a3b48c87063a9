"""The inputs strip: clean, adversarial and perturbation side by side, with what the model said of each."""

from __future__ import annotations

from dash import ClientsideFunction, Dash, Input, html

from dashboard import ids


def layout() -> html.Section:
    """Return the panel; its body is drawn in the browser from the network's facts."""
    return html.Section(
        [html.H2("Inputs", className="sr-only"), html.Div(id=ids.INPUTS_BODY, className="inputs-body")],
        id=ids.INPUTS,
        className="panel inputs",
        **{"aria-label": "Inputs"},
    )


def register(app: Dash) -> None:
    """Draw the strip when the facts arrive."""
    app.clientside_callback(ClientsideFunction("facts", "inputs"), Input(ids.FACTS, "data"), prevent_initial_call=True)
