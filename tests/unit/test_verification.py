"""Pair lists, all pairs, and what they say when they are wrong."""

import json

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluate import all_pairs
from pipeline.evaluate.accuracy import Thresholds
from pipeline.evaluate.error_curve import curve_of_pairs, val_at_far
from pipeline.evaluate.pairs_file import PairList, read_pairs
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.verification_page import verification_document
from pipeline.evaluate.verification import (
    Options,
    Subject,
    mean_distances,
    pair_distances,
    verify_all_pairs,
    verify_pairs,
)
from pipeline.evaluate.videos import first_frames, videos_of

SUBJECT = Subject(model_id="m")
ONE_BLOCK = "2\nann\t1\t2\nbob\t1\t2\nann\t1\tbob\t1\nann\t2\tbob\t2\n"


def faces(n_people: int = 30, n_each: int = 4, noise: float = 0.6) -> tuple[list[str], list[str], np.ndarray]:
    generator = np.random.default_rng(7)
    centres = np.repeat(generator.standard_normal((n_people, 16)), n_each, axis=0)
    x_ND = centres + noise * generator.standard_normal(centres.shape)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    names = [f"p{row // n_each:02d}" for row in range(len(x_ND))]
    ids = [f"{name}_{row % n_each + 1:04d}" for row, name in enumerate(names)]
    return ids, names, x_ND.astype(np.float32)


def test_a_list_with_one_block_is_cut_into_folds_of_both_kinds() -> None:
    n = 20
    same = [f"a{i}\t1\t2" for i in range(n)]
    different = [f"a{i}\t1\tb{i}\t3" for i in range(n)]
    pairs = read_pairs("\n".join([str(n), *same, *different]), "list")
    assert pairs.left[0] == "a0_0001"
    assert pairs.right[n] == "b0_0003"
    for fold in range(10):
        assert pairs.same_N[pairs.fold_N == fold].tolist() == [True, True, False, False]


def test_a_list_with_folds_keeps_its_own() -> None:
    text = "2\t1\nann\t1\t2\nann\t1\tbob\t1\nbob\t1\t2\nbob\t1\tann\t2\n"
    pairs = read_pairs(text, "list", id_template="{name}/{n}")
    assert pairs.fold_N.tolist() == [0, 0, 1, 1]
    assert pairs.same_N.tolist() == [True, False, True, False]
    assert pairs.right == ("ann/2", "bob/1", "bob/2", "ann/2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the number of pairs"),
        ("names\n", "expected the number of pairs"),
        ("0\n", "expected the number of pairs"),
        ("2\nann\t1\t2\n", "promises 4 pairs, 1 follow"),
        (ONE_BLOCK.replace("bob\t1\t2", "bob\t1\tann\t2"), "line 3: expected name, number, number"),
        (ONE_BLOCK.replace("ann\t2\tbob\t2", "ann\ttwo\tbob\t2"), "line 5: expected name, number, name"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_pairs(text, "list")


@pytest.mark.parametrize("template", ["{name}", "{name}_{n:q}", "{name.__class__}{n}", "{", "{name}{n}{x}"])
def test_a_wrong_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="id template"):
        read_pairs(ONE_BLOCK, "list", id_template=template)


def test_pairs_without_a_vector_are_left_out_and_counted() -> None:
    ids, _, x_ND = faces()
    n = 20
    same = [f"p{i:02d}\t1\t2" for i in range(n)]
    different = [f"p{i:02d}\t1\tp{i + 1:02d}\t3" for i in range(n - 1)] + ["nobody\t1\tp00\t1"]
    pairs = read_pairs("\n".join([str(n), *same, *different]), "list")
    report = verify_pairs(pairs, ids, x_ND, SUBJECT, Options(n_resamples=20))
    assert (report.n_pairs, report.n_missing, report.missing_ids) == (39, 1, ("nobody_0001",))
    assert report.n_same + report.n_different == report.n_pairs
    assert report.accuracy is not None
    wrong = round((1 - report.accuracy.mean) * report.n_pairs)
    assert abs(len(report.wrong) - wrong) <= 1  # folds of unequal size
    for pair in report.wrong:
        assert (pair.distance < pair.threshold) != pair.same
    with pytest.raises(UsageError, match=r"none of the 40 pairs .* 'a00_0001'"):
        verify_pairs(
            read_pairs("\n".join([str(n), *same, *different]).replace("p", "a"), "list"), ids, x_ND, SUBJECT
        )


