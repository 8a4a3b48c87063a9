"""Patches show the pixels that a position sees: planted pixels end up where they belong."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dashboard import pictures
from dashboard.pictures import Box
from engine import Site


def site(size: int = 5, jump: int = 4, side: int = 8) -> Site:
    return Site("layer", 4, side, side, "layer", "block", False, size, jump, 0.5)


def decoded(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)))


def planted(row: int, column: int) -> np.ndarray:
    picture = np.zeros((32, 32, 1), dtype=np.uint8)
    picture[row, column] = 255
    return picture


@pytest.mark.parametrize(("row", "column"), [(3, 5), (1, 1), (6, 2)])
def test_a_pixel_planted_at_the_centre_of_the_field_is_the_middle_of_the_patch(row, column):
    cell = np.asarray(pictures.patch_cell(planted(4 * row, 4 * column), pictures.field(site(), row, column)))
    factor = pictures.CELL // 5
    lit = np.argwhere(cell[..., 0] == 255)
    assert cell.shape == (5 * factor, 5 * factor, 4)
    assert np.array_equal(lit.min(axis=0), (2 * factor, 2 * factor))
    assert np.array_equal(lit.max(axis=0), (3 * factor - 1, 3 * factor - 1))


def test_a_pixel_outside_the_field_is_not_in_the_patch():
    cell = np.asarray(pictures.patch_cell(planted(4 * 3 + 3, 4 * 3), pictures.field(site(), 3, 3)))
    assert cell[..., 0].max() == 0


def test_a_field_over_the_border_is_transparent_there_and_stays_centred():
    cell = np.asarray(pictures.patch_cell(planted(0, 0), pictures.field(site(), 0, 0)))
    factor = pictures.CELL // 5
    assert np.all(cell[: 2 * factor, :, 3] == 0)
    assert np.all(cell[2 * factor :, 2 * factor :, 3] == 255)
    assert cell[2 * factor, 2 * factor, 0] == 255


def test_a_field_larger_than_the_picture_shows_all_of_it_with_the_field_marked():
    picture = np.full((32, 32, 3), 90, dtype=np.uint8)
    cell = np.asarray(pictures.patch_cell(picture, Box(-20.0, -30.0, 16.0, 16.0)))
    assert cell.shape == (96, 96, 4)
    assert np.all(cell[..., 3] == 255)
    assert tuple(cell[20, 48, :3]) in {(255, 255, 255), (0, 0, 0)}, "the field's right edge"
    assert tuple(cell[80, 80, :3]) == (90, 90, 90), "outside the field nothing is drawn"


def test_large_patches_are_reduced_to_the_cell():
    picture = np.zeros((224, 224, 3), dtype=np.uint8)
    assert pictures.patch_cell(picture, Box(0, 0, 200, 200)).size == (pictures.CELL, pictures.CELL)


def test_patches_stand_in_order_eight_to_a_row():
    boxes = [pictures.field(site(), 3, 3)] * 16
    shades = [np.full((32, 32, 1), 10 * k, dtype=np.uint8) for k in range(16)]
    sheet = decoded(pictures.patch_grid(shades, boxes))
    side = sheet.shape[0] // 2
    assert sheet.shape == (2 * side, 8 * side, 4)
    assert [sheet[k // 8 * side, k % 8 * side, 0] for k in range(16)] == [10 * k for k in range(16)]


def test_the_first_field_of_a_three_by_three_layer_reaches_one_pixel_over_the_border():
    assert pictures.field(site(size=3, jump=1), 0, 0) == Box(-1, -1, 2, 2)


def test_a_position_of_a_pooled_map_sees_what_all_its_positions_saw():
    full = site(size=3, jump=1, side=64)
    box = pictures.stored_field(full, 5, 0, (32, 32))
    assert box == Box(-1, 9, 3, 13)


@pytest.mark.parametrize(("full", "kept"), [(64, 32), (56, 32), (33, 32), (7, 7), (112, 28)])
def test_pooling_windows_cover_every_position_in_order(full, kept):
    windows = [pictures.window(k, full, kept) for k in range(kept)]
    assert set().union(*(range(*item) for item in windows)) == set(range(full))
    assert all(first < last for first, last in windows)


def test_pooling_windows_overlap_where_sizes_do_not_divide_as_in_the_stored_maps():
    assert [pictures.window(k, 56, 32) for k in range(3)] == [(0, 2), (1, 4), (3, 6)]


def test_boxes_are_clipped_and_scaled_to_the_picture():
    assert Box(-4, 2, 8, 40).clipped(32, 32) == Box(0, 2, 8, 32)
    assert Box(1, 2, 3, 4).scaled(10, 100) == Box(100, 20, 300, 40)
