"""The neuron panel: ranks, peaks, histograms, neighbours and the gallery say what the records say."""

from __future__ import annotations

import dataclasses
import json

import dash_mantine_components as dmc
import numpy as np
import plotly.utils
import pytest
from dash import html

from dashboard import markup, protocol, wording
from dashboard import theme as themes
from dashboard.panels.channel import figure as channel_figure
from dashboard.panels.channel import model as channel_model
from dashboard.panels.channel import view as channel_view
from dashboard.panels.layer import model as layer
from engine import SIDES, Answer, Site, UnknownName, compare
from tests import fakes

KEY = "fake00001"
REQUEST = {"model": "digits-standard", "data": "digits", "attack": "pgd-linf:eps=0.05", "samples": ["00001"]}
ASK = {
    "key": KEY,
    "layer": "layer2.1",
    "share": 0.1,
    "channel": 3,
    "theme": "light",
    "request": REQUEST,
    "gallery": "ready",
}


@pytest.fixture(scope="module")
def explanation():
    return fakes.FakeAuditor().explained(KEY)


@pytest.fixture(scope="module")
def comparison(explanation):
    return compare(explanation, 0.1)


@pytest.fixture(scope="module")
def site(explanation):
    return layer.site_index(explanation, "layer2.1")


def text_of(component) -> str:
    return json.dumps(component, cls=plotly.utils.PlotlyJSONEncoder, ensure_ascii=False)


def card(explanation, comparison, **changes):
    ask = protocol.neuron({**ASK, **changes})
    clean, adversarial = fakes.FakeAuditor().maps(KEY, layer.site_index(explanation, ask.layer))
    return channel_model.build_card(explanation, comparison, (clean[ask.channel], adversarial[ask.channel]), ask)


def test_the_strongest_map_has_rank_one_and_is_kept(explanation, comparison, site):
    strongest = int(np.argmax(explanation.adversarial.strength[site]))
    shown = card(explanation, comparison, channel=strongest)
    assert shown.adversarial.rank == 1
    assert shown.adversarial.is_kept
    assert shown.adversarial.share == pytest.approx(float(explanation.adversarial.strength[site].max()))


def test_ranks_of_a_site_are_each_given_once(explanation, comparison):
    ranks = [card(explanation, comparison, channel=c).clean.rank for c in range(24)]
    assert sorted(ranks) == list(range(1, 25))


def test_kept_means_a_rank_within_the_share(explanation, comparison):
    cards = [card(explanation, comparison, channel=c) for c in range(24)]
    assert all(item.clean.is_kept == (item.clean.rank <= 2) for item in cards)
    assert all(item.adversarial.is_kept == (item.adversarial.rank <= 2) for item in cards)


def test_a_peak_is_found_where_it_was_planted_and_sees_its_field():
    stored = np.zeros((8, 8))
    stored[2, 5] = 3.0
    place = Site("x", 1, 8, 8, "x", "block", False, 8, 4, 2.0)
    found = channel_model.peak(stored, place, (32, 32))
    assert (found.row, found.column, found.value) == (2, 5, 3.0)
    box = found.box
    assert (box.left, box.top, box.right, box.bottom) == (18 / 32, 6 / 32, 26 / 32, 14 / 32)


def test_a_field_is_clipped_to_the_image():
    stored = np.zeros((8, 8))
    place = Site("x", 1, 8, 8, "x", "block", False, 100, 4, 2.0)
    box = channel_model.peak(stored, place, (32, 32)).box
    assert (box.left, box.top, box.right, box.bottom) == (0, 0, 1, 1)


def test_histograms_count_every_position_once():
    rng = np.random.default_rng(0)
    clean, adversarial = rng.normal(size=(2, 8, 8))
    shown = channel_model.distribution(clean, adversarial)
    assert (shown.clean.sum(), shown.adversarial.sum(), len(shown.edges)) == (64, 64, channel_model.BINS + 1)


def test_constant_maps_have_a_histogram():
    assert channel_model.distribution(np.zeros((4, 4)), np.zeros((4, 4))).clean.sum() == 16


