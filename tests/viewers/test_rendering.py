import io

import numpy as np
import pytest
from PIL import Image

from helpers.viewers import frames, rendering, style


@pytest.fixture
def frame(phantom):
    return frames.frame(phantom.grid, np.ones(phantom.grid.shape, bool))


def test_tiles_keep_left_left_and_up_up(phantom, frame):
    volume = phantom.volume[0].numpy()
    x, y, z = phantom.bright
    for axis, voxel, across, up in ((0, x, 1, 2), (1, y, 0, 2), (2, z, 0, 1)):
        tiles = rendering.tiles(volume, frame, axis, smooth=False)
        assert tiles.shape == (phantom.grid.shape[axis], frame.pixels, frame.pixels)
        assert tiles.reshape(len(tiles), -1).max(1).argmax() == voxel
        rows, columns = np.nonzero(tiles[voxel] == 1)
        for place, along in ((columns, across), (frame.pixels - 1 - rows, up)):
            middle = (place.min() + place.max() + 1) / 2 / frame.pixels
            expected = frame.fraction(along, phantom.bright[along])
            assert middle == pytest.approx(expected, abs=0.6 / frame.pixels)
            size = phantom.grid.spacing_mm[along] / frame.side_mm * frame.pixels
            assert place.max() - place.min() + 1 == pytest.approx(size, abs=1)


def test_one_slice_is_the_same_as_among_all(phantom, frame):
    volume = phantom.volume[0].numpy()
    one = rendering.tiles(volume, frame, 1, voxels=slice(13, 14))
    np.testing.assert_array_equal(one[0], rendering.tiles(volume, frame, 1)[13])


def test_window_ignores_background_and_reaches_below_zero():
    volume = np.zeros((10, 10, 10), np.float32)
    volume[:3] = 2.0
    assert rendering.window(volume) == pytest.approx((0, 2.2))
    low, high = rendering.window(volume - 1)
    assert low == pytest.approx(-1)
    assert high > 1
    assert rendering.window(np.zeros((2, 2, 2), np.float32)) == (0, 1)


def test_limit_counts_a_small_lesion_and_ignores_one_stray_voxel():
    overlay = np.zeros((30, 30, 30), np.float32)
    assert rendering.limit_of(overlay) == 0
    overlay[:2, :2, :2] = -3
    assert rendering.limit_of(overlay) == 3
    overlay[:] = 1
    overlay[0, 0, 0] = 1000
    assert rendering.limit_of(overlay) == 1


def test_outline_runs_along_the_inside_edge():
    tiles = np.zeros((1, 40, 40), np.float32)
    tiles[0, 10:20, 15:30] = 1
    painted = rendering.paint_outline(tiles)[0]
    line = (painted[..., :3] == style.OUTLINE).all(-1) & (painted[..., 3] == 255)
    expected = np.zeros((40, 40), bool)
    expected[10:20, 15:30] = True
    expected[11:19, 16:29] = False
    np.testing.assert_array_equal(line, expected)
    assert painted[14, 22, 3] == 0, "the middle stays open"


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
def test_sprites_hold_every_tile(count):
    tiles = np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4)
    picture, columns = rendering.sprite(tiles)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        np.testing.assert_array_equal(
            picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4], tile
        )


def test_lossless_webp_keeps_every_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    picture[..., 3] = 255
    decoded = np.asarray(Image.open(io.BytesIO(rendering.webp(picture, None))))
    np.testing.assert_array_equal(decoded[..., :3], picture[..., :3])


def test_letters_stand_in_the_lower_corners():
    written = rendering.lettered(np.zeros((180, 180, 3), np.uint8), ("L", "R")).max(-1) > 128
    rows, columns = np.nonzero(written)
    assert rows.min() > 150
    assert columns.min() < 20
    assert columns.max() > 160
    assert not written[:, 40:140].any()
