"""Aspect-ratio buckets: which sizes there are, which picture goes where, and the order of batches."""

from __future__ import annotations

from collections import Counter

import pytest

from lowrank_diffusion.config import ConfigError, DataConfig
from lowrank_diffusion.image.buckets import Batches, Size, describe, nearest, table

AT_1024 = [
    (704, 1408), (768, 1344), (768, 1280), (832, 1216), (896, 1152), (960, 1088), (1024, 1024),
    (1088, 960), (1152, 896), (1216, 832), (1280, 768), (1344, 768), (1408, 704),
]  # fmt: skip

# Height and width of arXiv 2307.01952, appendix I.
PAPER = """
512 2048  512 1984  512 1920  512 1856  576 1792  576 1728  576 1664  640 1600  640 1536  704 1472  704 1408  704 1344
768 1344  768 1280  832 1216  832 1152  896 1152  896 1088  960 1088  960 1024  1024 1024  1024 960  1088 960  1088 896
1152 896  1152 832  1216 832  1280 768  1344 768  1408 704  1472 704  1536 640  1600 640  1664 576  1728 576  1792 576
1856 512  1920 512  1984 512  2048 512
"""


def sizes(resolution: int, step: int = 64, aspect: float = 2.0) -> list[Size]:
    return table(DataConfig(bucket_step=step, max_aspect=aspect), resolution)


def test_the_sizes_of_sdxl():
    assert sizes(1024) == AT_1024
    numbers = [int(number) for number in PAPER.split()]
    paper = {(width, height) for height, width in zip(numbers[::2], numbers[1::2], strict=True)}
    all_shapes = set(sizes(1024, aspect=4))
    assert all_shapes <= paper and {(512, 2048), (2048, 512)} <= all_shapes
    # What the paper has beside them could grow by 64 px on either side within its area.
    assert all(
        (width + 64) * height <= 1024**2 and width * (height + 64) <= 1024**2
        for width, height in paper - all_shapes
        if (width, height) != (1344, 704)
    )


@pytest.mark.parametrize(
    ("step", "aspect", "expected"),
    [
        (16, 2.0, [(96, 160), (112, 144), (128, 128), (144, 112), (160, 96)]),
        (32, 2.0, [(96, 160), (128, 128), (160, 96)]),
        (64, 4.0, [(64, 256), (64, 192), (128, 128), (192, 64), (256, 64)]),
        (64, 3.0, [(64, 192), (128, 128), (192, 64)]),
    ],
)
def test_the_sizes_at_128(step: int, aspect: float, expected: list[Size]):
    assert sizes(128, step, aspect) == expected


@pytest.mark.parametrize("resolution", [128, 512, 640, 768, 1000, 1024, 1536])
@pytest.mark.parametrize(("step", "aspect"), [(64, 2.5), (32, 2.0), (8, 1.5)])
def test_areas_multiples_and_aspects(resolution: int, step: int, aspect: float):
    try:
        found = sizes(resolution, step, aspect)
    except ConfigError:
        assert (resolution, step) == (128, 64)
        return
    square = resolution // step * step
    assert (square, square) in found and len(set(found)) == len(found)
    assert {(height, width) for width, height in found} == set(found)
    assert [w / h for w, h in found] == sorted(w / h for w, h in found)
    for width, height in found:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert max(width, height) <= aspect * min(width, height)
        if width != height:  # at least one side is as long as the area allows
            assert max((width + step) * height, width * (height + step)) > resolution**2


@pytest.mark.parametrize(("resolution", "step", "hint"), [(128, 64, "Take 16 "), (64, 512, "Take 8 ")])
def test_a_step_that_leaves_only_the_square_is_refused(resolution: int, step: int, hint: str):
    with pytest.raises(ConfigError, match=r"data\.bucket_step: must leave more than the square") as caught:
        sizes(resolution, step)
    assert hint in str(caught.value) and f"got {step}." in str(caught.value)
    assert len(sizes(resolution, int(hint.split()[1]))) > 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3000, 3000), (1024, 1024)), ((10, 10), (1024, 1024)), ((1060, 1000), (1024, 1024)), ((107, 100), (1088, 960)),
        ((6000, 4000), (1216, 832)), ((4000, 6000), (832, 1216)), ((4032, 3024), (1152, 896)),
        ((1920, 1080), (1344, 768)), ((1080, 1920), (768, 1344)), ((5000, 99), (1408, 704)), ((99, 5000), (704, 1408)),
    ],
)  # fmt: skip
def test_every_picture_goes_to_the_nearest_shape(shape: Size, expected: Size):
    assert nearest(*shape, AT_1024) == expected


def test_of_equal_shapes_the_larger_is_taken():
    assert nearest(100, 100, [(960, 960), (1024, 1024), (512, 512)]) == (1024, 1024)


def test_the_table_in_words():
    assert describe([(96, 160), (160, 96), (96, 160)]) == "96x160: 2, 160x96: 1"


WIDE, SQUARE, TALL = (160, 96), (128, 128), (96, 160)
MIXED = (WIDE,) * 5 + (SQUARE, TALL) * 4 + (WIDE,) * 2 + (TALL,) * 3  # 7 wide, 4 square, 7 tall


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
def test_a_batch_has_one_size_and_an_epoch_every_picture(batch: int):
    batches = Batches(MIXED, batch, seed=3)
    assert batches.per_epoch == 2 * -(-7 // batch) + -(-4 // batch)
    for epoch in range(4):
        shown = [batches.at(epoch * batches.per_epoch + index) for index in range(batches.per_epoch)]
        assert all(len(pictures) == batch for pictures in shown)
        assert all(len({MIXED[index] for index in pictures}) == 1 for pictures in shown)
        # A picture comes again only to fill up the last batch of its bucket, and not in that batch if there are others.
        counts = Counter(index for pictures in shown for index in pictures)
        assert set(counts) == set(range(len(MIXED)))
        members = Counter(MIXED)
        assert max(counts.values()) <= max(2, -(-batch // min(members.values())))
        for pictures in shown:
            if members[MIXED[pictures[0]]] >= batch:
                assert len(set(pictures)) == batch
        for size, count in members.items():
            filled = -(-count // batch) * batch
            assert sum(counts[index] for index in counts if MIXED[index] == size) == filled


def test_batches_depend_on_seed_and_number_only():
    batches = Batches(MIXED, 2, seed=3)
    forward = [batches.at(number) for number in range(40)]
    assert forward == [Batches(MIXED, 2, seed=3).at(number) for number in reversed(range(40))][::-1]
    assert forward != [Batches(MIXED, 2, seed=4).at(number) for number in range(40)]
    per_epoch = batches.per_epoch
    assert per_epoch == 10
    assert len({str(forward[start : start + per_epoch]) for start in range(0, 40, per_epoch)}) == 4
    sizes_in_order = [[MIXED[batch[0]] for batch in forward[start : start + 10]] for start in range(0, 40, 10)]
    assert any(order != sizes_in_order[0] for order in sizes_in_order)  # buckets do not come in blocks
    assert any(order != sorted(order) for order in sizes_in_order)


def test_pictures_filled_in_differ_from_epoch_to_epoch():
    batches = Batches((SQUARE,) * 5, 2, seed=0)
    twice = [
        Counter(i for n in range(epoch * 3, epoch * 3 + 3) for i in batches.at(n)).most_common(1)[0][0]
        for epoch in range(20)
    ]
    assert set(twice) == set(range(5))


def test_one_picture_fills_its_batch():
    assert Batches((WIDE, TALL), 3, seed=0).at(0) in ([0, 0, 0], [1, 1, 1])
