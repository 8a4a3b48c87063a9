"""The inputs strip: clean, adversarial and perturbation side by side, with what the model said of each."""

from __future__ import annotations

from dash import html

from dashboard import ids
from dashboard.views.aria import aria


def layout() -> html.Section:
    """Return the panel; its body is drawn in the browser when the network's facts arrive (see views/network.py)."""
    return html.Section(
        [
            html.H2("Inputs", className="sr-only"),
            html.Div(id=ids.INPUTS_BODY, className="inputs-body"),
            html.Div(id=ids.STRIP, className="strip", role="group", **aria(label="Samples of this class and outcome")),
        ],
        id=ids.INPUTS,
        className="panel inputs",
        **aria(label="Inputs"),
    )
