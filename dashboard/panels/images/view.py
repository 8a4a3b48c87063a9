"""The table of a run's images: its skeleton, its menus and columns; its rows come block by block from an address of their own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import dash_ag_grid
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol
from dashboard.auditor import Auditor
from dashboard.markup import aria, term
from dashboard.panels.images import model as images
from engine import EngineError, Listing

MENUS: Final = (
    ("images-under", "Condition"),
    ("images-status", "Ended"),
    ("images-classes", "True class"),
    ("images-into", "Answer after"),
)
"""Id and label of each menu; behind the dash stands the field that it sets."""
COLUMNS: Final = (
    ("clean", "Clean", 76, "image-clean"),
    ("adversarial", "Attacked", 88, "image-attacked"),
    ("sample", "Sample", 96, "image-sample"),
    ("name", "Name", 120, "image-name"),
    ("true_class", "True class", 110, "image-class"),
    ("condition", "Condition", 210, "image-condition"),
    ("status", "Ended", 110, "image-status"),
    ("before", "Before", 100, "image-before"),
    ("before_confidence", "Confidence before", 124, "image-before-confidence"),
    ("after", "After", 100, "image-after"),
    ("after_confidence", "Confidence after", 124, "image-after-confidence"),
    ("linf", "L∞", 90, "image-linf"),
    ("l2", "L2", 80, "image-l2"),
    ("in_budget", "In budget", 96, "image-budget"),
    ("target", "Target", 96, "image-target"),
)
"""Name, head, width in pixels and term of each column."""
RENDERERS: Final = {"clean": "RunPicture", "adversarial": "RunPicture", "sample": "RunImage"}
"""What draws a column that holds more than text: assets/images.js has them."""
BLOCK: Final = 100
"""Rows that are asked for at a time."""
HELD: Final = 20
"""Blocks that the browser keeps."""
ROW: Final = 56
HOW: Final = (
    "A click on a row, or Enter, opens Explain at that image. Arrows move from cell to cell, Tab leaves the table. Where the "
    "attack takes hold in one image is shown there: the run stores it by feature map, not by row."
)
# Megabytes that only this table needs: assets/images.js fetches them when it is first shown.
dash_ag_grid._js_dist[0]["dynamic"] = True


def layout() -> html.Section:
    """Return the skeleton; assets/images.js fills it while a run is shown."""
    find = dcc.Input(
        id=ids.IMAGES_FIND,
        type="search",
        placeholder="Find a sample",
        className="entry",
        autoComplete="off",
        maxLength=200,
    )
    menus = [markup.menu(name, label) for name, label in MENUS]
    return html.Section(
        [
            html.Div(
                [html.H3("Images", id="images-heading", tabIndex=-1), html.Span(id=ids.IMAGES_FILES)],
                className="panel-heading",
            ),
            html.Div(
                [*menus, html.Label([html.Span("Sample"), find], className="filter", **term("images-find"))],
                className="images-controls",
            ),
            html.P(id=ids.IMAGES_LEAD, role="status"),
            html.Div(id=ids.IMAGES_FRAME, className="images-frame"),
            html.P(HOW, className="note"),
        ],
        id=ids.IMAGES,
        className="images",
        hidden=True,
        **aria(labelledby="images-heading"),
    )


def answer(auditor: Auditor, stored: protocol.Ask) -> protocol.Facts:
    """Return the menus and how many rows there are, or why there are none."""
    run = str(stored.get("run") or "")
    facts: protocol.Facts = {"count": 0, "files": [], "menus": {}, "again": False}
    try:
        listing = auditor.audits.images(run, images.selection(stored))
    except EngineError as error:
        return {
            **facts,
            **_without(auditor, run, stored),
            "lead": markup.pieces(html.P(str(error), className="nothing")),
        }
    return {
        **facts,
        "count": listing.count,
        "lead": markup.pieces(_lead(listing)),
        "files": markup.pieces([_file(run, ending, protocol.query(stored, images.FIELDS)) for ending in images.FILES]),
        "menus": {name: asdict(menu) for name, menu in images.menus(listing.manifest, stored).items()},
        "again": listing.is_interim,
        "grid": grid().to_plotly_json(),
        "query": protocol.query(stored, images.FIELDS),
    }


def _without(auditor: Auditor, run: str, stored: protocol.Ask) -> protocol.Facts:
    """Return what can be chosen instead, where the run can be read."""
    try:
        view = auditor.audits.view(run)
        menus = images.menus(view.manifest, {**stored, "attacks": None, "classes": None})
    except EngineError:
        return {}
    return {
        "menus": {name: asdict(menu) for name, menu in menus.items()},
        "again": view.card.state.state != "finished",
    }


def _lead(listing: Listing) -> list[Component]:
    interim = [html.Span(images.interim(listing), className="interim")] if listing.is_interim else []
    return [html.Span(images.lead(listing)), *interim]


def _file(run: str, ending: str, query: str) -> Component:
    kind = {"csv": "CSV", "parquet": "Parquet"}[ending]
    href = f"/audits/{run}/images.{ending}{query}"
    about = term({"csv": "images-csv", "parquet": "images-parquet"}[ending])
    return html.A(kind, href=href, className="file", download="", **aria(label=f"All listed images as {kind}"), **about)


def grid() -> Component:
    """Return the empty table; assets/images.js gives it its rows."""
    options: dict[str, Any] = {
        "rowHeight": ROW, "cacheBlockSize": BLOCK, "maxBlocksInCache": HELD, "maxConcurrentDatasourceRequests": 2,
        "suppressMultiSort": True, "suppressColumnVirtualisation": True, "ensureDomOrder": True, "animateRows": False,
        "blockLoadDebounceMillis": 60, "suppressMovableColumns": True, "enableCellTextSelection": True,
    }  # fmt: skip
    return dash_ag_grid.AgGrid(
        id=ids.IMAGES_GRID,
        rowModelType="infinite",
        columnDefs=[_column(*column) for column in COLUMNS],
        defaultColDef={"sortable": True, "resizable": True, "wrapHeaderText": True, "autoHeaderHeight": True},
        dashGridOptions=options,
        className="",
        style={"height": 620},
    )


def _column(name: str, title: str, width: int, about: str) -> dict[str, Any]:
    renderer = {"cellRenderer": RENDERERS[name]} if name in RENDERERS else {}
    room = {"flex": 1, "minWidth": width} if name == "condition" else {"width": width}
    is_picture = name in ("clean", "adversarial")
    return {
        "field": name,
        "headerName": title,
        "sortable": not is_picture,
        "headerClass": about,
        **room,
        **renderer,
    }


PANELS: Final = (protocol.plain("images", answer, again=5000),)
