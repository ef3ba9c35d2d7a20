"""Labels, splits, batch plans and packs of a training."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.config import TrainConfig
from pipeline.errors import StorageError, UsageError
from pipeline.images.augment import NO_AUGMENT, Augment, augmented
from pipeline.images.preprocess import load_pixels
from pipeline.storage.local import LocalStore
from pipeline.train.job import TrainJob
from pipeline.train.labelled import LabelledImages, labelled_images, split_by_identity
from pipeline.train.packed import pack_images, plain_input
from pipeline.train.sampling import BatchPlan
from pipeline.train.stored import OlderModel, StoredVectors
from pipeline.values import DecodeLimits
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import GARBAGE, list_of, write_folder


def labelled(*labels: object, separator: str | None = None) -> LabelledImages:
    builder = ListingBuilder()
    for number, label in enumerate(labels):
        attributes = {} if label is None else {"product": label}
        builder.add(
            ListedImage(
                image_id=f"{number:04d}",
                version="1",
                size_bytes=1,
                locator=str(number),
                attributes=attributes,
            )
        )
    return labelled_images(builder.table(), "product", separator)


def test_images_without_the_label_are_counted_and_left_out() -> None:
    images = labelled("b", None, "a", "b", "")
    assert images.names == ("a", "b")
    assert images.labels.tolist() == [1, 0, 1]
    assert images.rows["image_id"].to_pylist() == ["0000", "0002", "0003"]
    assert images.n_without_label == 2


def test_several_labels_of_an_image_are_told_apart_by_the_separator() -> None:
    images = labelled("red; shoe", "shoe", "blue", separator=";")
    assert images.names == ("blue", "red", "shoe")
    assert images.labels.tolist() == [[False, True, True], [False, False, True], [True, False, False]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((7, "7", "a"), "both as text and as a number"),
        (("a", "a", None), "training needs two or more"),
        ((1.5, 2.0), "numbers with fractions"),
    ],
)
def test_labels_that_name_no_classes_are_refused(labels: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labelled(*labels)


def test_split_keeps_each_class_on_one_side_and_does_not_depend_on_the_order() -> None:
    names = [f"p{number % 10}" for number in range(40)]
    images = labelled(*names)
    train, held = split_by_identity(images, 0.2, seed=3)
    assert sorted([*train, *held]) == list(range(40))
    apart = {names[row] for row in held}
    assert len(apart) == 2
    assert not apart & {names[row] for row in train}
    reversed_held = split_by_identity(labelled(*reversed(names)), 0.2, seed=3)[1]
    assert {names[39 - row] for row in reversed_held} == apart
    with pytest.raises(UsageError, match="two to train on and two to validate on"):
        split_by_identity(labelled("a", "b", "c"), 0.2, seed=0)


@pytest.mark.parametrize("separator", [None, ";"])
def test_classes_that_cannot_validate_are_refused_before_a_training_begins(separator: str | None) -> None:
    images = labelled(*[f"alone{n}" for n in range(30)], "a", "a", "b", "b", separator=separator)
    with pytest.raises(UsageError, match="the 6 classes set apart for validation have one image each"):
        split_by_identity(images, 0.2, seed=0)


def test_every_batch_has_so_many_images_of_so_many_classes() -> None:
    labels = np.array([number % 9 for number in range(90)])
    plan = BatchPlan(labels, 3, 4, 0, 0)
    seen = set()
    for step in range(plan.steps_per_epoch):
        rows = plan.batch(step)
        assert len(set(rows.tolist())) == 12
        classes, counts = np.unique(labels[rows], return_counts=True)
        assert counts.tolist() == [4, 4, 4]
        seen |= set(classes.tolist())
    assert seen == set(range(9))
    assert plan.batch(5).tolist() == BatchPlan(labels, 3, 4, 0, 0).batch(5).tolist()
    assert plan.batch(5).tolist() != BatchPlan(labels, 3, 4, 0, 1).batch(5).tolist()


def test_small_classes_repeat_images_and_single_images_are_drawn_at_random_only() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    batch = BatchPlan(labels, 2, 4, 0, 0).batch(0)
    assert np.bincount(labels[batch], minlength=3).tolist() == [4, 4, 0]
    drawn = [BatchPlan(labels, 2, 2, 6, 0).batch(step) for step in range(10)]
    assert {len(rows) for rows in drawn} == {10}
    assert any(4 in rows for rows in drawn)


def test_images_of_many_labels_come_once_in_a_batch() -> None:
    labels = np.zeros((20, 4), dtype=bool)
    labels[np.arange(20), np.arange(20) % 4] = True
    labels[::2, 3] = True
    for step in range(6):
        rows = BatchPlan(labels, 3, 4, 0, 0).batch(step)
        assert len(set(rows.tolist())) == 12


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 2]])
def test_data_without_two_classes_of_two_images_is_refused(labels: list[int]) -> None:
    with pytest.raises(UsageError, match="two classes with two images each"):
        BatchPlan(np.array(labels), 2, 2, 0, 0)


def test_pack_keeps_what_can_be_decoded_and_counts_the_rest(tmp_path: Path) -> None:
    files = {f"{number}.jpg": jpeg(20, 30, seed=number) for number in range(3)}
    folder = write_folder(tmp_path / "photos", {**files, "1b.jpg": GARBAGE})
    rows = list_of(folder, tmp_path).images()
    seen: list[int] = []

    def pack() -> list[bytes]:
        packed = pack_images(
            LocalStore(folder),
            SourceSpec(uri=str(folder)),
            rows,
            name="a",
            folder=tmp_path / "cache",
            preprocess=plain_input((16, 16)),
            limits=DecodeLimits(),
            advance=seen.append,
        )
        assert packed.rejected == {"unidentified": 1}
        assert packed.kept.tolist() == [0, 1, 3]
        return [packed.read(place) for place in range(3)]

    assert pack() == list(files.values())
    assert seen == [1, 2, 3, 4, 4]
    (folder / "0.jpg").unlink()
    assert pack() == list(files.values())  # out of the pack


def older_of(snapshot: str) -> StoredVectors:
    of = OlderModel(model_id="0", name="old", collection="main", snapshot=snapshot, label="product")
    return StoredVectors(of=of, x_ND=np.ones((8, 2), dtype=np.float32), has_N=np.ones(8, dtype=bool))


def test_other_limits_of_decoding_or_older_vectors_are_another_training(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "photos", {f"{name}/{n}.jpg": jpeg(30, 40, seed=n) for name in "abcd" for n in range(2)}
    )
    images = labelled_images(list_of(folder, tmp_path).images(), "@folder")

    def job(older: StoredVectors | None = None, **limits: int) -> TrainJob:
        return TrainJob(
            settings=TrainConfig(size=(16, 16)),
            images=images,
            source=LocalStore(folder),
            spec=SourceSpec(uri=str(folder)),
            store=LocalStore(tmp_path / "store"),
            folder=tmp_path / "cache",
            older=older,
            limits=DecodeLimits(**limits),
        )

    with pytest.raises(StorageError, match="none of 8 images"):
        job(max_side_px=20).pack()
    assert job().pack().rejected == {}
    assert job().key() != job(max_side_px=20).key()
    keys = {job(older_of(snapshot)).key() for snapshot in ("1", "2", "2")}
    assert len(keys | {job().key()}) == 3


def test_changes_of_an_image_follow_from_the_seed_and_none_change_nothing() -> None:
    data, spec, limits = jpeg(80, 60, seed=1), plain_input((32, 32)), DecodeLimits()
    always = Augment(crop=1, light=1, jpeg=1, scale=1, watermark=1, flip=1)
    one = augmented(data, spec, limits, always, 7)
    assert one.shape == (3, 32, 32)
    assert (one == augmented(data, spec, limits, always, 7)).all()
    assert (one != augmented(data, spec, limits, always, 8)).any()
    small = jpeg(40, 40, seed=2)
    assert (augmented(small, spec, limits, NO_AUGMENT, 7) == load_pixels(small, spec, limits).pixels).all()
    with pytest.raises(ValueError, match="probability of jpeg"):
        Augment(jpeg=1.5)
