"""The river: heights, what fills what, what is left out, and that the drawing stays small and follows the theme."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import engine
from dashboard import theme as themes
from dashboard.panels.network import curves
from dashboard.panels.network import figure as network_figure
from dashboard.panels.network import model as network
from dashboard.panels.network.model import GROUPS
from engine import (
    ClassSimilarity,
    Comparison,
    Estimate,
    Explanation,
    ExplanationRequest,
    LayerShare,
    Localisation,
    compare,
)
from tests import fakes

SHARE = 0.3


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return fakes.explanation(
        ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), ("00004",))
    )


@pytest.fixture(scope="module")
def comparison(explanation) -> Comparison:
    return compare(explanation, SHARE)


@pytest.fixture(params=["blocks", "sites"])
def drawn(request, explanation, comparison) -> network.River:
    return network.build_river(explanation, comparison, request.param)


def draw(explanation, comparison, *, detail="blocks", class_similarity=None, answers=("4", "7"), **look):
    found = network.build_river(explanation, comparison, detail)
    lines = network.build_curves(explanation, comparison, found, class_similarity)
    checked = look.pop("checked", frozenset({"clean", "adversarial"}))
    return network_figure.draw(network_figure.Drawing(found, lines, checked, answers), theme=look.pop("theme", "light"))


def test_blocks_leave_out_the_inner_sites_and_sites_do_not(explanation, comparison):
    blocks = network.build_river(explanation, comparison, "blocks")
    sites = network.build_river(explanation, comparison, "sites")
    assert [column.name for column in blocks.columns] == [
        *(site.name for site in explanation.sites if site.role != "inner"),
        "head",
    ]
    assert len(sites.columns) == len(explanation.sites) + 1


def test_a_bar_is_as_high_as_its_share_of_the_datapath(drawn, comparison):
    sets = {site.site: site for site in comparison.sites}
    for bar in drawn.bars:
        column = drawn.columns[bar.column]
        if column.is_head:
            continue
        kept = len(sets[column.name].shared) + len(sets[column.name].clean_only)
        members = {
            "clean": sets[column.name].clean_only,
            "shared": sets[column.name].shared,
            "adversarial": sets[column.name].adversarial_only,
        }[bar.group]
        assert bar.count == len(members)
        assert bar.high - bar.low == pytest.approx(len(members) / kept)


def test_adversarial_only_stands_above_shared_and_clean_only_below(drawn):
    for k in range(len(drawn.columns)):
        spans = {bar.group: (bar.low, bar.high) for bar in drawn.bars if bar.column == k}
        if "shared" in spans:
            assert spans["shared"][0] == pytest.approx(-spans["shared"][1])
        if "adversarial" in spans:
            assert spans["adversarial"][0] > spans["clean"][1]


def test_the_head_shows_both_answers_or_one_where_they_agree(explanation, comparison):
    assert [bar.group for bar in network.build_river(explanation, comparison, "blocks").bars[-2:]] == [
        "adversarial",
        "clean",
    ]
    same = replace(explanation, adversarial=replace(explanation.adversarial, target=explanation.clean.target))
    bars = network.build_river(same, comparison, "blocks").bars
    assert [bar.group for bar in bars if bar.column == bars[-1].column] == ["shared"]


def test_bands_that_leave_or_enter_a_bar_fill_it_and_never_overlap(explanation, comparison, monkeypatch):
    monkeypatch.setattr(network, "HIDDEN_BELOW", 0.0)
    drawn = network.build_river(explanation, comparison, "sites")
    for bar in drawn.bars:
        leaving = [band.source_span for band in drawn.bands if (band.source, band.groups[0]) == (bar.column, bar.group)]
        entering = [
            band.target_span for band in drawn.bands if (band.target, band.groups[1]) == (bar.column, bar.group)
        ]
        for spans in (sorted(leaving), sorted(entering)):
            if not spans:
                continue
            assert spans[0][0] == pytest.approx(bar.low)
            assert spans[-1][1] == pytest.approx(bar.high)
            assert [low for low, _ in spans[1:]] == pytest.approx([high for _, high in spans[:-1]])


def test_bands_leave_a_bar_in_the_order_of_the_bars_they_go_to(drawn):
    for bar in drawn.bars:
        bands = [band for band in drawn.bands if (band.source, band.groups[0]) == (bar.column, bar.group)]
        downwards = sorted(bands, key=lambda band: -band.source_span[1])
        ranks = [GROUPS.index(band.groups[1]) for band in downwards]
        assert ranks == sorted(ranks)


def test_what_is_only_in_one_datapath_never_joins_what_is_only_in_the_other(drawn):
    assert not {("clean", "adversarial"), ("adversarial", "clean")} & {band.groups for band in drawn.bands}


def test_weak_bands_are_counted_not_drawn(explanation, comparison, monkeypatch):
    monkeypatch.setattr(network, "HIDDEN_BELOW", 0.0)
    everything = network.build_river(explanation, comparison, "sites")
    assert everything.hidden == 0
    monkeypatch.setattr(network, "HIDDEN_BELOW", 0.1)
    some = network.build_river(explanation, comparison, "sites")
    assert some.hidden == sum(band.share < 0.1 for band in everything.bands) > 0
    assert len(some.bands) + some.hidden == len(everything.bands)


def test_the_shares_between_two_columns_sum_to_one(explanation, comparison, monkeypatch):
    monkeypatch.setattr(network, "HIDDEN_BELOW", 0.0)
    totals: dict[tuple[int, int], float] = {}
    for band in network.build_river(explanation, comparison, "blocks").bands:
        totals[band.source, band.target] = totals.get((band.source, band.target), 0.0) + band.share
    assert list(totals.values()) == pytest.approx([1.0] * len(totals))


def test_skip_links_pass_behind_in_the_full_view_and_are_part_of_the_bands_between_blocks(explanation, comparison):
    assert any(band.is_bypass for band in network.build_river(explanation, comparison, "sites").bands)
    assert not any(band.is_bypass for band in network.build_river(explanation, comparison, "blocks").bands)


def test_strength_through_an_inner_site_is_handed_back_in_proportion(explanation, comparison):
    """Against the slow way: every path from map to map, one by one, for the block from site 2 through 3 to site 4."""
    by_link = {
        (connection.source, connection.target): np.abs(connection.clean).astype(float)
        for connection in explanation.connections
    }
    direct, first, second = by_link[2, 4], by_link[2, 3], by_link[3, 4]
    sets = [network.members(explanation, comparison, "clean")[k] for k in range(5)]
    slow = np.zeros((3, 3))
    for up in range(direct.shape[0]):
        for down in range(direct.shape[1]):
            through = sum(second[up, k] * first[k, down] / first[k].sum() for k in range(first.shape[0]))
            slow += np.outer(sets[4][up], sets[2][down]) * (direct[up, down] + through)
    columns = [k for k, site in enumerate(explanation.sites) if site.role != "inner"]
    fast = network._of_run(explanation, comparison, [*columns, len(explanation.sites)], "clean")
    assert fast[2, 4] == pytest.approx(slow, rel=1e-4)


def test_a_run_counts_only_for_maps_of_its_own_datapath(explanation, comparison):
    silent = tuple(
        replace(connection, adversarial=np.zeros_like(connection.adversarial)) for connection in explanation.connections
    )
    found = network.between(replace(explanation, connections=silent), comparison, range(len(explanation.sites) + 1))
    above = GROUPS.index("adversarial")
    assert all(not matrix[above].any() and not matrix[:, above].any() for matrix in found.values())
    assert any(matrix.any() for matrix in found.values())


def test_without_connections_the_bars_stand_alone(explanation, comparison):
    bare = network.build_river(replace(explanation, links=(), connections=()), comparison, "blocks")
    assert bare.bands == ()
    assert bare.bars


def test_hidden_sites_stand_between_their_neighbours(explanation, comparison):
    places = dict(network.build_river(explanation, comparison, "blocks").places)
    assert places["layer1.0"] == 1.0
    assert places["layer1.0.relu1"] == 0.5


def test_a_band_starts_and_ends_on_its_bars(drawn):
    band = drawn.bands[0]
    x, y = network_figure.ribbon([band])
    upper = y[: network_figure.EDGE_POINTS]
    assert (x[0], x[network_figure.EDGE_POINTS - 1]) == pytest.approx(
        (band.source + network_figure.BAR_WIDTH / 2, band.target - network_figure.BAR_WIDTH / 2)
    )
    assert {round(float(upper[0]), 5), round(float(upper[-1]), 5)} == {
        round(band.source_span[0], 5),
        round(band.target_span[0], 5),
    }
    assert np.isnan(x[-1])


@pytest.mark.parametrize("detail", ["blocks", "sites"])
def test_the_figure_has_few_traces_however_many_bands(explanation, comparison, detail):
    class_similarity = ClassSimilarity((0.5,) * len(explanation.sites), (0.4,) * len(explanation.sites), 8, None)
    assert len(draw(explanation, comparison, detail=detail, class_similarity=class_similarity).data) <= 16


@pytest.mark.parametrize("theme", themes.PALETTES)
def test_the_figure_wears_the_theme_and_no_colour_of_the_other(explanation, comparison, theme):
    text = draw(explanation, comparison, theme=theme).to_json()
    other = themes.palette("dark" if theme == "light" else "light")
    own = themes.palette(theme)
    assert own.clean in text
    assert own.panel in text
    for colour in (other.clean, other.adversarial, other.shared, other.text, other.muted, other.stage):
        assert colour not in text


@pytest.mark.parametrize(
    ("checked", "hatched"),
    [
        ((), {"adversarial", "shared", "clean"}),
        (("clean",), {"adversarial", "shared"}),
        (("clean", "adversarial"), set()),
    ],
)
def test_bars_are_hatched_until_their_faithfulness_is_in(explanation, comparison, checked, hatched):
    figure = draw(explanation, comparison, checked=frozenset(checked))
    bars = {trace.name: trace for trace in figure.data if trace.name.startswith("bars ")}
    assert {name.removeprefix("bars ") for name, bar in bars.items() if bar.marker.pattern.shape} == hatched


def test_the_likeness_curves_are_there_only_once_they_are_known(explanation, comparison):
    def names(figure):
        return [trace.name for trace in figure.data if trace.name.startswith("likeness")]

    class_similarity = ClassSimilarity(
        (0.5,) * len(explanation.sites), (0.4,) * len(explanation.sites), 8, "layer3.1.relu1"
    )
    without, with_it = draw(explanation, comparison), draw(explanation, comparison, class_similarity=class_similarity)
    assert names(without) == []
    assert len(names(with_it)) == 2
    told, told_with_it = (
        " ".join(str(annotation.text) for annotation in each.layout.annotations) for each in (without, with_it)
    )
    assert "likeness to the classes: not known" in told
    assert "from layer3.1.relu1" in told_with_it


def test_a_long_class_name_has_room_beside_the_head(explanation, comparison):
    names = ("4", "7"), ("badger", "giant panda")
    short, wide = (draw(explanation, comparison, answers=name).layout.margin.r for name in names)
    assert wide - short == 8 * (len("giant panda") - 1)


def test_class_names_are_text_in_the_figure(explanation, comparison):
    named = replace(explanation, classes=tuple(f"<a href='x'>{k}</a>" for k in range(10)))
    class_similarity = ClassSimilarity((0.5,) * len(explanation.sites), (0.4,) * len(explanation.sites), 8, "layer3.1")
    assert (
        "<a href"
        not in draw(named, comparison, class_similarity=class_similarity, answers=("<a href", "<a href")).to_json()
    )


def test_the_browser_finds_columns_places_and_the_outline(explanation, comparison):
    figure = draw(explanation, comparison)
    assert figure.layout.meta["columns"][-1] is None
    assert set(figure.layout.meta["places"]) == {site.name for site in explanation.sites}
    assert figure.layout.meta["top"] == figure.layout.yaxis2.domain[1]


def test_neither_the_marks_nor_the_outline_cross_the_title_between_the_plots(explanation, comparison):
    figure = draw(explanation, comparison)
    low, high = figure.layout.meta["gap"]
    marks = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert len(marks) in (2, 4)
    assert [mark for mark in marks if mark.y0 < high - 1e-9 and mark.y1 > low + 1e-9] == []
    assert any("diverge at" in note.text for note in figure.layout.annotations)


def test_a_folded_stage_is_its_last_column_and_passes_on_what_flows_through_the_others(explanation, comparison):
    whole = network.build_river(explanation, comparison, "blocks")
    folded = network.build_river(explanation, comparison, "blocks", frozenset({"layer2"}))
    inside = [column for column in whole.columns if column.stage == "layer2"]
    assert len(inside) > 1
    kept = next(column for column in folded.columns if column.stage == "layer2")
    assert (kept.name, kept.label, kept.stands_for) == (inside[-1].name, "layer2", len(inside))
    assert [item.name for item in folded.columns] == [item.name for item in whole.columns if item not in inside[:-1]]
    assert any(band.target == folded.columns.index(kept) for band in folded.bands)
    assert set(dict(folded.places)) == set(dict(whole.places))


def test_a_stage_says_whether_a_click_folds_or_unfolds_it(explanation, comparison):
    def stage(folded):
        found = network.build_river(explanation, comparison, "blocks", frozenset(folded))
        lines = network.build_curves(explanation, comparison, found, None)
        figure = network_figure.draw(network_figure.Drawing(found, lines, frozenset(), ("a", "b")), theme="light")
        return next(annotation for annotation in figure.layout.annotations if annotation.name == "stage:layer2")

    assert "fold its" in stage([]).hovertext
    assert "unfold its" in stage(["layer2"]).hovertext


def test_a_stage_that_does_not_exist_folds_nothing(explanation, comparison):
    assert network.build_river(explanation, comparison, "blocks", frozenset({"", "x"})) == network.build_river(
        explanation, comparison, "blocks"
    )


def beside_another(explanation, comparison):
    found = network.build_river(explanation, comparison, "blocks")
    lines = network.build_curves(explanation, comparison, found, None)
    own, rival = (network_figure.Drawing(found, lines, frozenset(), ("a", "b"), name) for name in ("one", "two 8/255"))
    return network_figure.draw(own, theme="light"), network_figure.add(
        network_figure.draw(own, theme="light"), rival, theme="light"
    )


def test_a_rival_stands_below_on_the_same_columns_and_nothing_of_the_first_river_is_lost(explanation, comparison):
    alone, both = beside_another(explanation, comparison)
    assert len(both.data) > len(alone.data)
    below = [trace for trace in both.data if trace.yaxis == "y4"]
    assert {tuple(trace.x) for trace in below if trace.type == "bar"} == {
        tuple(trace.x) for trace in alone.data if trace.type == "bar" and trace.yaxis == "y"
    }
    assert both.layout.yaxis4.domain[1] < both.layout.yaxis.domain[0]
    tops = [axis.domain[1] for axis in (both.layout.yaxis, both.layout.yaxis3, both.layout.yaxis2)]
    assert tops == sorted(tops)
    assert tops[-1] < 1


def test_what_stands_on_the_paper_moves_up_by_the_same_amount(explanation, comparison):
    alone, both = beside_another(explanation, comparison)
    old = {text.text: text.y for text in alone.layout.annotations if text.yref == "paper" and text.y > 0}
    new = {text.text: text.y for text in both.layout.annotations if text.yref == "paper" and text.text in old}
    assert set(new) == set(old)
    lift = network_figure.Lift(both.layout.yaxis.domain[0])
    assert all(new[text] == pytest.approx(lift.of(height)) for text, height in old.items())
    assert any("two 8/255" in text.text for text in both.layout.annotations)


def test_both_rivers_are_drawn_on_one_scale(explanation, comparison):
    _, both = beside_another(explanation, comparison)
    pixels = both.layout.height - both.layout.margin.t - both.layout.margin.b
    axes = (both.layout.yaxis, both.layout.yaxis4)
    assert axes[0].range == axes[1].range
    high = [(axis.domain[1] - axis.domain[0]) * pixels for axis in axes]
    assert high[0] == pytest.approx(high[1], abs=1)


def test_labels_that_are_turned_leave_the_river_its_height(explanation, comparison, monkeypatch):
    monkeypatch.setattr(network_figure, "_is_turned", lambda _: True)
    drawing = network_figure.Drawing(
        network.build_river(explanation, comparison, "sites"),
        network.build_curves(explanation, comparison, network.build_river(explanation, comparison, "sites"), None),
        frozenset(),
        ("a", "b"),
    )
    figure = network_figure.draw(drawing, theme="light", height=network_figure.LOWEST)
    assert figure.layout.height > network_figure.LOWEST
    assert figure.layout.yaxis.domain[1] > 0.15


@pytest.mark.parametrize("height", [network_figure.LOWEST, 260, network_figure.HIGHEST])
def test_plots_and_lines_of_text_never_cover_each_other(height):
    places = curves.heights(height - 22)
    line = curves.LINE / (height - 22)
    tops = [
        places.river[1],
        places.flow[0],
        places.flow[1],
        places.flow_title + line,
        places.distance[0],
        places.distance[1],
        places.mark + line,
        places.distance_title + line,
    ]
    assert tops == sorted(tops)
    assert places.stage + line <= places.flow[0]
    assert tops[-1] <= 1.0001
    assert places.river[1] > 0.15


def test_a_group_carries_its_interval_and_a_pair_does_not(explanation, comparison):
    sites = tuple(
        replace(site, distance_low=site.distance - 0.1, distance_high=site.distance + 0.2) for site in comparison.sites
    )
    group = replace(comparison, sites=sites, images=16)
    found = network.build_river(explanation, group, "blocks")
    lines = [network.build_curves(explanation, item, found, None) for item in (comparison, group)]
    assert lines[0].interval is None
    assert all(high - low == pytest.approx(0.3) for low, high in lines[1].interval)
    drawings = [network_figure.Drawing(found, line, frozenset(), ("a", "b")) for line in lines]
    distance = [
        next(trace for trace in network_figure.draw(drawing, theme="light").data if trace.name == "distance")
        for drawing in drawings
    ]
    assert distance[0].error_y.array is None
    assert distance[1].error_y.array == pytest.approx([0.2] * len(lines[1].names))
    assert distance[1].error_y.arrayminus == pytest.approx([0.1] * len(lines[1].names))


def inexact_pairs(drawn) -> dict[tuple[str, str], tuple[str, ...]]:
    names = [column.name for column in drawn.columns]
    return {(names[band.source], names[band.target]): band.inexact for band in drawn.bands if band.inexact}


def why(site: int) -> str:
    return f"a channel counts with what the gate gate{site} read of others"


def test_only_the_bands_of_a_gated_link_are_not_exact(explanation, comparison):
    names = [site.name for site in explanation.sites]
    drawn = network.build_river(fakes.gated(explanation, 4), comparison, "sites")
    assert inexact_pairs(drawn) == {(names[3], names[4]): (why(4),)}
    assert inexact_pairs(network.build_river(explanation, comparison, "sites")) == {}


def test_a_band_over_inner_sites_is_not_exact_where_any_link_on_its_way_is(explanation, comparison):
    """Site 3 is inner: its gate lies on the way from 2 to 4. Site 6 is reached through 5, whose link is gated too."""
    names = [site.name for site in explanation.sites]
    drawn = network.build_river(fakes.gated(explanation, 3, 4, 6), comparison, "blocks")
    assert inexact_pairs(drawn) == {(names[2], names[4]): (why(3), why(4)), (names[4], names[6]): (why(6),)}


def test_a_folded_stage_hands_on_that_a_link_in_it_is_not_exact(explanation, comparison):
    names = [site.name for site in explanation.sites]
    gated = fakes.gated(explanation, 6, 8)
    assert (explanation.sites[6].stage, explanation.sites[8].stage) == ("layer2", "layer2")
    drawn = network.build_river(gated, comparison, "blocks", frozenset({"layer2"}))
    assert inexact_pairs(drawn) == {(names[4], names[8]): (why(6), why(8))}


@pytest.mark.parametrize("detail", ["blocks", "sites"])
def test_what_is_on_the_way_is_that_of_every_path_walked_one_by_one(explanation, detail):
    """Against the slow way: all paths from each shown site to each other that pass no third."""
    gated = fakes.gated(explanation, 1, 4, 5, 10)
    shown = [k for k, site in enumerate(gated.sites) if detail == "sites" or site.role != "inner"] + [len(gated.sites)]
    reasons, slow = gated.inexact, {}

    def walk(start: int, at: int, met: frozenset[str]) -> None:
        for link in gated.links:
            if link.source != at:
                continue
            now = met | ({reasons[at, link.target]} if (at, link.target) in reasons else set())
            if link.target in shown:
                slow[start, link.target] = slow.get((start, link.target), frozenset()) | now
            else:
                walk(start, link.target, now)

    for start in shown:
        walk(start, start, frozenset())
    found = network.inexact(gated, shown)
    assert {pair: frozenset(texts) for pair, texts in found.items()} == {pair: met for pair, met in slow.items() if met}


def test_a_head_that_does_not_add_up_is_not_exact(explanation, comparison):
    last = explanation.connections[-1]
    off = replace(explanation, connections=(*explanation.connections[:-1], replace(last, completeness=0.02)))
    found = inexact_pairs(network.build_river(off, comparison, "blocks"))
    assert found == {(explanation.sites[-1].name, "head"): ("several layers follow: complete to 2.0%",)}


def band_traces(figure) -> list:
    return [trace for trace in figure.data if trace.name.startswith("bands ")]


@pytest.mark.parametrize("theme", themes.PALETTES)
def test_bands_that_are_not_exact_have_dotted_outlines_not_another_colour_alone(explanation, comparison, theme):
    figure = draw(
        fakes.gated(explanation, *range(1, len(explanation.sites), 3)), comparison, detail="sites", theme=theme
    )
    marked = [trace.name.endswith("not exact") for trace in band_traces(figure)]
    assert {True, False} == set(marked)
    assert [trace.line.dash != "solid" for trace in band_traces(figure)] == marked
    assert {trace.line.dash for trace in band_traces(draw(explanation, comparison, theme=theme))} == {"solid"}


def test_every_band_is_drawn_once_whether_exact_or_not(explanation, comparison):
    gated = fakes.gated(explanation, 2, 5)
    found = network.build_river(gated, comparison, "sites")
    drawn = sum(int(np.isnan(trace.x).sum()) for trace in band_traces(draw(gated, comparison, detail="sites")))
    assert drawn == len(found.bands)


def test_under_the_pointer_a_band_says_why_it_is_not_exact(explanation, comparison):
    gated = fakes.gated(explanation, 6, 7, 8, 5)
    found = network.build_river(gated, comparison, "blocks", frozenset({"layer2"}))
    lines = network.build_curves(gated, comparison, found, None)
    figure = network_figure.draw(network_figure.Drawing(found, lines, frozenset(), ("a", "b")), theme="light")
    texts = next(trace for trace in figure.data if trace.name == "band points").hovertext
    told = [" ".join(text.replace("<br>", " ").split()) for text in texts]
    for band, text in zip(found.bands, told, strict=True):
        assert ("Not exact here: " in text) is bool(band.inexact)
    assert any(f"{why(5)}; {why(6)}; and 2 more on its way." in text for text in told)


def test_a_reason_is_text_under_the_pointer(explanation, comparison):
    links = (replace(explanation.links[0], through=("<a href>",)), *explanation.links[1:])
    text = draw(replace(explanation, links=links), comparison, detail="sites").to_json()
    assert "<a href>" not in text.replace("\\u003c", "<").replace("\\u003e", ">")


def _localised(explanation, sites):
    return Localisation(
        tuple(
            LayerShare(name, 12, 1, Estimate(0.25, 0.2, 0.3, 1), Estimate(0.75, 0.6, 0.9, 1), 0.01) for name in sites
        ),
        1,
        20,
    )


def test_the_localisation_stands_in_the_flows_place_on_the_rivers_own_axis(explanation, comparison):
    found = network.build_river(explanation, comparison, "blocks")
    plain = network.build_curves(explanation, comparison, found, None)
    names = [column.name for column in found.columns if not column.is_head]
    lines = network.with_localisation(plain, _localised(explanation, names[1:3]))
    figure = network_figure.draw(network_figure.Drawing(found, lines, frozenset(), ("4", "7")), theme="light")
    by_name = {trace.name: trace for trace in figure.data}
    assert "attack conductance" not in by_name
    assert list(by_name["ranked"].x) == list(by_name["in random order"].x) == [1, 2]
    assert list(by_name["ranked"].y) == [0.25, 0.25]
    assert list(by_name["in random order"].y) == [0.75, 0.75]
    assert by_name["ranked"].hovertext[0] == (
        f"<b>{names[1]}</b><br>25% [20%, 30%] of its 12 channels, ranked, restore the label"
    )
    titles = [text.text for text in figure.layout.annotations]
    assert any("Share of a layer's channels" in title for title in titles)
    assert not any("Attack conductance" in title for title in titles)


def test_a_localisation_that_is_not_known_is_said_to_be_so(explanation, comparison):
    found = network.build_river(explanation, comparison, "blocks")
    lines = network.with_localisation(network.build_curves(explanation, comparison, found, None), None)
    figure = network_figure.draw(network_figure.Drawing(found, lines, frozenset(), ("4", "7")), theme="dark")
    assert any("not known yet" in text.text for text in figure.layout.annotations)


def test_a_localisation_of_too_few_images_says_so(explanation, comparison):
    found = network.build_river(explanation, comparison, "blocks")
    plain = network.build_curves(explanation, comparison, found, None)
    few = _localised(explanation, plain.names[1:3])
    many = replace(few, images=4)
    for localisation, is_said in ((few, True), (many, False)):
        lines = network.with_localisation(plain, localisation)
        figure = network_figure.draw(network_figure.Drawing(found, lines, frozenset(), ("4", "7")), theme="light")
        assert any("too few images" in text.text for text in figure.layout.annotations) is is_said