def listed(name: str, same: list[float], different: list[float]) -> tuple[PairList, list[str], np.ndarray]:
    """Pairs with images of their own at these squared distances."""
    distances = [*same, *different]
    left, right = ([f"{name}{side}{n}" for n in range(len(distances))] for side in "ab")
    pairs = PairList(
        left=tuple(left),
        right=tuple(right),
        same_N=np.arange(len(distances)) < len(same),
        fold_N=np.arange(len(distances)) % 2,
    )
    x_ND = np.zeros((2 * len(distances), 2), dtype=np.float32)
    x_ND[len(distances) :, 0] = np.sqrt(distances)
    return pairs, [*left, *right], x_ND


def test_threshold_of_one_list_judges_another() -> None:
    """View 1 by hand: the first list is best at .51 (or .605), where the second has 4 (or 5) of 6 right."""
    choosing, some_ids, some_ND = listed("c", [0.3, 0.505, 0.9], [0.705, 1.2, 1.5])
    judged, other_ids, other_ND = listed("j", [0.45, 0.52, 0.2], [0.65, 0.4, 1.0])
    ids, x_ND = [*some_ids, *other_ids], np.concatenate([some_ND, other_ND])
    modes: tuple[tuple[Thresholds, float, float], ...] = (("facenet", 0.51, 4 / 6), ("exact", 0.605, 5 / 6))
    for mode, threshold, mean in modes:
        options = Options(thresholds=mode, fars=())
        report = verify_pairs(judged, ids, x_ND, SUBJECT, options, chosen_on=choosing)
        found = report.held_out
        assert found is not None
        assert (found.threshold, found.mean) == pytest.approx((threshold, mean), abs=1e-6)
        assert found.choosing_mean == pytest.approx(5 / 6)
        assert found.low <= found.mean <= found.high
        assert (found.n_choosing, found.n_shared_images, report.accuracy) == (6, 0, None)
        assert {pair.threshold for pair in report.wrong} == {found.threshold}
        assert len(report.wrong) == round(6 * (1 - mean))


def test_leak_between_lists_and_what_the_choosing_list_lacks_are_said() -> None:
    pairs, ids, x_ND = listed("c", [0.3, 0.5, 0.9], [0.7, 1.2, 1.5])
    report = verify_pairs(pairs, ids, x_ND, SUBJECT, Options(fars=()), chosen_on=pairs)
    assert report.held_out is not None
    assert report.held_out.n_shared_images == 12
    page = render_html(verification_document(report), {})
    assert "12 images are in both lists: the accuracy flatters." in page
    judged, other_ids, other_ND = listed("j", [0.2], [1.0])
    known = (*other_ids, *ids[1:]), np.concatenate([other_ND, x_ND[1:]])
    report = verify_pairs(judged, *known, SUBJECT, Options(fars=()), chosen_on=pairs)
    assert report.held_out is not None
    assert (report.held_out.n_choosing, report.held_out.n_choosing_missing) == (5, 1)
    same_only = PairList(
        left=pairs.left[:3], right=pairs.right[:3], same_N=pairs.same_N[:3], fold_N=pairs.fold_N
    )
    with pytest.raises(UsageError, match="same and different pairs, got 3 and 0"):
        verify_pairs(
            judged, [*other_ids, *ids], np.concatenate([other_ND, x_ND]), SUBJECT, chosen_on=same_only
        )