@pytest.mark.parametrize("theme", themes.PALETTES)
def test_the_distribution_tells_sides_by_line_style_and_colour_of_the_theme(theme):
    figure = channel_figure.histogram(channel_model.distribution(np.arange(9.0), np.arange(9.0) * 2), theme)
    lines = [(trace.line.dash, trace.line.color) for trace in figure.data]
    colours = themes.palette(theme)
    assert lines == [("solid", colours.clean), ("dot", colours.adversarial)]
    assert figure.layout.yaxis.type == "log"


def test_outlines_carry_the_true_counts():
    shown = channel_model.distribution(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    figure = channel_figure.histogram(shown, "light")
    assert np.array_equal(figure.data[0].customdata[:-1, 0], shown.clean)
    assert min(figure.data[0].y) == channel_figure.FLOOR


@pytest.mark.parametrize("side", SIDES)
def test_incoming_neighbours_are_the_largest_contributions_over_all_links(explanation, comparison, site, side):
    shown = channel_model.build_neighbourhood(explanation, comparison, site, 3, side)
    every = np.concatenate([getattr(link, side)[3] for link in explanation.connections if link.target == site])
    expected = sorted(np.abs(every), reverse=True)[:8]
    assert [abs(item.contribution) for item in shown.incoming] == pytest.approx(expected)
    assert shown.incoming_total == len(every)


def test_a_planted_connection_is_found_with_its_site_channel_and_sign(explanation, comparison, site):
    link = next(c for c in explanation.connections if c.source == site)
    planted = link.clean.copy()
    planted[7, 3] = -99.0
    others = tuple(dataclasses.replace(c, clean=planted) if c is link else c for c in explanation.connections)
    found = channel_model.build_neighbourhood(
        dataclasses.replace(explanation, connections=others), comparison, site, 3, "clean"
    )
    best = found.outgoing[0]
    assert (best.layer, best.channel, best.contribution) == (explanation.sites[link.target].name, 7, -99.0)


def test_the_last_site_feeds_the_two_classes(explanation, comparison):
    shown = channel_model.build_neighbourhood(explanation, comparison, len(explanation.sites) - 1, 0, "clean")
    outcome = explanation.outcomes[0]
    names = {f"class {explanation.classes[k]}" for k in (outcome.label, outcome.after.label)}
    assert {item.name for item in shown.outgoing} == names
    assert all(item.layer is None for item in shown.outgoing)


def test_an_image_that_resisted_has_one_class_behind_the_last_site(comparison):
    resisted = fakes.FakeAuditor().explained("fake00002")
    shown = channel_model.build_neighbourhood(resisted, comparison, len(resisted.sites) - 1, 0, "clean")
    assert [item.name for item in shown.outgoing] == ["class 2"]


def test_contributions_of_zero_are_no_neighbours(explanation, comparison, site):
    blank = tuple(dataclasses.replace(c, clean=np.zeros_like(c.clean)) for c in explanation.connections)
    shown = channel_model.build_neighbourhood(
        dataclasses.replace(explanation, connections=blank), comparison, site, 3, "clean"
    )
    assert (shown.incoming, shown.outgoing, shown.largest) == ((), (), 0.0)


def lines(explanation, comparison, site, side="adversarial"):
    """The neighbours of a map as they are drawn: class names and width, incoming ones first."""
    shown = channel_model.build_neighbourhood(explanation, comparison, site, 3, side)
    drawn = elements(markup.pieces(channel_view.neighbour_lists(shown)))
    items = [element["attributes"] for element in drawn if element["tag"] == "li"]
    return (*shown.incoming, *shown.outgoing), items


def test_the_strongest_connection_is_the_widest_and_what_counts_against_is_marked(explanation, comparison, site):
    near, items = lines(explanation, comparison, site)
    assert ["is-against" in item["class"].split() for item in items] == [one.contribution < 0 for one in near]
    widths = [float(item["data-width"]) for item in items]
    assert max(widths) == channel_view.WIDEST
    assert min(widths) >= channel_view.NARROWEST


def test_a_neighbour_has_its_place_on_the_sheet_of_its_layer(explanation, comparison, site):
    near, _ = lines(explanation, comparison, site)
    for one in near:
        if one.tile is None:
            continue
        assert explanation.sites[one.tile.site].name == one.layer
        assert one.tile.channel == one.channel < one.tile.columns * one.tile.rows


def test_gallery_captions_are_the_classes_of_the_patches():
    auditor = fakes.FakeAuditor()
    gallery = auditor.gallery("digits-standard", "digits").value
    ask = protocol.neuron(ASK)
    shown = channel_model.patches(gallery, fakes.MODELS[0], fakes.DATA[0], ask, "relevance")
    assert shown.classes == tuple(str(k % 10) for k in gallery.relevance[shown.site][3])


def facts(auditor=None, ask=ASK) -> dict:
    return channel_view.answer(auditor or fakes.FakeAuditor(), ask)[0]


def elements(content) -> list[dict]:
    """All elements of plain pieces, outermost first."""
    found = []
    for piece in content:
        if isinstance(piece, dict):
            found += [piece, *elements(piece["children"])]
    return found


@pytest.mark.parametrize("order", channel_model.ORDERS)
def test_a_ready_gallery_shows_sixteen_patches_in_both_orders(order, site):
    patches = facts()["patches"][order]
    assert f"/media/patches/digits-standard/digits/{site}/3/{order}.png" in text_of(patches)
    assert [element["tag"] for element in elements(patches)].count("li") == 16


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer("working", None, 120, 500, "Looking at images"), "being computed; the line at the top says how far"),
        (Answer("failed", message="The worker died."), "could not be computed: The worker died."),
    ],
)
def test_a_gallery_that_is_not_there_says_why(answer, text):
    class Without(fakes.FakeAuditor):
        def gallery(self, *_):
            return answer

    shown = facts(Without())
    assert [text in text_of(shown["patches"][order]) for order in channel_model.ORDERS] == [True, True]
    assert shown["card"]


