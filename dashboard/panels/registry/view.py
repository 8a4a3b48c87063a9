"""The models and data page: what the store holds, its validation reports, and adding from the server's import folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from dash import html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol, wording
from dashboard.auditor import Auditor, Registry
from dashboard.markup import aria, data
from dashboard.panels.registry import model as registry
from engine import EngineError, ModelCard, ModelOrder, UnknownName, ValidationReport

NO_IMPORT_FOLDER = (
    "Models and data sets are added on the server: with python -m engine model add and data add, or from here once the "
    "dashboard is started with --import-folder DIR (or FAULTLINE_IMPORT_FOLDER), a folder that holds the files."
)
EMPTY_IMPORT_FOLDER = (
    "The import folder holds nothing that could be added: put weights, npz files, folders of "
    "pictures or class lists there."
)
FILLING = "The store is still being filled; the report is made as soon as the model is there."
MARKS = {"pass": "✔ pass", "fail": "✘ fail", "not run": "– not run"}
REPORTED = "Its validation report stands above."
INEXACT_TITLE = "Connections that are not exact"
INEXACT_NOTE = (
    "Changing one channel alone does not do quite what these connections say. Off by: the difference, as a share of the most "
    "that arrives at any one channel. They are drawn as not exact."
)
SHELVES = ("models", "data")


def layout() -> html.Section:
    """Return the page's skeleton; assets/registry.js fills it while the page is shown."""
    return html.Section(
        [
            html.Div([html.H2("Models and data", id="registry-heading")], className="panel-heading"),
            html.P(id=ids.REGISTRY_MESSAGE, role="status"),
            html.Div(id=ids.REGISTRY_MODELS),
            html.Div(id=ids.REGISTRY_REPORT, **aria(live="polite")),
            html.Div(id=ids.REGISTRY_DATA),
            html.Div(id=ids.REGISTRY_FORMS),
        ],
        id=ids.REGISTRY,
        className="panel audits registry",
        **aria(labelledby="registry-heading"),
    )


def facts(auditor: Auditor, stored: protocol.Ask | None) -> dict[str, Any]:
    """Return the page as plain values; `again` while a report is being made."""
    asked = _fields(stored).get("report")
    try:
        shelf = auditor.model_registry
        cards, images = shelf.models(), shelf.datasets()
        report, again = _report(auditor, asked)
        return {
            "report_of": asked,
            "models": markup.pieces(
                _models(registry.models(cards, images, _reports(shelf, images)), shelf.models(archived=True))
            ),
            "data": markup.pieces(_datasets(registry.datasets(images), shelf.datasets(archived=True))),
            "report": markup.pieces(report),
            "forms": _forms(shelf, images),
            "again": again,
        }
    except EngineError as error:
        said = protocol.nothing(error)
        return {"report_of": asked, "models": said, "data": [], "report": [], "forms": {"note": "", "model": [], "data": []},
                "again": False}  # fmt: skip


def ordered(auditor: Auditor, stored: protocol.Ask | None) -> dict[str, Any]:
    """Do what the page orders: add a model or a data set, archive one or restore it. `again` while it is being done."""
    ask = _fields(stored)
    try:
        if ask.get("shelf") in SHELVES:
            auditor.model_registry.archive(
                ask["shelf"], str(ask.get("name"))[:80], archived=ask.get("archived") is True
            )
            return {"state": "ready", "text": "", "kind": ""}
        return _taken(auditor, ask)
    except EngineError as error:
        return {"state": "failed", "text": str(error), "kind": ask.get("kind")}


def _fields(stored: object) -> Mapping[str, Any]:
    """What a browser sent; whatever is no set of fields asks for nothing."""
    return stored if isinstance(stored, Mapping) else {}


def _taken(auditor: Auditor, ask: Mapping[str, Any]) -> dict[str, Any]:
    order = registry.order(str(ask.get("kind")), ask.get("values"))
    if ask.get("isFirst") is True:
        auditor.model_registry.forget(order)
    answer = (
        auditor.model_registry.take_model(order)
        if isinstance(order, ModelOrder)
        else auditor.model_registry.take_data(order)
    )
    results = {"state": answer.state, "kind": ask.get("kind")}
    if answer.value is None:
        return {**results, "text": answer.message or "Being added …"}
    name = answer.value.name
    report = _first_report(auditor.model_registry, name) if isinstance(order, ModelOrder) else None
    text = " ".join((f"Added {name}.", *answer.value.notes, *([REPORTED] if report else [])))
    return {**results, "text": text, "report_of": report}


def _first_report(shelf: Registry, name: str) -> str | None:
    """Return the validation report to open for a model that was just added: on the first data set that fits, else on noise."""
    card = next((model for model in shelf.models() if model.name == name), None)
    return None if card is None else f"{name}@{next(iter(registry.fitting(card, shelf.datasets())), '')}"


def _reports(shelf: Registry, images: Any) -> dict[str, tuple[ValidationReport, ...]]:
    return {card.name: shelf.reports(card.name, registry.fitting(card, images)) for card in shelf.models()}


