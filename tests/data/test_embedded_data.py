"""The embedded set: its digests, its split, and that it needs no network and no imaging library."""

import hashlib
import json
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest

import evonas.data
from evonas.data.png import decode_grey, encode_grey
from evonas.data.registry import _CACHE
from evonas.errors import DataError, UsageError


def keys(split):
    return {image.tobytes() for image in split.images}


def test_parts_have_the_documented_sizes_and_are_balanced():
    data = evonas.data.load("fashion_mnist_small")
    assert (len(data.train), len(data.validation), len(data.heldout)) == (4000, 1000, 1000)
    assert data.shape == (1, 28, 28)
    for split, per_class in ((data.train, 400), (data.validation, 100), (data.heldout, 100)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert np.bincount(split.labels).tolist() == [per_class] * 10


def test_parts_are_disjoint():
    data = evonas.data.load()
    train, validation, heldout = keys(data.train), keys(data.validation), keys(data.heldout)
    assert not train & validation
    assert not train & heldout
    assert not validation & heldout


def test_search_view_cannot_reach_the_heldout_part():
    data = evonas.data.load()
    view = data.search_view()
    assert not hasattr(view, "heldout")
    reachable = [getattr(view, name) for name in view.__slots__]
    assert all(value is not data.heldout for value in reachable)
    assert not any(isinstance(value, evonas.data.Dataset) for value in reachable)


def test_split_is_a_function_of_the_seed_and_heldout_is_fixed():
    first = evonas.data.load(seed=3)
    _CACHE.clear()
    again, other = evonas.data.load(seed=3), evonas.data.load(seed=4)
    assert np.array_equal(first.validation.images, again.validation.images)
    assert not np.array_equal(first.validation.images, other.validation.images)
    assert np.array_equal(first.heldout.images, other.heldout.images)


def test_loading_is_cached_and_read_only():
    data = evonas.data.load()
    assert evonas.data.load() is data
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0


def test_pixels_match_the_recorded_digest():
    folder = files("evonas.data.fashion_mnist")
    facts = json.loads((folder / "source.json").read_text())
    sheet = decode_grey((folder / "images.png").read_bytes())
    assert hashlib.sha256(sheet.tobytes()).hexdigest() == facts["sha256_of_pixels"]
    assert "Zalando SE" in (folder / "LICENSE.txt").read_text()


def test_loads_without_network_torch_or_pillow():
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "sys.modules['PIL'] = None\n"
        "import evonas.data\n"
        "assert len(evonas.data.load().train) == 4000\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 33)])
def test_png_round_trip(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image[: shape[0] // 2] = 7
    assert np.array_equal(decode_grey(encode_grey(image)), image)


def test_png_is_read_by_an_independent_decoder(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    image = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    (tmp_path / "x.png").write_bytes(encode_grey(image))
    with pillow.open(tmp_path / "x.png") as opened:
        assert np.array_equal(np.asarray(opened), image)


def test_damaged_png_is_refused():
    packed = bytearray(encode_grey(np.zeros((4, 4), np.uint8)))
    packed[45] ^= 1
    with pytest.raises(DataError, match="checksum"):
        decode_grey(bytes(packed))
    with pytest.raises(DataError, match="not a PNG"):
        decode_grey(b"GIF89a")


def test_unknown_names_and_options_say_what_is_known():
    with pytest.raises(UsageError, match="fashion_mnist_small"):
        evonas.data.load("fashion_mnist")
    with pytest.raises(UsageError, match="sise"):
        evonas.data.load("image_folder", sise=3)
    with pytest.raises(UsageError, match="validation"):
        evonas.data.load(validation=1.5)
