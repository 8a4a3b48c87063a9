"""What a feature map looks for, on the page: the picture with its doubts, the response, and what is not there yet."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dashboard.panels.channel import figure as channel_figure
from dashboard.panels.channel import model as channel_model
from dashboard.panels.channel import view as channel_view
from dashboard.panels.layer import model as layer
from engine import DOUBTS, MEASURES, Answer
from tests import fakes
from tests.test_neuron_view import ASK, KEY

LAYER, CHANNEL = str(ASK["layer"]), int(ASK["channel"])


def told(auditor=None, ask=ASK) -> dict:
    return channel_view.facts(auditor or fakes.FakeAuditor(), ask)[0]


def feature_visualization(channel: int):
    return fakes.FakeAuditor().feature_visualization("digits-standard", "digits", LAYER, channel).value


def test_a_picture_with_doubts_says_each_of_them_and_one_without_says_none():
    doubtful, sanity = (
        feature_visualization(3),
        next(feature_visualization(c) for c in range(24) if not feature_visualization(c).doubts),
    )
    assert channel_model.describe(doubtful).caveats == tuple(DOUBTS[doubt] for doubt in doubtful.doubts)
    assert doubtful.doubts
    assert channel_model.describe(sanity).caveats == ()


def test_the_response_is_the_maps_own_at_every_strength():
    found = fakes.FakeAuditor().responses(KEY).value
    site = layer.site_index(fakes.FakeAuditor().explained(KEY), LAYER)
    shown = channel_model.response(found, site, CHANNEL, MEASURES["1/255"])
    assert np.array_equal(shown.attack, found.peak[site][:, CHANNEL])
    assert np.array_equal(shown.noise, found.noise_peak[site][:, CHANNEL])
    assert shown.epsilon[0] == 0
    figure = channel_figure.response_curve(shown, "light")
    assert [trace.line.dash for trace in figure.data] == [None, "dot"]
    fooled = [symbol == "circle" for symbol in figure.data[0].marker.symbol]
    assert fooled == [share > 0.5 for share in shown.fooled]


def test_a_strength_below_one_step_of_a_pixel_has_its_place_on_the_axis():
    """At 4/255 the weakest strength is an eighth of it, written `0.5/255`."""
    found = fakes.FakeAuditor().responses(KEY).value
    weak = dataclasses.replace(found, epsilons=("0/255", "0.5/255", *found.epsilons[2:]))
    shown = channel_model.response(weak, 0, CHANNEL, MEASURES["1/255"])
    assert shown.epsilon[:2] == pytest.approx([0, 0.5])
    assert shown.written[1] == "0.5/255"


def test_the_page_shows_the_picture_by_address_and_stops_asking():
    shown = told()
    assert "/media/feature/digits-standard/digits/" in json.dumps(shown["picture"])
    assert not shown["again"]


@pytest.mark.parametrize(
    ("state", "again", "text"), [("working", True, "Painting"), ("failed", False, "could not be made")]
)
def test_what_is_still_made_is_asked_for_again_and_what_failed_says_why(state, again, text):
    class Slow(fakes.FakeAuditor):
        def feature_visualization(self, *_):
            return Answer(state, None, 1, 4, "Painting")

    shown = told(Slow())
    assert shown["again"] is again
    assert text in json.dumps(shown["picture"])


def test_a_response_that_cannot_be_had_says_why():
    class Without(fakes.FakeAuditor):
        def responses(self, _key):
            return Answer("failed", message="The attack has no strength.")

    shown, figure = channel_view.facts(Without(), ASK)
    assert shown["note"] == "Not to be had: The attack has no strength."
    assert not figure.data
    assert not shown["again"]


@pytest.mark.parametrize("change", [{"channel": 24}, {"layer": "x"}, {"key": "gone"}, {"request": None}])
def test_what_does_not_exist_is_said_and_not_asked_for_again(change):
    shown, figure = channel_view.facts(fakes.FakeAuditor(), {**ASK, **change})
    assert "nothing" in json.dumps(shown["picture"])
    assert not shown["again"]
    assert not figure.data
