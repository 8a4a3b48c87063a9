"""Pictures by URL: what is sent, what is not found, and that the pixels say what the maps say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flask import Flask
from PIL import Image

from dashboard import media, pictures
from dashboard.panels.channel import model as channel_model
from tests import fakes

KEY = "fake00001"
LAST = len(fakes.SITES) - 1
SHEET = f"/media/maps/{KEY}/{LAST}/clean.png"
VIRIDIS_ENDS = ((68, 1, 84), (253, 231, 37))


@pytest.fixture(scope="module")
def client():
    server = Flask(__name__)
    media.register(server, fakes.FakeAuditor())
    return server.test_client()


def pixels(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def test_a_sheet_is_an_indexed_png_with_a_tile_per_channel(client):
    answer = client.get(SHEET)
    image = Image.open(io.BytesIO(answer.data))
    assert (answer.status_code, answer.mimetype, image.mode) == (200, "image/png", "P")
    assert image.size == (32 * 8, 2 * 8)


def test_pictures_are_kept_for_good_and_asked_again_without_a_body(client):
    first = client.get(SHEET)
    assert first.headers["Cache-Control"] == "private,max-age=31536000,immutable"
    again = client.get(SHEET, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_other_pictures_carry_other_tags(client):
    tags = {client.get(f"/media/maps/{KEY}/{LAST}/{side}.png").headers["ETag"] for side in media.MAP_SIDES}
    assert len(tags) == 3


@pytest.mark.parametrize(
    "address",
    [
        "maps/nothing/0/clean.png",
        "maps/..%2Fsecret/0/clean.png",
        f"maps/{KEY}/99/clean.png",
        f"maps/{KEY}/-1/clean.png",
        f"maps/{KEY}/0/sideways.png",
        f"maps/{KEY}/0/clean.png?scale=none",
        f"map/{KEY}/0/12/clean.png",
        f"map/{KEY}/0/0/noise.png",
        f"examination/{KEY}/1/clean.png",
        f"examination/{KEY}/0/other.png",
        "patches/digits-standard/unknown/0/0/relevance.png",
        "patches/unknown/digits/0/0/relevance.png",
        "patches/digits-standard/digits/99/0/relevance.png",
        "patches/digits-standard/digits/0/12/relevance.png",
        "patches/digits-standard/digits/0/0/alphabet.png",
        "feature/unknown/digits/0/0.png",
        "feature/digits-standard/unknown/0/0.png",
        "feature/digits-standard/digits/99/0.png",
        "feature/digits-standard/digits/0/12.png",
        "feature/digits-standard/digits/0/-1.png",
        "feature/digits-standard/digits/0/0.svg",
        "anything/else",
    ],
)
def test_what_the_auditor_does_not_know_is_not_found_without_details(client, address):
    answer = client.get(f"/media/{address}")
    assert (answer.status_code, answer.data, answer.mimetype) == (404, b"Not found.\n", "text/plain")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("side", media.PICTURE_SIDES)
def test_explained_pictures_have_the_size_of_the_image(client, side):
    answer = client.get(f"/media/examination/{KEY}/0/{side}.png")
    assert pixels(answer.data).shape == (32, 32, 3)
    assert ("X-Amplification" in answer.headers) == (side == "perturbation")


def test_an_explained_picture_is_the_stored_image_pixel_by_pixel(client):
    stored = fakes.FakeAuditor().explained(KEY).images["adversarial"][0]
    sent = pixels(client.get(f"/media/examination/{KEY}/0/adversarial.png").data)
    assert np.array_equal(sent[..., :1], stored)


def test_a_single_map_has_its_stored_resolution(client):
    assert pixels(client.get(f"/media/map/{KEY}/0/3/clean.png").data).shape == (32, 32, 3)


@pytest.mark.parametrize("order", channel_model.ORDERS)
def test_patches_come_in_two_rows_of_eight(client, order):
    shape = pixels(client.get(f"/media/patches/digits-standard/digits/{LAST}/3/{order}.png").data).shape
    assert shape == (2 * 105, 8 * 105, 3)  # fields of 15 pixels, seven times enlarged


def test_patches_wait_for_the_gallery():
    class Waiting(fakes.FakeAuditor):
        def gallery(self, *_):
            return fakes.Answer("working", None, 1, 2)

    server = Flask(__name__)
    media.register(server, Waiting())
    assert server.test_client().get("/media/patches/digits-standard/digits/0/3/relevance.png").status_code == 404


def test_a_visualized_feature_is_sent_as_far_as_its_position_sees_with_a_tag(client):
    answer = client.get(f"/media/feature/digits-standard/digits/{LAST}/3.png")
    drawn = fakes.FakeAuditor().feature_visualization("digits-standard", "digits", fakes.SITES[LAST].name, 3).value
    top, left, bottom, right = drawn.field
    assert np.array_equal(pixels(answer.data)[..., :1], drawn.picture[top:bottom, left:right])
    assert answer.headers["Cache-Control"] == media.FOREVER
    again = client.get(answer.request.path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    other = client.get(f"/media/feature/digits-standard/digits/{LAST}/4.png")
    assert other.headers["ETag"] != answer.headers["ETag"]


def test_a_visualized_feature_waits_for_its_picture_and_is_not_forgotten_as_missing():
    class Waiting(fakes.FakeAuditor):
        is_there = False

        def feature_visualization(self, *place):
            return super().feature_visualization(*place) if self.is_there else fakes.Answer("working", None, 1, 2)

    server, auditor = Flask(__name__), Waiting()
    media.register(server, auditor)
    address = "/media/feature/digits-standard/digits/0/3.png"
    early = server.test_client().get(address)
    assert (early.status_code, early.headers["Cache-Control"]) == (404, "no-store")
    auditor.is_there = True
    assert server.test_client().get(address).status_code == 200


def test_a_map_runs_from_the_first_to_the_last_colour_of_both_sides_together():
    clean = np.array([[[0.0, 1.0], [2.0, 4.0]]])
    sides = [pixels(pictures.sheet(clean, clean * 0.5, side, "channel")) for side in ("clean", "adversarial")]
    assert tuple(sides[0][0, 0]) == VIRIDIS_ENDS[0]
    assert tuple(sides[0][1, 1]) == VIRIDIS_ENDS[1]
    assert np.array_equal(sides[1][1, 1], sides[0][1, 0]), "half of 4 on the same scale is the colour of 2"


def test_a_layer_scale_dims_the_quiet_channel_that_its_own_scale_lights_up():
    clean = np.stack([np.full((2, 2), 4.0), np.full((2, 2), 1.0)])
    own, joint = (pixels(pictures.sheet(clean, clean, "clean", scale)) for scale in ("channel", "layer"))
    assert tuple(own[0, 2]) == VIRIDIS_ENDS[1]
    assert tuple(joint[0, 0]) == VIRIDIS_ENDS[1]
    assert joint[0, 2].sum() < own[0, 2].sum()


def test_negative_activations_are_darker_than_zero():
    clean = np.array([[[-1.0, 0.0, 1.0]]])
    row = pixels(pictures.single(clean[0], clean[0], "clean"))[0].astype(int)
    assert tuple(row[0]) == VIRIDIS_ENDS[0]
    assert row[0].sum() < row[1].sum() < row[2].sum()


def test_a_difference_is_grey_where_nothing_changed_orange_where_stronger_and_purple_where_weaker():
    clean, adversarial = np.array([[[1.0, 1.0, 1.0]]]), np.array([[[1.0, 2.0, 0.0]]])
    same, stronger, weaker = pixels(pictures.sheet(clean, adversarial, "difference", "channel"))[0].astype(int)
    assert tuple(same) == (247, 247, 247)
    assert stronger[0] > stronger[2]
    assert weaker[2] > weaker[0]


def test_maps_that_are_zero_everywhere_are_drawn_dark():
    assert np.all(pixels(pictures.single(np.zeros((2, 2)), np.zeros((2, 2)), "clean")) == VIRIDIS_ENDS[0])


@pytest.mark.parametrize(("side", "pooled"), [(7, 7), (28, 28), (29, 28), (32, 28), (56, 28), (57, 28)])
def test_tiles_are_pooled_to_at_most_28_positions_and_keep_the_maximum(side, pooled):
    maps = np.random.default_rng(0).normal(size=(3, side, side))
    small = pictures.pool(maps)
    assert small.shape == (3, pooled, pooled)
    assert np.array_equal(small.max(axis=(1, 2)), maps.max(axis=(1, 2)))


def test_signed_pooling_keeps_the_largest_magnitude_with_its_sign():
    maps = np.zeros((1, 56, 56))
    maps[0, 10, 10], maps[0, 11, 11], maps[0, 20, 21] = 2.0, -3.0, 5.0
    small = pictures.pool_signed(maps)
    assert (small[0, 5, 5], small[0, 10, 10]) == (-3.0, 5.0)


@pytest.mark.parametrize(("change", "factor"), [(0, 1), (1, 127), (4, 31), (127, 1), (200, 1)])
def test_a_perturbation_is_enlarged_as_far_as_it_does_not_clip(change, factor):
    clean = np.zeros((2, 2, 1), dtype=np.uint8)
    adversarial = clean + np.uint8(change)
    assert pictures.amplification(clean, adversarial) == factor
    drawn = pixels(pictures.perturbation(adversarial, clean))
    assert drawn[0, 0, 0] == max(0, 128 - factor * change)


def test_padding_behind_the_last_channel_is_transparent():
    maps = np.ones((33, 2, 2))
    image = Image.open(io.BytesIO(pictures.sheet(maps, maps, "clean", "channel")))
    assert image.info["transparency"] == 255
    assert np.asarray(image)[2, 2] == 255


def test_a_strip_shows_the_samples_in_the_order_asked_for(client):
    side = media.THUMBNAIL
    pair, turned = (
        pixels(client.get(f"/media/strip/digits/{keys}.png").data) for keys in ("00001,00002", "00002,00001")
    )
    assert pair.shape[:2] == (side, 2 * side)
    assert np.array_equal(pair[:, :side], turned[:, side:])
    assert not np.array_equal(pair[:, :side], pair[:, side:])


@pytest.mark.parametrize("address", ["digits/.png", "unknown/00001.png", f"digits/{','.join(['00001'] * 25)}.png"])
def test_a_strip_of_what_does_not_exist_is_not_found(client, address):
    assert client.get(f"/media/strip/{address}").status_code == 404
