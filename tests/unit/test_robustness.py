"""Quality of damaged vectors and smaller codes, against verification and ranking, and planted damage."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.cli import run
from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.coded_vectors import code_qualities, projected_qualities
from pipeline.evaluate.published import published_val
from pipeline.evaluate.ranking import LabelledVectors, leave_one_out_ranks
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.robustness_page import robustness_document
from pipeline.evaluate.robustness import CleanImages, own_places
from pipeline.evaluate.verification import Options, Subject, verify_all_pairs
from pipeline.index.encoder import fit_encoder
from tests.support.change_samples import robustness_result
from tests.support.models import byte_input_model
from tests.support.nights import Collection
from tests.support.tiny_catalogs import black_jpeg, write_parquet

N_LABELS, PER_LABEL, D, FAR = 40, 3, 24, 0.01
LABELS = [f"label{n // PER_LABEL:02d}" for n in range(N_LABELS * PER_LABEL)]
ROWS = np.arange(len(LABELS))


def unit(x_ND: np.ndarray) -> np.ndarray:
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def noisy(x_ND: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    return unit(x_ND + noise * np.random.default_rng(seed).standard_normal(x_ND.shape) / np.sqrt(D))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    centre_ND = unit(np.random.default_rng(0).standard_normal((N_LABELS, D)))
    return noisy(np.repeat(centre_ND, PER_LABEL, axis=0), 0.6)


@pytest.fixture(scope="module")
def clean(vectors: np.ndarray) -> CleanImages:
    return CleanImages(vectors, LABELS, far=FAR, n_resamples=200)


def test_clean_images_are_judged_as_verification_and_ranking_do(
    clean: CleanImages, vectors: np.ndarray
) -> None:
    base = LabelledVectors(x_ND=vectors, ids=[f"{n:03d}" for n in ROWS], labels=LABELS)
    pairs = verify_all_pairs(base, Subject(model_id=""), Options(fars=(FAR,), n_resamples=200))
    shown, found = pairs.val_at_far["0.01"], clean.quality()
    assert shown.threshold == pytest.approx(found.threshold, abs=1e-3)
    assert (shown.val, shown.low, shown.high) == pytest.approx(
        (found.val, found.val_low, found.val_high), abs=0.01
    )
    success_Q = metrics.success_at(leave_one_out_ranks(base).found, 1)
    assert found.success_at_1 == success_Q.mean()
    assert (found.success_change, found.val_fixed) == (0, found.val)
    assert found.far_fixed <= FAR


def test_more_damage_costs_more_and_is_said_to_for_certain(clean: CleanImages, vectors: np.ndarray) -> None:
    none, some, much = (clean.damaged(noisy(vectors, noise), ROWS) for noise in (0, 0.5, 2.0))
    assert none.one_sided.val == clean.quality().val
    assert none.cosine_mean == pytest.approx(1) == none.cosine_low
    assert none.one_sided.val > some.one_sided.val > much.one_sided.val
    assert some.one_sided.val > some.two_sided.val  # a clean side helps
    assert much.cosine_low < much.cosine_mean < some.cosine_mean
    assert much.one_sided.success_change_high < 0
    assert much.one_sided.success_change == pytest.approx(
        much.one_sided.success_at_1 - clean.quality().success_at_1
    )


def test_what_all_images_carry_moves_different_ones_together(clean: CleanImages, vectors: np.ndarray) -> None:
    """The threshold of clean images then accepts strangers, and one chosen anew hides it."""
    marked = clean.damaged(unit(vectors + 0.8 * np.eye(D)[0]), ROWS)
    assert marked.two_sided.far_fixed > 5 * FAR
    assert marked.two_sided.val > marked.two_sided.val_fixed * 0.6
    assert marked.one_sided.far_fixed < marked.two_sided.far_fixed


def test_rejected_images_are_left_out(clean: CleanImages, vectors: np.ndarray) -> None:
    rows = ROWS[PER_LABEL + 1 :]  # of one label nothing is left, of another one image less
    found = clean.damaged(vectors[rows], rows)
    assert found.n_images == len(rows)
    assert found.one_sided.success_change == pytest.approx(0, abs=0.02)


def test_images_that_are_lost_are_no_loss_of_the_others(vectors: np.ndarray) -> None:
    """With other images gone, even clean ones find less: that is not what the damage did."""
    blurred = noisy(vectors, 1.5)
    clean = CleanImages(blurred, LABELS, far=FAR, n_resamples=50)
    rows = ROWS[ROWS % PER_LABEL > 0]
    found = clean.damaged(blurred[rows], rows).one_sided
    assert found.success_change == 0
    assert found.success_at_1 < clean.quality().success_at_1
    assert clean.enough(rows)
    assert not clean.enough(ROWS[:PER_LABEL])
    with pytest.raises(ValueError, match="3 images are too few"):
        clean.damaged(blurred[:PER_LABEL], ROWS[:PER_LABEL])


def test_page_says_which_levels_reject_images(vectors: np.ndarray) -> None:
    result = robustness_result(LabelledVectors(x_ND=vectors, ids=[f"{n:03d}" for n in ROWS], labels=LABELS))
    page = render_html(robustness_document(result), {})
    assert "images are rejected" not in page
    assert "of vectors of the sample itself, which flatters them" in page
    few, none = result["levels"][:2]
    few["n_rejected"], none["n_rejected"] = 3, 250
    del none["one_sided"]
    page = render_html(robustness_document(result), {})
    assert f"At 2 levels images are rejected and left out of the figures: 250 with {none['name']}" in page
    assert f"Too few are left to judge: {none['name']}." in page
    assert "levels of damage cost" not in render_html(robustness_document({**result, "levels": [none]}), {})


def test_smaller_vectors_cost_what_they_leave_out(clean: CleanImages, vectors: np.ndarray) -> None:
    encoder = fit_encoder(vectors, bits=256, fit_threshold="")
    rows = {one.name: one for one in code_qualities(clean, vectors, encoder)}
    assert [one.bytes_per_vector for one in rows.values()] == [96, 48, 28, 3, 32]
    whole = rows["float32"].quality
    assert whole == clean.quality()
    assert rows["int8, a scale for each row"].quality.val == pytest.approx(whole.val, abs=0.02)
    signs, bits = rows["24 bits, signs"].quality, rows["256 bits, centred-rotated"].quality
    assert signs.val < bits.val < whole.val
    projected = list(projected_qualities(clean, vectors, vectors, (2, 12, 23)))
    assert projected[0].quality.val < projected[1].quality.val < projected[2].quality.val
    assert all(one.projected for one in projected)
    assert projected[2].quality.val == pytest.approx(whole.val, abs=0.05)
    assert "far_fixed" not in projected[0].to_json()["quality"]  # type: ignore[operator]


def test_too_few_images_for_the_rate_are_an_error(vectors: np.ndarray) -> None:
    with pytest.raises(
        UsageError, match=r"120 images with 40 labels make 7,020 different pairs: at least 10,000 "
    ):
        CleanImages(vectors, LABELS, far=0.001)
    with pytest.raises(UsageError, match="same pairs besides"):
        CleanImages(vectors, [str(n) for n in ROWS], far=0.1)
    with pytest.raises(UsageError, match="a rate of 0 never allows"):
        CleanImages(vectors, LABELS, far=0)


def test_published_figures_are_those_of_the_paper() -> None:
    assert [published_val("jpeg", quality) for quality in (10, 90)] == [0.673, 0.865]
    assert [published_val("pixels", side) for side in (40, 256)] == [0.378, 0.864]
    assert published_val("blur", 0.01) is None


def picture(product: int, view: int) -> bytes:
    colour_C = np.random.default_rng(product).integers(40, 216, 3)
    noise_HWC = np.random.default_rng(1000 * product + view).integers(-20, 21, (24, 24, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(colour_C + noise_HWC, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    collection = Collection(tmp_path_factory.mktemp("robustness"))
    numbers = range(16 * 3)
    columns = {
        "image_id": [f"i{n:02d}" for n in numbers],
        "image": [picture(n // 3, n % 3) for n in numbers],
        "product": [f"<b>{n // 3}</b>" for n in numbers],
    }
    write_parquet(collection.source / "shop.parquet", columns)
    collection.night(label="product")
    columns["image"][0] = black_jpeg()  # since then: no vector any more
    write_parquet(collection.source / "shop.parquet", columns)
    return collection


def test_own_place_is_that_of_plain_sorting_and_no_copy_is_before_it() -> None:
    base_ND = unit(np.random.default_rng(4).standard_normal((500, D)))
    base_ND[400:] = base_ND[:100]  # copies
    own_Q = np.array([3, 250, 403])
    x_QD = noisy(base_ND[own_Q], 2.0)
    d2_QN = ((x_QD[:, None].astype(np.float64) - base_ND) ** 2).sum(axis=2)
    own_d2_Q = d2_QN[np.arange(3), own_Q]
    expected_Q = 1 + (d2_QN < own_d2_Q[:, None] - 1e-5).sum(axis=1)
    assert expected_Q.max() > 1
    assert own_places(x_QD, base_ND, own_Q).tolist() == expected_Q.tolist()
    assert own_places(base_ND[own_Q], base_ND, own_Q).tolist() == [1, 1, 1]


def test_command_embeds_every_level_through_the_pipeline(
    made: Collection, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, page = str(made.folder / "store"), tmp_path / "report.html"

    def robustness(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = run(["evaluate", "robustness", "--store", store, "--json", "--far", "0.02", *arguments])
        return code, json.loads(capfd.readouterr().out)

    code, found = robustness("--damage", "jpeg", "--damage", "watermark", "-o", str(page))
    assert (code, found["n_images"], found["n_lost"], found["n_labels"]) == (0, 47, 1, 16)
    none, jpeg = found["levels"][0], found["levels"][1]
    assert (none["kind"], none["cosine_mean"], none["n_rejected"]) == ("none", pytest.approx(1), 0)
    assert none["one_sided"] == found["clean"]
    assert (none["finds_itself@1"], none["median_place"]) == (1.0, 1.0)
    assert (jpeg["name"], jpeg["published_val"]) == ("JPEG quality 10", 0.673)
    assert jpeg["cosine_mean"] < 1
    assert len([one for one in found["levels"] if one["kind"] == "watermark"]) == 18
    assert "JPEG quality 10" in page.read_text()
    assert "<b>" not in page.read_text()
    other = tmp_path / "other.onnx"
    other.write_bytes(byte_input_model())
    code, found = robustness("--damage", "jpeg", "--model", str(other))
    assert code == 0
    other_level = found["levels"][1]  # the index holds another model's vectors
    assert (other_level["finds_itself@1"], other_level["median_place"]) == (None, None)
    assert [one["name"] for one in found["codes"] if "rotated" in one["name"]] == []
    assert (found["n_projection_fitted_on"], found["projection_fitted_on_sample"]) == (47, True)
    code, answer = robustness("--sample", "20", "--damage", "jpeg")
    assert code == 2
    assert "at least 500 are needed to say anything of a rate of 0.02" in answer["error"]["message"]


def test_black_images_are_rejected_and_counted(made: Collection, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(made.folder / "store"), "--json", "--far", "0.5", "--damage", "brightness"]
    assert run(["evaluate", "robustness", *arguments]) == 0
    levels = json.loads(capfd.readouterr().out)["levels"]
    assert [one["level"] for one in levels] == [0, 0.25, 0.5, 1.5, 2.0]
    assert all(one["n_images"] + one["n_rejected"] == 47 for one in levels)
