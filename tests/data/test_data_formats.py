"""CIFAR archives and image folders: files of the real formats, and damaged ones."""

import builtins
import io
import tarfile

import numpy as np
import pytest

import evonas.data
import evonas.data.batches
from evonas.data import RawData, Split, dataset, load
from evonas.errors import DataError, EnvironmentUnusable, PluginError, UsageError

TRAIN10 = [f"data_batch_{i}.bin" for i in range(1, 6)]


def records(count, label_bytes, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, sum(1 for _ in label_bytes) + 3072), dtype=np.uint8)
    for column, classes in enumerate(label_bytes):
        rows[:, column] = np.arange(count) % classes
    return rows


def write_cifar10(folder):
    folder.mkdir(parents=True)
    rows = {name: records(20, [10], i) for i, name in enumerate([*TRAIN10, "test_batch.bin"])}
    for name, data in rows.items():
        (folder / name).write_bytes(data.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    return rows


def test_cifar10_folder(tmp_path):
    rows = write_cifar10(tmp_path / "cifar-10-batches-bin")
    data = load("cifar10", path=tmp_path)
    assert (len(data.train), len(data.validation), len(data.heldout)) == (90, 10, 20)
    assert data.shape == (3, 32, 32)
    assert data.classes == tuple("abcdefghij")
    test = rows["test_batch.bin"]
    assert np.array_equal(data.heldout.labels, test[:, 0])
    assert data.heldout.images[4, 2, 31, 30] == test[4, 1 + 2 * 1024 + 31 * 32 + 30]


def test_cifar10_archive_equals_folder(tmp_path):
    write_cifar10(tmp_path / "a" / "cifar-10-batches-bin")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "a" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    folder, packed = load("cifar10", path=tmp_path / "a"), load("cifar10", path=archive)
    assert np.array_equal(folder.train.images, packed.train.images)
    assert np.array_equal(load("cifar10", path=tmp_path).validation.labels, folder.validation.labels)


@pytest.mark.parametrize(("labels", "classes", "column"), [("fine", 100, 1), ("coarse", 20, 0)])
def test_cifar100(tmp_path, labels, classes, column):
    rows = {name: records(200, [20, 100], i) for i, name in enumerate(("train.bin", "test.bin"))}
    for name, data in rows.items():
        (tmp_path / name).write_bytes(data.tobytes())
    data = load("cifar100", path=tmp_path, labels=labels)
    assert len(data.classes) == classes
    assert np.array_equal(data.heldout.labels, rows["test.bin"][:, column])


def test_cifar_refuses_missing_short_and_wrong_labels(tmp_path):
    with pytest.raises(UsageError, match="needs a path"):
        load("cifar10")
    with pytest.raises(DataError, match="no such file"):
        load("cifar10", path=tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither"):
        load("cifar10", path=tmp_path)
    write_cifar10(tmp_path / "x")
    whole = (tmp_path / "x" / "data_batch_3.bin").read_bytes()
    (tmp_path / "x" / "data_batch_3.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 61459 bytes"):
        load("cifar10", path=tmp_path / "x")
    wrong = bytearray(whole)
    wrong[2 * 3073] = 10
    (tmp_path / "x" / "data_batch_3.bin").write_bytes(bytes(wrong))
    with pytest.raises(DataError, match=r"data_batch_3\.bin: label 10 in record 2"):
        load("cifar10", path=tmp_path / "x")
    (tmp_path / "x" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing"):
        load("cifar10", path=tmp_path / "x")
    (tmp_path / "y.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="tar archive"):
        load("cifar10", path=tmp_path / "y.tar.gz")


def write_npy(root, count=5, shape=(20, 24, 3)):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            np.save(root / name / f"{i}.npy", rng.random(shape).astype(np.float32))


def test_image_folder_of_arrays(tmp_path):
    write_npy(tmp_path, count=10)
    data = load("image_folder", path=tmp_path, size=16)
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 16, 16)
    assert (len(data.train), len(data.validation), len(data.heldout)) == (12, 4, 4)
    assert load("image_folder", path=tmp_path, size=16, channels=1).shape == (1, 16, 16)


def test_image_folder_with_its_own_test_part(tmp_path):
    write_npy(tmp_path / "train")
    write_npy(tmp_path / "test", count=3)
    data = load("image_folder", path=tmp_path, size=20)
    assert len(data.heldout) == 6
    file = np.load(tmp_path / "test" / "cat" / "0.npy")
    expected = np.rint(file[:, 2:22].transpose(2, 0, 1).astype(np.float64) * 255)
    assert np.array_equal(data.heldout.images[0], expected)


def test_image_folder_reads_png(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for name, value in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for i in range(4):
            pillow.new("RGB", (40, 30), (value, i, 0)).save(tmp_path / name / f"{i}.png")
    data = load("image_folder", path=tmp_path, size=8)
    assert set(np.unique(data.train.images[:, 0])) == {10, 200}


def test_image_folder_without_pillow_says_what_to_install(tmp_path, monkeypatch):
    write_npy(tmp_path)
    (tmp_path / "cat" / "z.png").write_bytes(b"")
    real = builtins.__import__

    def without_pillow(name, *rest):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(EnvironmentUnusable, match="pip install pillow"):
        load("image_folder", path=tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.5, np.nan], [0.1, 0.2]]), r"bad\.npy: value nan at index \(0, 1\)"),
        (np.array([[0.5, 0.1], [np.inf, 0.2]]), r"bad\.npy: value inf at index \(1, 0\)"),
        (np.full((4, 4), 3.0), r"bad\.npy: value 3.0 at index \(0, 0\)"),
        (np.zeros((4, 4, 2), np.uint8), r"bad\.npy: shape \(4, 4, 2\)"),
        (np.zeros((4, 4), complex), r"bad\.npy: pixels of type complex128"),
        (np.zeros((0, 4), np.uint8), r"bad\.npy: no pixels"),
    ],
)
def test_bad_arrays_are_refused_with_file_and_index(tmp_path, array, message):
    write_npy(tmp_path)
    np.save(tmp_path / "cat" / "bad.npy", array)
    with pytest.raises(DataError, match=message):
        load("image_folder", path=tmp_path)


