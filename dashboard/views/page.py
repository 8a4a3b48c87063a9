"""The page: one static skeleton of header, inputs, network, layer and neuron; callbacks only set properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, html

from dashboard import ids, theme
from dashboard.views import audit_form, audits, desk, header, inputs, layer, network, neuron, proof, watch
from dashboard.views.aria import aria

if TYPE_CHECKING:
    from engine import Auditor


def layout(_auditor: Auditor) -> dmc.MantineProvider:
    """Return the skeleton; nothing of the store is in it, so one layout serves everyone."""
    main = html.Main(
        [
            html.Section(id=ids.EMPTY, className="panel empty", hidden=True, **aria(live="polite")),
            inputs.layout(),
            network.layout(),
            proof.layout(),
            html.Div([layer.layout(), neuron.layout()], className="levels"),
            proof.choice_bar(),
            audits.layout(),
            desk.layout(),
        ],
        id=ids.MAIN,
        tabIndex=-1,
    )
    skip = html.A("Skip the filters", href=f"#{ids.MAIN}", className="skip")
    page = html.Div([skip, watch.stores(), header.layout(), main], className="page")
    return dmc.MantineProvider(page, id=ids.PROVIDER, theme=theme.PROVIDER, forceColorScheme="light")


def register(app: Dash, auditor: Auditor) -> None:
    """Register every callback of the page on `app`."""
    _reduce(app)
    watch.register(app, auditor)
    header.register(app)
    network.register(app, auditor)
    layer.register(app, auditor)
    neuron.register(app, auditor)
    proof.register(app, auditor)
    audits.register(app, auditor)
    audit_form.register(app, auditor)
    desk.register(app, auditor)


def _reduce(app: Dash) -> None:
    """Merge the link, the filters and what was picked into the view, and the view into the link."""
    app.clientside_callback(
        ClientsideFunction("view", "reduce"),
        Output(ids.VIEW, "data"),
        Input(ids.ARRIVAL, "data"),
        Input(ids.PICK, "data"),
        Input(ids.DETAIL, "value"),
        Input(ids.THEME, "checked"),
        State(ids.VIEW, "data"),
        State(ids.WORK, "data"),
    )
