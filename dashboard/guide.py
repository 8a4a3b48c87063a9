"""Help: the page of words and readings at `/help`, what each level means where it stands, and the six steps of the tour."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dash import html
from flask import Flask, Response

from dashboard import theme, wording
from dashboard.markup import aria, icon, term

CLAIMS: Final = Path(__file__).resolve().parent.parent / "docs" / "claims.md"
PATH: Final = "/help"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the tour."""

    target: str
    """Selector of what is pointed at."""
    title: str
    text: str


TOUR: Final = (
    Step(
        ".filters",
        "Choose what to explain",
        "Model, data, true class, attack and image. Each choice stands in the address, so a link shows the same view, and "
        "Back undoes it.",
    ),
    Step(
        "#verdict",
        "Read the verdict first",
        "What happened, where it takes hold, what restores the class, how the checks ended, and what to do next. "
        "✔ supported, ✘ not supported, ? not decided.",
    ),
    Step(
        "#network-panel",
        "1 Network: where the two runs differ",
        "A column per layer. Orange channels count only under attack, blue only in the clean run, grey in both. Click a "
        "column to open its layer.",
    ),
    Step(
        ".layer-panel",
        "2 Layer: every channel beside its attacked self",
        "Clean left, adversarial right. The letter says which run relies on the channel, Δ how much its map changed. Click "
        "a tile to open it.",
    ),
    Step(
        ".neuron-panel",
        "3 Neuron: what one channel answers to",
        "Where it looks in this image, which parts of the data excite it, what feeds it, and how it grows with epsilon.",
    ),
    Step(
        ".drawer-bar",
        "Test it, then cite it",
        "Patch channels and see whether the class comes back, beside random controls. Save charts and tables, and copy a "
        "link that names its evidence.",
    ),
)
MEANINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "verdict": (
        "Four answers for the images that are chosen: what the model said before and after, at which layer few channels "
        "decide, which clean channels bring the true class back, and how the checks ended.",
        "✔ supported: it exceeds its random control, with its interval. ✘ not supported: random channels do the same, so it "
        "is no claim. ?: too few trials to tell, or checks are still running.",
        "Channels count as the cause only where random channels of the same layers restore less.",
        "It says nothing about other images, other attacks or another epsilon, and it certifies no robustness.",
    ),
    "network": (
        "Each column is a layer, and its bar the channels that the runs rely on most: orange only under attack, grey in "
        "both, blue only in the clean run. Bands are the strongest connections; dotted outlines are not exact.",
        "The line on top is how differently both runs use the layer. Inside the grey band it is no more than noise of the "
        "same size does.",
        "The small bars are the part of the lost margin that passes each branch alone. Branches overlap, so they need not "
        "add up to 100 %.",
        "It cannot say which layer is the cause: a layer may differ only because an earlier one did. The causal test can.",
    ),
    "layer": (
        "Each tile is one channel: its map on the clean image left, on the attacked image right. Bright is a strong answer.",
        "C is relied on only by the clean run, A only by the adversarial one, S by both, – by neither. Δ is how much the "
        "map changed.",
        "Colours compare within a tile; choose one scale for the layer under More to compare tiles.",
        "A large change is no cause yet: a channel may change much and matter little. Patch it to find out.",
    ),
    "neuron": (
        "One channel: its map on both images, and as boxes what its strongest position sees of them.",
        "Patches are the parts of the data it answers to most, Feature is a picture made to excite it, Growth follows its "
        "peak over epsilon, Connections are what feeds it and what it feeds.",
        "It cannot say what the channel stands for: most channels answer to several unrelated things, so look at many "
        "patches before giving it a name.",
        "Its numbers hold for these images and this attack.",
    ),
}
"""How to read each part, and in the last sentences what it cannot say."""
TITLES: Final = {"verdict": "The verdict", "network": "1 Network", "layer": "2 Layer", "neuron": "3 Neuron"}
CONCEPTS: Final = (
    ("Clean and adversarial run", "The same network computing the image as it is, and the image after the attack."),
    ("Layer", "A place in the network whose output is looked at: the end of a block, or an activation within one."),
    ("Channel, feature map", "One of a layer's detectors, and the picture of where it answers. Both words mean the same here."),
    ("Datapath", "The channels that a run relies on most, layer by layer; circuit work calls it a sub-network (Cao et al. 2021)."),
    ("Top-k per layer", "How many channels of a layer count as its datapath: by default the strongest 20 %."),
    ("Margin", "The logit of the true class less that of the class fooled into; the attack turns its sign."),
    ("Attack conductance", "The part of the lost margin that passes a channel on the way from the clean to the attacked image."),
    ("Activation patching", "Putting channels' values of one run into the other, to see whether the answer follows them."),
    ("Layer-matched random", "Equally many channels of each layer, drawn at random: the control that a choice must beat."),
    ("Jaccard", "Channels in common divided by channels in either; the distance shown is one less that."),
    ("Interval", "A range made so that 95 of 100 such ranges hold the true value; of a group it is taken over its images."),
    ("Epsilon, L∞, L2", "How much an attack may change: at most so much at any pixel, or so much in Euclidean length."),
)  # fmt: skip
SECTIONS: Final = (
    ("model-select", "Filters"),
    ("page-explain", "Header"),
    ("case-toggle", "Case and verdict"),
    ("detail", "Network"),
    ("layer-group", "Layer"),
    ("overlay", "Neuron"),
    ("drawer-checks", "Checks, causal tests and studies"),
    ("audit-new", "Audits"),
    ("archive", "Models and data"),
)
"""The term with which each group of `wording.TERMS` begins, and the group's title."""