def test_pickled_arrays_and_broken_images_are_refused(tmp_path):
    pytest.importorskip("PIL")
    write_npy(tmp_path)
    (tmp_path / "cat" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"x\.png: cannot be read"):
        load("image_folder", path=tmp_path)
    (tmp_path / "cat" / "x.png").unlink()
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cat" / "x.npy").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"x\.npy: cannot be read"):
        load("image_folder", path=tmp_path)


def test_registered_data_set_is_split_and_checked():
    images = np.zeros((20, 1, 4, 4), np.uint8)
    labels = np.arange(20) % 2
    parts = {"labels": labels, "images": images}

    def register(**changed):
        @dataset("of_the_tests")
        def loader(path=None):
            return RawData(Split(**{**parts, **changed}), None, ("a", "b"), source="of_the_tests")

    register()
    assert "of_the_tests" in evonas.data.names()
    data = load("of_the_tests")
    assert len(data.train) + len(data.validation) + len(data.heldout) == 20
    for name, value, message in (
        ("labels", labels[:-1], r"20 images but labels of shape \(19,\)"),
        ("labels", labels + 1, "label 2 at index 1"),
        ("labels", labels * 1.0, "needed are integers"),
        ("images", images * 1.0, "needed is uint8"),
        ("images", images[0], "needed is \\(N, C, H, W\\)"),
    ):
        register(**{name: value})
        with pytest.raises(DataError, match=message):
            load("of_the_tests")


def test_a_name_belongs_to_one_loader():
    def loader(path=None):
        raise AssertionError

    def other(path=None):
        raise AssertionError

    with pytest.raises(
        PluginError, match=r"'cifar10' of \S+loader has the name of the one of evonas\.data\.cifar"
    ):
        dataset("cifar10")(loader)
    dataset("claimed_twice")(loader)
    dataset("claimed_twice")(loader)
    other.__module__ = "elsewhere"
    with pytest.raises(PluginError, match=r"twice: by \S+loader and by elsewhere:\S+other"):
        dataset("claimed_twice")(other)


def test_images_smaller_than_the_window_that_is_scored():
    images = np.zeros((20, 1, 4, 4), np.uint8)
    split = Split(images, np.arange(20) % 2)

    @dataset("small_of_the_tests")
    def loader(path=None):
        return RawData(split, None, ("a", "b"), source="small_of_the_tests")

    view = load("small_of_the_tests").search_view()
    with pytest.raises(UsageError, match="4x4, needed is the window 6x6"):
        next(evonas.data.batches.whole(view.validation, view, batch=4, crop=6))