def _forms(shelf: Registry, images: Any) -> dict[str, Any]:
    if not shelf.has_import_folder:
        return {"note": NO_IMPORT_FOLDER, "model": [], "data": []}
    entries = shelf.entries()
    model, data_ = registry.model_form(entries, images, shelf.architectures()), registry.data_form(entries, images)
    return {
        "note": " ".join(filter(None, ("" if model or data_ else EMPTY_IMPORT_FOLDER, shelf.left_out()))),
        "model": [asdict(item) for item in model],
        "data": [asdict(item) for item in data_],
    }


def _report(auditor: Auditor, asked: object) -> tuple[list[Component], bool]:
    """Return the report that a link names as `MODEL@DATA`, and whether it is still being made."""
    if not isinstance(asked, str) or not asked:
        return [], False
    model, _, images = asked.partition("@")
    try:
        answer = auditor.validation(model, images)
    except UnknownName as error:
        is_filling = not (auditor.models() and auditor.datasets())
        return [html.P(FILLING if is_filling else str(error), className="nothing")], is_filling
    if answer.value is None:
        text = wording.awaited(answer, doing="Checking the model", failed="The check failed")
        return [html.P(text, className="nothing")], answer.state == "working"
    shown = registry.report(answer.value, _card(auditor, model))
    heads = markup.head(("Check", "", "What was found"))
    rows = [_check(check) for check in shown.checks]
    table = html.Table([html.Caption("Validation report", className="sr-only"), heads, html.Tbody(rows)])
    warnings = [html.P(text, className="warning", role="note") for text in shown.suspicions]
    title = html.H3(f"Validation report: {shown.title}")
    bound = [html.P(shown.bound, className="note")] if shown.bound else []
    return [title, html.P(shown.verdict, className="verdict"), *bound, *warnings, table, *_inexact(shown)], False


def _card(auditor: Auditor, name: str) -> ModelCard | None:
    """Return the model of a report, which may have been archived since."""
    cards = (*auditor.model_registry.models(), *auditor.model_registry.models(archived=True))
    return next((card for card in cards if card.name == name), None)


def _inexact(shown: registry.Report) -> list[Component]:
    """Return the table of connections that are not exact, where there are such."""
    if not shown.inexact:
        return []
    rows = [
        html.Tr([html.Th(row.source, scope="row"), *(html.Td(text) for text in (row.target, row.error, row.reason))])
        for row in shown.inexact
    ]
    table = html.Table([markup.head(("From layer", "To layer", "Off by", "Why")), html.Tbody(rows)])
    others = [html.P(shown.others, className="note")] if shown.others else []
    return [html.H4(INEXACT_TITLE), html.P(INEXACT_NOTE, className="note"), table, *others]


def _check(check: registry.CheckRow) -> Component:
    name = html.Span([check.title, html.Span(f". Fails if: {check.help}", className="sr-only")], title=check.help)
    cells = [html.Td(MARKS[check.outcome], className="act"), html.Td(check.sentence)]
    return html.Tr([html.Th(name, scope="row"), *cells], className=f"check-{check.outcome.replace(' ', '-')}")


def _models(rows: tuple[registry.ModelRow, ...], archived: Any) -> list[Component]:
    head = markup.head(
        (
            "Model",
            "Architecture",
            "Feature maps",
            "Takes",
            "Classes",
            "Content",
            "Validation report",
            "Make a report",
            "",
        )
    )
    body = [
        html.Tr(
            [
                html.Th(row.name, scope="row"),
                *(html.Td(text) for text in (row.architecture, row.maps, row.takes, row.classes, row.hash)),
                html.Td([html.Div(text) for text in row.status]),
                html.Td(_checks(row)),
                html.Td(_archive("models", row.name), className="act"),
            ]
        )
        for row in rows
    ]
    return [
        html.Table([html.Caption("Models", className="sr-only"), head, html.Tbody(body)]),
        *_back("models", archived),
    ]


def _checks(row: registry.ModelRow) -> Component:
    buttons = [
        html.Button(
            f"on {title}",
            className="plain-button",
            **data(report=f"{row.name}@{value}"),
            **aria(label=f"Check {row.name} on {title}"),
        )
        for value, title in row.fitting
    ]
    return html.Div(buttons, className="button-row")


def _datasets(rows: tuple[registry.DataRow, ...], archived: Any) -> list[Component]:
    head = markup.head(("Data set", "Images", "Size", "Classes", "Made from", "Content", ""))
    body = [
        html.Tr(
            [
                html.Th([row.name, *(html.P(text, className="note") for text in row.warnings)], scope="row"),
                *(html.Td(text) for text in (row.count, row.size, row.classes, row.source, row.hash)),
                html.Td(_archive("data", row.name), className="act"),
            ]
        )
        for row in rows
    ]
    return [html.H3("Data sets"), html.Table([head, html.Tbody(body)]), *_back("data", archived)]


def _archive(shelf: str, name: str) -> Component:
    return html.Button(
        "Archive", className="plain-button", **data(archive=name, shelf=shelf), **aria(label=f"Archive {name}")
    )


def _back(shelf: str, archived: Any) -> list[Component]:
    if not archived:
        return []
    buttons = [
        html.Button(f"Take {card.name} back", className="plain-button", **data(back=card.name, shelf=shelf))
        for card in archived
    ]
    span = html.Span("Archived (out of the menus, nothing is deleted):", className="control-label")
    return [html.Div([span, *buttons], className="button-row")]


PANELS: Final = (protocol.plain("registry", facts), protocol.plain("registry-order", ordered))
