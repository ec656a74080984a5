"""Batches are a function of (seed, step), and hold what the data holds."""

import pytest
import torch

import evonas.data
from evonas.data.batches import Batches, whole
from evonas.errors import UsageError

VIEW = evonas.data.load().search_view()


def test_batches_depend_on_seed_and_step_alone():
    first = Batches(VIEW, batch=8, crop=24, pool=2, flip=True, seed=1)
    second = Batches(VIEW, batch=8, crop=24, pool=2, flip=True, seed=1)
    later = first(700)
    for step in (3, 700):
        images, labels = first(step)
        again, same = second(step)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    assert torch.equal(later[0], second(700)[0])
    assert not torch.equal(first(3)[0], Batches(VIEW, batch=8, crop=24, pool=2, seed=2)(3)[0])


def test_shape_type_and_scale():
    images, labels = Batches(VIEW, batch=500, crop=24, pool=2)(0)
    assert images.shape == (500, 1, 12, 12)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    images = torch.cat([x for x, _ in whole(VIEW.train, VIEW, batch=999)])
    assert images.shape == (4000, 1, 28, 28)
    assert abs(images.mean().item()) < 1e-4
    assert abs(images.std().item() - 1) < 1e-3


def test_an_epoch_sees_every_image_once():
    batches = Batches(VIEW, batch=400, crop=28)
    assert batches.per_epoch == 10
    seen = torch.cat([batches(step)[0] for step in range(10)]).flatten(1).sum(1).sort().values
    every = torch.cat([x for x, _ in whole(VIEW.train, VIEW, batch=400)]).flatten(1).sum(1).sort().values
    assert torch.equal(seen, every)


def test_crops_and_flips_are_windows_of_the_image():
    plain, labels = Batches(VIEW, batch=64, crop=28, seed=5)(0)
    cropped, same = Batches(VIEW, batch=64, crop=20, flip=True, seed=5)(0)
    assert torch.equal(labels, same)
    windows = plain.unfold(2, 20, 1).unfold(3, 20, 1).reshape(64, -1, 20, 20)
    straight = (windows == cropped).all((2, 3)).any(1)
    mirrored = (windows == cropped.flip(3)).all((2, 3)).any(1)
    assert (straight | mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_impossible_batches_are_refused():
    with pytest.raises(UsageError, match="4000 training images"):
        Batches(VIEW, batch=5000, crop=24)
    with pytest.raises(UsageError, match="28x28"):
        Batches(VIEW, batch=8, crop=32)


def test_a_share_of_the_data_is_a_nested_part_that_the_seed_fixes():
    def seen(share, seed=3):
        batches = Batches(VIEW, batch=100, crop=28, seed=seed, share=share)
        images = torch.cat([batches(step)[0] for step in range(2 * batches.per_epoch)])
        return batches.per_epoch, {tuple(row) for row in images.flatten(1)[:, 300:340].tolist()}

    (few, quarter), (more, half) = seen(0.25), seen(0.5)
    assert (few, more) == (10, 20)
    assert len(quarter) > 980  # two epochs of the same 1000 images; some look the same there
    assert len(half) > 1950
    assert len(quarter) <= 1000
    assert len(half) <= 2000
    assert quarter < half
    assert seen(0.25)[1] == quarter
    assert seen(0.25, seed=4)[1] != quarter


def test_all_of_the_data_is_what_it_was():
    whole_set, default = (Batches(VIEW, batch=8, crop=24, seed=1, **o) for o in ({"share": 1.0}, {}))
    for step in (0, 600):
        assert torch.equal(whole_set(step)[0], default(step)[0])


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UsageError, match="above 0, at most 1"):
        Batches(VIEW, batch=8, crop=24, share=share)


def test_a_share_below_a_batch_is_refused():
    with pytest.raises(UsageError, match=r"4000 training images of .* are 40, needed are 64"):
        Batches(VIEW, batch=64, crop=24, share=0.01)
