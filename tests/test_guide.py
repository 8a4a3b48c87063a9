"""Help as text: what the page at `/help` holds, what each level says, and how little Markdown becomes HTML."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from dashboard import app, guide, wording


def test_every_term_stands_once_in_one_group_with_a_name_of_its_own():
    groups = list(guide.sections_of_terms())
    assert [name for _, names in groups for name in names] == list(wording.TERMS)
    assert [title for title, _ in groups] == [title for _, title in guide.SECTIONS]
    names = [wording.title(name) for name in wording.TERMS]
    assert [name for name in names if not re.fullmatch(r"\S.{1,45}", name) or "-select" in name] == []


def test_names_are_of_terms_that_there_are():
    assert set(wording.NAMES) <= set(wording.TERMS)
    assert set(guide.MEANINGS) == set(guide.TITLES)


@pytest.mark.parametrize("level", guide.MEANINGS)
def test_a_reading_has_three_to_five_sentences_worth_and_says_what_it_cannot(level):
    assert 3 <= len(guide.MEANINGS[level]) <= 5
    text = " ".join(guide.MEANINGS[level])
    assert re.search(r"cannot|no cause|says nothing", text)


def test_the_tour_has_six_steps_that_point_at_parts_of_the_page():
    assert len(guide.TOUR) == 6
    assert len({step.target for step in guide.TOUR}) == 6
    assert 'name="tour"' in app.index()


def test_the_page_holds_every_sentence_and_the_claims():
    page = guide.page()
    text = re.sub(r"<[^>]+>", "", page).replace("&#x27;", "'").replace("&lt;", "<").replace("&amp;", "&")
    missing = [sentence for sentence in wording.TERMS.values() if sentence not in text]
    assert missing == []
    assert all(sentence in text for sentences in guide.MEANINGS.values() for sentence in sentences)
    assert "Nothing here certifies robustness." in text
    assert "**" not in text and "](" not in text
    assert page.count("<h1>") == 1


def test_markdown_becomes_headings_lists_and_emphasis_and_nothing_else():
    text = "# A *b*\n\nOne & <two>\nlines, `x`.\n\n1. **first**\n   goes on\n2. second\n\n- item"
    assert guide.markdown(text) == (
        "<h2>A <i>b</i></h2><p>One &amp; &lt;two&gt; lines, <code>x</code>.</p>"
        "<ol><li><b>first</b> goes on</li><li>second</li></ol><ul><li>item</li></ul>"
    )


def test_the_page_of_help_is_served_by_the_application():
    server = Flask(__name__)
    guide.register(server)
    answer = server.test_client().get("/help")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
