"""The report as one HTML file that needs nothing else: no network, no script, A4 on paper."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

import jinja2

from engine.review import sections
from engine.review.content import Subject

TEMPLATE: Final = "report.html"


def html(subject: Subject) -> str:
    """Return the report of a finished run. Whatever people wrote stands in it as text: nothing of it is markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes").replace("+00:00", " UTC").replace("T", " ")
    return environment.get_template(TEMPLATE).render(
        title=f"Robustness of {subject.manifest.models[0].name}",
        run=subject.card.run,
        made=made,
        sections=sections.written(subject),
        kind=lambda block: type(block).__name__.lower(),
    )