def test_fold_without_any_vector_is_named_and_the_others_keep_their_numbers() -> None:
    ids, _, x_ND = faces()
    left, right = (tuple(f"p{n:02d}_000{side}" for n in range(24)) for side in (1, 2))
    right = tuple(right[n] if n % 2 else left[n - 1] for n in range(24))
    pairs = PairList(left=left, right=right, same_N=np.arange(24) % 2 == 1, fold_N=np.arange(24) // 6)
    gone = {f"p{n:02d}" for n in range(6, 12)}
    kept = [row for row, image_id in enumerate(ids) if image_id[:3] not in gone]
    report = verify_pairs(pairs, [ids[row] for row in kept], x_ND[kept], SUBJECT, Options(fars=()))
    assert report.missing_folds == (2,)
    assert report.accuracy is not None
    assert report.accuracy.numbers == (1, 3, 4)
    assert "Whole folds are missing and in no mean: 2." in render_html(verification_document(report), {})


def test_a_rate_that_the_pairs_cannot_show_has_no_value_but_a_reason() -> None:
    distance_N = np.linspace(0, 2, 60, dtype=np.float32)
    same_N = np.arange(60) < 30
    found = val_at_far(curve_of_pairs(distance_N, same_N), [0.5, 0.001], seed=0, n_resamples=20)
    assert found[0.5].val == 1
    assert found[0.001].val is None
    assert "at least 10,000 are needed" in found[0.001].reason


def test_all_pairs_agree_with_the_list_of_all_pairs() -> None:
    ids, names, x_ND = faces(n_people=300)  # more rows than one block holds
    labels = [*names[:-1], None]
    report = verify_all_pairs(
        LabelledVectors(x_ND=x_ND, ids=ids, labels=labels), SUBJECT, Options(n_resamples=50)
    )
    left_N, right_N = np.triu_indices(len(ids) - 1, 1)
    same_N = np.array(names)[left_N] == np.array(names)[right_N]
    exact = curve_of_pairs(pair_distances(x_ND[left_N], x_ND[right_N]), same_N)
    assert (report.n_pairs, report.n_same) == (len(left_N), same_N.sum())
    assert report.auc == pytest.approx(exact.auc(), abs=1e-4)
    assert report.eer == pytest.approx(exact.eer(), abs=1e-3)
    for far in (0.1, 0.01, 0.001):
        found, place = report.val_at_far[f"{far:g}"], exact.place_at_far(far)
        assert found.val == pytest.approx(exact.val()[place], abs=0.005)
        assert found.threshold == pytest.approx(exact.thresholds_T[place], abs=report.resolution + 1e-4)
        assert found.val is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.val <= found.high
    assert report.val_at_far["0.0001"].val is not None
    assert report.to_json()["mode"] == "all_pairs"


def test_a_rate_that_lets_everybody_in_has_no_threshold_in_json() -> None:
    ids, names, x_ND = faces()
    report = verify_all_pairs(
        LabelledVectors(x_ND=x_ND, ids=ids, labels=names), SUBJECT, Options(fars=(1.0,))
    )
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["val_at_far"]["1"]["val"] == 1.0


def test_images_without_a_label_are_counted_and_in_no_pair() -> None:
    ids, names, x_ND = faces()
    labels = [None if row % 7 == 3 else name for row, name in enumerate(names)]
    report = verify_all_pairs(LabelledVectors(x_ND=x_ND, ids=ids, labels=labels), SUBJECT)
    known = len(ids) - report.n_without_label
    assert report.n_without_label == labels.count(None)
    assert report.n_pairs == known * (known - 1) // 2


def test_nothing_to_verify_is_said() -> None:
    ids, _, x_ND = faces(n_people=3)
    with pytest.raises(UsageError, match="same and different pairs, got 66 and 0"):
        verify_all_pairs(LabelledVectors(x_ND=x_ND, ids=ids, labels=["one"] * len(ids)), SUBJECT)
    pairs = read_pairs(ONE_BLOCK.replace("ann", "p00").replace("bob", "p01"), "list")
    with pytest.raises(UsageError, match="an embedding is not finite"):
        verify_pairs(pairs, ids, x_ND * np.float32(np.nan), SUBJECT)


def test_the_oddest_of_all_pairs_are_those_of_plain_sorting() -> None:
    ids, names, x_ND = faces(n_people=40, n_each=5, noise=0.9)
    report = verify_all_pairs(LabelledVectors(x_ND=x_ND, ids=ids, labels=names), SUBJECT)
    d2_NN = 2 - 2 * (x_ND @ x_ND.T)
    pairs = [(float(d2_NN[i, j]), i, j) for i in range(len(ids)) for j in range(i + 1, len(ids))]
    near = sorted((d2, i, j) for d2, i, j in pairs if names[i] != names[j])
    far = sorted((-d2, i, j) for d2, i, j in pairs if names[i] == names[j])
    for same, oddest in ((True, far), (False, near)):
        first_of: dict[frozenset[str], tuple[str, str]] = {}
        for _, i, j in oddest:
            first_of.setdefault(frozenset((names[i], names[j])), (ids[i], ids[j]))
        shown = [(pair.left, pair.right) for pair in report.wrong if pair.same == same]
        assert shown == list(first_of.values())[:12]
    assert all((pair.distance >= pair.threshold) == pair.same for pair in report.wrong)


def test_oddest_pairs_of_many_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, names, x_ND = faces(n_people=20, n_each=5, noise=0.9)
    base = LabelledVectors(x_ND=x_ND, ids=ids, labels=names)
    one = verify_all_pairs(base, SUBJECT)
    monkeypatch.setattr(all_pairs, "_BLOCK_ROWS", 7)
    many = verify_all_pairs(base, SUBJECT)
    assert [(pair.left, pair.right) for pair in many.wrong] == [(pair.left, pair.right) for pair in one.wrong]


def test_videos_are_as_far_apart_as_their_frames_on_average() -> None:
    ids, names, x_ND = faces(n_people=12, n_each=10)
    video = [None if row % 10 == 9 else f"{name}/{row % 10 % 2}" for row, name in enumerate(names)]
    videos = videos_of(LabelledVectors(x_ND=x_ND, ids=ids, labels=names), video, most=4)
    assert len(videos.ids) == 24
    rows = {name: [row for row, one in enumerate(video) if one == name][:4] for name in videos.ids}
    assert first_frames(ids, video)["p03/1"] == ids[31]
    sides = (("p00/0", "p01/0"), ("p00/1", "p05/1"))
    expected = [
        np.mean([((x_ND[i] - x_ND[j]) ** 2).sum() for i in rows[left] for j in rows[right]])
        for left, right in zip(*sides, strict=True)
    ]
    got = mean_distances(*(videos.x_ND[[videos.ids.index(one) for one in side]] for side in sides))
    assert got == pytest.approx(expected, abs=1e-6)
    listed = PairList(left=sides[0], right=sides[1], same_N=np.array([True, False]), fold_N=np.array([0, 1]))
    options = Options(mean_of_frames=True, fars=())
    report = verify_pairs(listed, videos.ids, videos.x_ND, SUBJECT, options)
    assert (report.of_videos, report.auc) == (True, 1.0)
    everybody = verify_all_pairs(videos, SUBJECT, options)
    assert (everybody.n_same, everybody.n_different) == (12, 24 * 23 // 2 - 12)


def test_video_of_two_labels_and_no_video_are_refused() -> None:
    ids, names, x_ND = faces(n_people=2, n_each=2)
    base = LabelledVectors(x_ND=x_ND, ids=ids, labels=names)
    with pytest.raises(UsageError, match="'both' carry 2 labels"):
        videos_of(base, ["both", "one", "both", "one"])
    with pytest.raises(UsageError, match="none of the 4 images"):
        videos_of(base, [None] * 4)
