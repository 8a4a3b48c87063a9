"""The models and data page: what the store holds, its validation reports, and adding from the server's import folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlencode

from dash import html
from dash.development.base_component import Component

from dashboard import ids, markup, protocol, wording
from dashboard.auditor import Auditor, Registry
from dashboard.guard import UPLOAD_PATH
from dashboard.markup import aria, data, term
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
UPLOADED = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".csv", ".txt")
"""Endings of files that the import folder takes; it looks itself."""


def layout() -> html.Section:
    """Return the page's skeleton; assets/registry.js fills it while the page is shown."""
    return html.Section(
        [
            html.Div([html.H2("Models and data", id="registry-heading")], className="panel-heading"),
            html.P(id=ids.REGISTRY_MESSAGE, role="status"),
            html.Div(id=ids.REGISTRY_MODELS),
            html.Div(id=ids.REGISTRY_REPORT, **aria(live="polite")),
            html.Div(id=ids.REGISTRY_DATA),
            html.Div(id=ids.REGISTRY_DROP, className="drop", hidden=True),
            html.Div(id=ids.REGISTRY_FORMS),
            html.Div(id=ids.REGISTRY_FILES),
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
        cards, images, runs = shelf.models(), shelf.datasets(), auditor.audits.cards()
        report, again = _report(auditor, asked)
        return {
            "report_of": asked,
            "models": markup.pieces(
                _models(registry.models(cards, images, _reports(shelf, images), runs), shelf.models(archived=True))
            ),
            "data": markup.pieces(_datasets(registry.datasets(images, cards, runs), shelf.datasets(archived=True))),
            "report": markup.pieces(report),
            "forms": _forms(shelf, images),
            "files": markup.pieces(_files(shelf)),
            "drop": _drop(shelf),
            "again": again,
        }
    except EngineError as error:
        said = protocol.nothing(error)
        forms: dict[str, Any] = {"note": "", "model": [], "data": [], "first": 0}
        return {"report_of": asked, "models": said, "data": [], "report": [], "forms": forms, "files": [], "drop": None,
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
    except registry.WrongField as error:
        return _wrong(ask.get("kind"), error.mistakes)
    except EngineError as error:
        return _failed(ask.get("kind"), str(error))


def _wrong(kind: object, mistakes: Mapping[str, str]) -> dict[str, Any]:
    count = len(mistakes)
    text = f"{count} fields are not right yet." if count > 1 else "One field is not right yet."
    return {"state": "failed", "text": text, "kind": kind, "mistakes": dict(mistakes)}


def _failed(kind: object, text: str) -> dict[str, Any]:
    """Return that an order failed, at the field that it failed by; what is no order is said for the whole page."""
    if kind not in registry.FIELDS_OF:
        return {"state": "failed", "text": text, "kind": kind, "mistakes": {}}
    return _wrong(kind, dict([registry.mistake(str(kind), text)]))


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
    if answer.state == "failed":
        return _failed(ask.get("kind"), answer.message)
    if answer.value is None:
        return {**results, "text": answer.message or "Being added …"}
    name = answer.value.name
    report = _first_report(auditor.model_registry, name) if isinstance(order, ModelOrder) else None
    misfits = [] if isinstance(order, ModelOrder) else _misfits(auditor.model_registry, name)
    text = " ".join((f"Added {name}.", *answer.value.notes, *([REPORTED] if report else []), *misfits))
    return {**results, "text": text, "report_of": report}


def _misfits(shelf: Registry, name: str) -> list[str]:
    """Return why a data set that was just added fits no model; nothing where it fits one."""
    card = next((one for one in shelf.datasets() if one.name == name), None)
    return [text] if card and (text := registry.misfit(card, shelf.models())) else []


def _first_report(shelf: Registry, name: str) -> str | None:
    """Return the validation report to open for a model that was just added: on the first data set that fits, else on noise."""
    card = next((model for model in shelf.models() if model.name == name), None)
    return None if card is None else f"{name}@{next(iter(registry.fitting(card, shelf.datasets())), '')}"


def _reports(shelf: Registry, images: Any) -> dict[str, tuple[ValidationReport, ...]]:
    return {card.name: shelf.reports(card.name, registry.fitting(card, images)) for card in shelf.models()}


def _forms(shelf: Registry, images: Any) -> dict[str, Any]:
    if not shelf.has_import_folder:
        return {"note": NO_IMPORT_FOLDER, "model": [], "data": [], "first": 0}
    entries = shelf.entries()
    model, data_ = registry.model_form(entries, images, shelf.architectures()), registry.data_form(entries, images)
    return {
        "note": " ".join(filter(None, ("" if model or data_ else EMPTY_IMPORT_FOLDER, shelf.left_out()))),
        "model": [asdict(item) for item in model],
        "data": [asdict(item) for item in data_],
        "first": registry.FIRST_FIELDS,
    }


def _drop(shelf: Registry) -> dict[str, Any] | None:
    """Return what the page needs to know to send a file; nothing where it may not."""
    if not shelf.takes_uploads:
        return None
    return {"path": UPLOAD_PATH, "endings": list(UPLOADED), "there": [entry.name for entry in shelf.entries()]}


def _files(shelf: Registry) -> list[Component]:
    if not shelf.has_import_folder:
        return []
    heads = markup.head(("File", "Kind", "File size", "Written (UTC)"))
    rows = [
        html.Tr([html.Th(name, scope="row"), *(html.Td(text) for text in rest)], **data(key=name))
        for name, *rest in registry.files(shelf.entries())
    ]
    if not rows:
        return []
    title = html.Summary(f"What lies in the import folder ({len(rows)})", **term("import-files"))
    return [html.Details([title, html.Table([heads, html.Tbody(rows)])], className="twin")]


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
    heads = markup.head(("Check", "", "Found"))
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
    heads = ("Model", "Architecture", "Takes", "Classes", "Source and licence", "Added (UTC)", "Content", "Audits",
             "Validation report", "")  # fmt: skip
    body = [
        html.Tr(
            [
                html.Th(
                    [html.Div(row.name), _ways(row.name, next((value for value, _ in row.fitting), ""))], scope="row"
                ),
                html.Td([html.Div(row.architecture), html.Div(row.maps, className="note")]),
                html.Td(row.takes, className="act"),
                html.Td(row.classes),
                *_origin(row.name, row.origin),
                html.Td([*(html.Div(text) for text in row.status), _checks(row)]),
                html.Td(_archive("models", row.name), className="act"),
            ],
            **data(key=row.name),
        )
        for row in rows
    ]
    caption = html.Caption("Models", className="sr-only")
    return [html.Table([caption, markup.head(heads), html.Tbody(body)]), *_back("models", archived)]


def _ways(model: str, images: str) -> Component:
    """Return where one goes from a model and a data set: to their explanation, and to a new audit of them."""
    query = urlencode({"model": model, "data": images})
    plan = html.Button("New audit", className="row-button", **data(plan=model, plan_data=images), **term("plan"))
    return html.Div(
        [html.A("Explain", href=f"/?{query}", **term("explain-it")), " · ", plan] if images else [], className="note"
    )


def _origin(name: str, origin: registry.Origin) -> list[Component]:
    copy = html.Button(
        "Copy",
        className="row-button",
        **data(copy=origin.hash),
        **aria(label=f"Copy the hash of {name}"),
        **term("copy-hash"),
    )
    runs = html.Button(
        str(origin.audits), className="row-button", **data(runs_of=name), **aria(label=f"{origin.audits} audits of {name}"),
        **term("audits-of"),
    ) if origin.audits else "0"  # fmt: skip
    return [
        html.Td([html.Div(origin.source), html.Div(origin.licence, className="note")]),
        html.Td(origin.added, className="act"),
        html.Td([html.Code(origin.hash[: registry.HASH_SHOWN], title=origin.hash), " ", copy], className="act"),
        html.Td(runs),
    ]


def _checks(row: registry.ModelRow) -> Component:
    buttons = [
        html.Button(
            f"on {title}",
            className="plain-button",
            **data(report=f"{row.name}@{value}"),
            **aria(label=f"Check {row.name} on {title}"),
            **term("check-model"),
        )
        for value, title in row.fitting
    ]
    return html.Div(buttons, className="button-row")


def _datasets(rows: tuple[registry.DataRow, ...], archived: Any) -> list[Component]:
    heads = (
        "Data set",
        "Images",
        "Size",
        "Classes",
        "Source and licence",
        "Added (UTC)",
        "Content",
        "Audits",
        "Fits",
        "",
    )
    body = [
        html.Tr(
            [
                html.Th(
                    [
                        html.Div(row.name),
                        _ways(next(iter(row.models), ""), row.name if row.models else ""),
                        *(html.P(text, className="note") for text in row.warnings),
                    ],
                    scope="row",
                ),
                html.Td(row.count),
                html.Td(row.size, className="act"),
                html.Td(row.classes),
                *_origin(row.name, row.origin),
                html.Td(
                    html.Span(row.misfit, className="doubt")
                    if row.misfit
                    else ", ".join(row.models) or "no model here",
                    className="fits",
                ),
                html.Td(_archive("data", row.name), className="act"),
            ],
            **data(key=row.name),
        )
        for row in rows
    ]
    return [html.H3("Data sets"), html.Table([markup.head(heads), html.Tbody(body)]), *_back("data", archived)]


def _archive(shelf: str, name: str) -> Component:
    return html.Button(
        "Archive",
        className="plain-button",
        **data(archive=name, shelf=shelf),
        **aria(label=f"Archive {name}"),
        **term("archive"),
    )


def _back(shelf: str, archived: Any) -> list[Component]:
    if not archived:
        return []
    buttons = [
        html.Button(
            f"Take {card.name} back", className="plain-button", **data(back=card.name, shelf=shelf), **term("take-back")
        )
        for card in archived
    ]
    span = html.Span("Archived (out of the menus, nothing is deleted):", className="control-label")
    return [html.Div([span, *buttons], className="button-row")]


PANELS: Final = (protocol.plain("registry", facts), protocol.plain("registry-order", ordered))