def test_the_card_names_the_map_and_shows_both_sides():
    shown = facts()
    assert (shown["title"], shown["message"]) == ("layer2.1 · feature map 3", "")
    for address in (f"/media/map/{KEY}/", f"/media/examination/{KEY}/0/clean.png", "adversarial.png"):
        assert address in text_of(shown["card"])


def test_both_sides_have_their_neighbours(explanation, comparison, site):
    near = facts()["neighbours"]
    for side in SIDES:
        built = channel_model.build_neighbourhood(explanation, comparison, site, 3, side)
        buttons = [element for element in elements(near[side]["list"]) if element["tag"] == "button"]
        assert len(buttons) == len(built.incoming) + len(built.outgoing)
        assert buttons[0]["attributes"]["data-pick-layer"] == built.incoming[0].layer


def test_nothing_chosen_says_what_to_do():
    shown = facts(ask=None)
    assert (shown["title"], shown["message"], shown["card"]) == ("", channel_view.NOTHING, [])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"channel": 24}, "No feature map of layer2.1 is called '24'"),
        ({"layer": "layer9"}, "No layer is called 'layer9'"),
        ({"key": "gone"}, "No examination is called 'gone'"),
        ({"request": None}, "without a request"),
        ({"request": {"shape": 1}}, "request of another version"),
    ],
)
def test_what_cannot_be_shown_is_said_once_and_nothing_else_is_shown(change, text):
    ask = {**ASK, **change}
    shown = facts(ask=ask)
    assert text in shown["message"]
    assert (shown["card"], shown["patches"], shown["neighbours"]) == ([], {}, {})
    assert not channel_view.answer(fakes.FakeAuditor(), ask)[1].data


def test_the_gallery_of_an_unknown_model_is_refused_as_text():
    shown = facts(ask={**ASK, "request": {**REQUEST, "model": "other"}})
    assert "No model is called 'other'" in text_of(shown["patches"]["relevance"])


def test_an_answer_stays_small():
    assert len(text_of(facts())) < 40_000


def test_markup_in_a_class_name_stays_text():
    written = markup.pieces([html.Li(["<b>x</b>", html.B("y", title="<i>")], className="z")])
    inner = {"tag": "b", "attributes": {"title": "<i>"}, "children": ["y"]}
    assert written == [{"tag": "li", "attributes": {"class": "z"}, "children": ["<b>x</b>", inner]}]


@pytest.mark.parametrize("content", [dmc.Progress(value=1), object()])
def test_only_html_is_drawn_as_plain_values(content):
    with pytest.raises(TypeError, match="Only"):
        markup.pieces([content])


def test_an_unknown_order_of_patches_is_refused():
    gallery = fakes.FakeAuditor().gallery("", "").value
    with pytest.raises(UnknownName):
        channel_model.patches(gallery, fakes.MODELS[0], fakes.DATA[0], protocol.neuron(ASK), "alphabet")


