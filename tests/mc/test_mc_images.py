"""Images from files: arrays as they are, pictures prepared as said, broken files refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnx_structdrop import ArgumentError
from onnx_structdrop.mc.images import Preparation, open_images

DIMS = ("N", 3, 8, 6)
FLOAT = np.dtype(np.float32)


def opened(path, dims=DIMS, dtype=FLOAT, **more):
    return open_images(path, "x", dims, dtype, inputs=["x", "ratio"], **more)


def together(images, size):
    return np.concatenate(list(images.batches(size)))


@pytest.fixture
def arrays(tmp_path):
    array = np.random.default_rng(0).normal(size=(7, 3, 8, 6)).astype(FLOAT)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "one.npz", whatever=array)
    np.savez(tmp_path / "named.npz", x=array, ratio=np.float32(0.25), unused=np.zeros(3))
    return tmp_path, array


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_arrays_come_as_they_are_in_any_batches(arrays, size):
    folder, array = arrays
    for name in ("x.npy", "one.npz"):
        images = opened(folder / name)
        assert images.count == 7
        np.testing.assert_array_equal(together(images, size), array)


def test_arrays_by_input_name(arrays):
    folder, array = arrays
    parts = list(opened(folder / "named.npz").batches(4))
    assert [set(part) for part in parts] == [{"x", "ratio"}] * 2
    np.testing.assert_array_equal(np.concatenate([part["x"] for part in parts]), array)
    assert parts[1]["ratio"] == np.float32(0.25)


def pictures(folder, count=3, size=(6, 8), mode="RGB"):
    rng = np.random.default_rng(1)
    found = []
    for index in range(count):
        shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{count - index}.png")
        found.insert(0, pixels)
    (folder / "notes.txt").write_text("not a picture")
    return np.stack(found)


def test_pictures_in_the_order_of_their_names(tmp_path):
    pixels = pictures(tmp_path)
    images = opened(tmp_path, preparation=Preparation(mean=(0.5, 0.4, 0.3), std=(0.2,)))
    assert images.names == ("1.png", "2.png", "3.png")
    expected = (pixels / 255 - [0.5, 0.4, 0.3]) / 0.2
    np.testing.assert_allclose(
        together(images, 2), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5
    )
    assert images.how == "8 x 6, (pixels / 255 - (0.5, 0.4, 0.3)) / 0.2"


def test_layouts_types_and_sizes(tmp_path):
    pixels = pictures(tmp_path)
    last = opened(tmp_path, dims=("N", None, None, 3), dtype=np.dtype(np.uint8))
    np.testing.assert_array_equal(together(last, 3), pixels)
    assert together(opened(tmp_path, dims=("N", 1, 8, 6)), 3).shape == (3, 1, 8, 6)
    resized = opened(tmp_path, dims=("N", 3, "H", "W"), preparation=Preparation(size=(4, 12)))
    assert together(resized, 3).shape == (3, 3, 4, 12)
    assert resized.guessed is None


def test_of_mixed_sizes_the_first_counts_where_the_model_says_nothing(tmp_path):
    for name, shape in (("a.png", (5, 7, 3)), ("b.png", (9, 4, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name)
    images = opened(tmp_path, dims=("N", 3, "H", "W"))
    assert images.guessed == (5, 7)
    assert together(images, 2).shape == (2, 3, 5, 7)
    assert opened(tmp_path).guessed is None  # the model says it


def test_grey_pictures_for_a_model_that_takes_colours(tmp_path):
    pixels = pictures(tmp_path, mode="L")
    found = together(opened(tmp_path), 3)
    for channel in range(3):
        np.testing.assert_allclose(found[:, channel], pixels / 255, rtol=1e-6)


def test_what_cannot_be_read(tmp_path, arrays):
    folder, _ = arrays
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY not really")
    (tmp_path / "cut.npz").write_bytes((folder / "named.npz").read_bytes()[:300])
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "empty.npy", np.zeros((0, 3, 8, 6), FLOAT))
    np.save(tmp_path / "scalar.npy", np.float32(1))
    np.savez(tmp_path / "other.npz", a=np.zeros(3), b=np.zeros(3))
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(tmp_path / "alone.png")
    (tmp_path / "table.csv").write_text("1,2")
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG not really")
    for name, words in {
        "missing.npy": "there is no file",
        "broken.npy": "cannot read .* as .npy or .npz",
        "cut.npz": "cannot read",
        "objects.npy": "cannot read",
        "empty.npy": "holds no images",
        "scalar.npy": "holds no images",
        "other.npz": "has no array 'x', the model's input; it has 'a', 'b'",
        "none": "has no picture",
        "alone.png": "a file of another kind .*; of pictures, name the folder",
        "table.csv": r"a file of another kind .*write such files\)$",
    }.items():
        with pytest.raises(ArgumentError, match=words) as caught:
            opened(tmp_path / name)
        assert "pickle" not in str(caught.value).replace("allow_pickle=False", "")
    with pytest.raises(ArgumentError, match=r"cannot read the picture .*a\.png"):
        opened(tmp_path / "bad", dims=("N", 3, None, None))


def test_what_does_not_fit(tmp_path, arrays):
    folder, _ = arrays
    place = tmp_path / "pictures"
    place.mkdir()
    pictures(place)
    with pytest.raises(ArgumentError, match="pictures need a model whose input"):
        opened(place, dims=("N", 5))
    with pytest.raises(ArgumentError, match="mean has 2 entries, the model takes 3 channels"):
        opened(place, preparation=Preparation(mean=(0.1, 0.2)))
    with pytest.raises(ArgumentError, match="mean and std are for floating point"):
        opened(place, dtype=np.dtype(np.uint8), preparation=Preparation(mean=(0.1,)))
    with pytest.raises(ArgumentError, match="taken as they are"):
        opened(folder / "x.npy", preparation=Preparation(size=(4, 4)))
    for wrong in ({"std": (0.0,)}, {"mean": (float("nan"),)}, {"size": (0, 4)}):
        with pytest.raises(ArgumentError):
            Preparation(**wrong)


def test_sixteen_bits_are_not_cut_off_at_255(tmp_path):
    grey = np.arange(48, dtype=np.uint16).reshape(8, 6) * 1000
    Image.fromarray(grey).save(tmp_path / "deep.png")
    found = together(opened(tmp_path, dims=("N", 1, 8, 6)), 1)[0, 0]
    np.testing.assert_allclose(found, grey / 65535, atol=1 / 200)


@pytest.mark.parametrize("element", [np.float32, np.int32])
def test_pixels_without_a_range(tmp_path, element):
    Image.fromarray(np.ones((8, 6), element)).save(tmp_path / "numbers.tiff")
    with pytest.raises(ArgumentError, match=r"numbers without a range \(mode [FI]\)"):
        together(opened(tmp_path), 1)


def test_photographs_are_turned_the_right_way_up(tmp_path):
    pixels = np.zeros((8, 6, 3), np.uint8)
    pixels[:2] = 255
    lying = Image.fromarray(np.rot90(pixels).copy())
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    lying.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(
        together(opened(tmp_path), 1)[0], pixels.transpose(2, 0, 1).astype(np.float32) / 255
    )


def test_sizes_that_no_model_or_memory_takes(tmp_path):
    pictures(tmp_path)
    with pytest.raises(ArgumentError, match=r"size is \(4, 4\), but the model takes \(8, 6\)"):
        opened(tmp_path, preparation=Preparation(size=(4, 4)))
    with pytest.raises(ArgumentError, match="up to 268435456 pixels"):
        Preparation(size=(1 << 20, 1 << 20))