def meaning(level: str) -> html.Details:
    """Return the "?" of a level: a popover that says how to read it and what it cannot say."""
    more = html.P(
        [
            html.A("All words", href=f"{PATH}#words", target="_blank"),
            " · ",
            html.A("What a claim means", href=f"{PATH}#claims", target="_blank"),
        ]
    )
    summary = html.Summary(
        icon("help"),
        className="plain-button icon-button",
        **aria(label=f"What does this mean? {TITLES[level]}"),
        **term("meaning"),
    )
    body = [html.H3("What does this mean?"), *(html.P(sentence) for sentence in MEANINGS[level]), more]
    return html.Details([summary, html.Div(body, className="popover")], className="more meaning")


def tour() -> list[dict[str, str]]:
    """Return the steps of the tour as plain values."""
    return [asdict(step) for step in TOUR]


def register(server: Flask) -> None:
    """Serve the page of help."""
    body = page()

    def show() -> Response:
        return Response(body, mimetype="text/html")

    server.add_url_rule(PATH, "help", show)


def page() -> str:
    """Return the page: how to read each level, every word, and what a claim means."""
    readings = "".join(_reading(level) for level in MEANINGS)
    concepts = "".join(_entry(name, sentence) for name, sentence in CONCEPTS)
    sections = "".join(_section(title, terms) for title, terms in sections_of_terms())
    claims = markdown(CLAIMS.read_text(encoding="utf-8"))
    return _PAGE.format(
        colours=theme.style(), style=_STYLE, readings=readings, concepts=concepts, sections=sections, claims=claims
    )


def sections_of_terms() -> Iterator[tuple[str, list[str]]]:
    """Yield the groups of terms in the order of the table, each with its title."""
    titles = dict(SECTIONS)
    title = ""
    terms: list[str] = []
    for name in wording.TERMS:
        if name in titles:
            if terms:
                yield title, terms
            title, terms = titles[name], []
        terms.append(name)
    yield title, terms


def _reading(level: str) -> str:
    sentences = "".join(f"<p>{escaping.escape(sentence)}</p>" for sentence in MEANINGS[level])
    return f'<section id="{level}"><h3>{TITLES[level]}</h3>{sentences}</section>'


def _section(title: str, terms: Sequence[str]) -> str:
    entries = "".join(_entry(wording.title(name), wording.TERMS[name], f"term-{name}") for name in terms)
    return f"<h3>{escaping.escape(title)}</h3><dl>{entries}</dl>"


def _entry(name: str, sentence: str, anchor: str = "") -> str:
    place = f' id="{anchor}"' if anchor else ""
    return f"<div{place}><dt>{escaping.escape(name)}</dt><dd>{escaping.escape(sentence)}</dd></div>"


def markdown(text: str) -> str:
    """Return HTML of the little Markdown that `docs/claims.md` uses: headings, paragraphs, lists, emphasis."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return "".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    heading = re.match(r"(#+) (.*)", block)
    if heading:
        level = min(6, len(heading[1]) + 1)
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    for mark, tag in ((r"\d+\. ", "ol"), (r"- ", "ul")):
        if re.match(mark, block):
            items = re.split(rf"^{mark}", block, flags=re.MULTILINE)[1:]
            return f"<{tag}>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</{tag}>"
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    joined = escaping.escape(" ".join(text.split()), quote=False)
    joined = re.sub(r"`([^`]+)`", r"<code>\1</code>", joined)
    joined = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", joined)
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", joined)


_STYLE = (
    "body { overflow: auto; } .help { max-width: 860px; margin: 0 auto; padding: 16px 20px 60px; font-size: 14px; } "
    ".help h1 { font-size: 22px; } .help h2 { display: block; font-size: 18px; margin: 34px 0 8px; } "
    ".help h3 { font-size: 14px; margin: 20px 0 6px; } .help p, .help li { max-width: 72ch; margin: 0 0 6px; } "
    ".help ul, .help ol { padding-left: 22px; } .help nav { flex-wrap: wrap; gap: 4px 16px; margin: 8px 0 0; } "
    ".help header { padding: 0; display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 16px; } "
    ".help dl { margin: 0; } .help dl > div { display: grid; grid-template-columns: 220px 1fr; gap: 2px 16px; padding: 5px 0; "
    "border-bottom: 1px solid var(--line); } .help dt { font-weight: 600; } .help dd { margin: 0; } "
    ".help main { display: block; } .help dl :target { background: var(--soft); outline: 6px solid var(--soft); } "
    "@media (max-width: 640px) { .help dl > div { grid-template-columns: 1fr; } }"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Help · Faultline</title>
<link rel="icon" type="image/svg+xml" href="/assets/favicon.svg">
<script src="/assets/theme-init.js"></script>
<style>{colours}</style>
<link rel="stylesheet" href="/assets/app.css">
<style>{style}</style>
</head>
<body>
<div class="help">
<header><h1>Faultline: how to read it</h1><a href="/">Open Faultline</a></header>
<nav aria-label="On this page">
<a href="#levels">The levels</a><a href="#words">Words of the field</a><a href="#page">Words of the page</a>
<a href="#claims">What a claim means</a>
</nav>
<main>
<h2 id="levels">How to read each level</h2>{readings}
<h2 id="words">Words of the field</h2><dl>{concepts}</dl>
<h2 id="page">Words of the page</h2>{sections}
<div id="claims">{claims}</div>
</main>
</div>
</body>
</html>
"""