@pytest.mark.parametrize(
    ("written", "value"),
    [(wording.percent(0.0041), "0.41 %"), (wording.signed_percent(0.021), "+2.1 %"), (wording.signed(-1.234), "−1.23"),
     (wording.signed_percent(-0.5), "−50 %"), (wording.percent(1.0), "100 %"), (wording.signed(0.0), "0")],
)  # fmt: skip
def test_numbers_are_written_briefly_with_a_real_minus(written, value):
    assert written == value


def test_every_position_tells_its_values_and_what_it_sees(explanation, site):
    maps = tuple(side[3] for side in fakes.FakeAuditor().maps(KEY, site))
    shown = channel_model.grid(explanation, explanation.sites[site], maps)
    image = explanation.images["clean"].shape[1:3]
    assert np.allclose(np.reshape(shown.clean, maps[0].shape), maps[0], rtol=1e-3)
    for row, column in ((0, 0), (shown.rows - 1, 1), (2, shown.columns - 1)):
        planted = np.zeros(maps[0].shape)
        planted[row, column] = 1.0
        box = channel_model.peak(planted, explanation.sites[site], image).box
        assert shown.vertical[row] == pytest.approx((box.top, box.bottom), abs=1e-4)
        assert shown.horizontal[column] == pytest.approx((box.left, box.right), abs=1e-4)


def test_the_noisy_copy_stands_beside_both_in_the_distribution():
    figure = channel_view.answer(fakes.FakeAuditor(), ASK)[1]
    assert [trace.name for trace in figure.data] == ["clean", "adversarial", "noise"]
    assert len({trace.line.dash for trace in figure.data}) == 3


def test_an_explanation_stored_without_noise_maps_shows_the_two_others():
    class Older(fakes.FakeAuditor):
        def noise_maps(self, key, site):
            raise UnknownName("channels of noise", key, ())

    assert len(channel_view.answer(Older(), ASK)[1].data) == 2


def test_neighbours_over_a_gated_link_are_marked_and_only_those(explanation, comparison, site):
    gated = fakes.gated(explanation, site, site + 1)
    shown = channel_model.build_neighbourhood(gated, comparison, site, 3, "clean")
    before, behind = explanation.sites[site - 1].name, explanation.sites[site + 1].name
    reasons = {(item.layer, item.inexact) for item in (*shown.incoming, *shown.outgoing) if item.inexact}
    assert reasons == {
        (before, f"a channel counts with what the gate gate{site} read of others"),
        (behind, f"a channel counts with what the gate gate{site + 1} read of others"),
    }
    exact = [item for item in (*shown.incoming, *shown.outgoing) if not item.inexact]
    assert exact
    assert {item.layer for item in exact}.isdisjoint({before, behind})
    plain_ones = channel_model.build_neighbourhood(explanation, comparison, site, 3, "clean")
    assert not any(item.inexact for item in (*plain_ones.incoming, *plain_ones.outgoing))


def test_a_neighbour_that_is_not_exact_is_marked_as_such(explanation, comparison, site):
    near, items = lines(fakes.gated(explanation, site), comparison, site, "clean")
    assert ["is-inexact" in item["class"].split() for item in items] == [bool(one.inexact) for one in near]
    assert any("is-against is-inexact" in item["class"] for item in items)


def test_the_list_says_why_a_neighbour_is_not_exact_to_pointer_and_keyboard(site, monkeypatch):
    own = fakes.FakeAuditor.explained
    monkeypatch.setattr(fakes.FakeAuditor, "explained", lambda self, key: fakes.gated(own(self, key), site))
    near = facts()["neighbours"]["clean"]
    marks = [
        element["attributes"] for element in elements(near["list"]) if element["attributes"].get("class") == "not-exact"
    ]
    reason = f"a channel counts with what the gate gate{site} read of others"
    assert marks
    assert all(mark["title"] == reason and mark["tabindex"] == 0 for mark in marks)
    assert all(mark["aria-label"] == f"not exact: {reason}" for mark in marks)
    assert "Not exact: changing that one channel alone" in near["note"]


def test_where_everything_is_exact_nothing_is_said_of_it():
    assert {near["note"] for near in facts()["neighbours"].values()} == {""}
    assert "not-exact" not in text_of(facts()["neighbours"])
