"""Faces put in place by five points: geometry pixel by pixel, the file, and both crops in one report."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.cli import run
from pipeline.errors import UsageError
from pipeline.evaluate.landmarks_file import read_landmarks
from pipeline.images.align import TEMPLATE_52, aligned, centre_crop, face_share
from tests.support.models import projection_model
from tests.support.nights import Collection
from tests.support.tiny_catalogs import write_folder

HEADER = "image_id,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5"
N_PEOPLE = 20


def png(pixels_HWC: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels_HWC.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def moved(factor: complex, shift: complex) -> np.ndarray:
    """The template's points turned, scaled and shifted."""
    to_5 = factor * (TEMPLATE_52[:, 0] + 1j * TEMPLATE_52[:, 1]) + shift
    return np.stack([to_5.real, to_5.imag], axis=1)


@pytest.mark.parametrize("side_px", [112, 160, 56])
@pytest.mark.parametrize("factor", [1 + 0j, 0.9 + 0.35j, -0.4 + 0.8j, 1.9 - 0.3j])
def test_every_pixel_of_the_square_is_where_the_points_say(factor: complex, side_px: int) -> None:
    """A picture whose colours are its coordinates: half pixels and averaging shift nothing."""
    shift = 128 + 128j - factor * (55.5 + 55.5j)
    x_HW, y_HW = np.meshgrid(np.arange(256), np.arange(256))
    picture = png(np.stack([x_HW, y_HW, np.full_like(x_HW, 255)], axis=2))
    square = np.asarray(Image.open(io.BytesIO(aligned(picture, moved(factor, shift), side_px))))
    u_SS, v_SS = np.meshgrid(*[(np.arange(side_px) + 0.5) * 112 / side_px - 0.5] * 2)
    expected_SS = factor * (u_SS + 1j * v_SS) + shift
    inside = (np.abs(expected_SS.real - 128) < 120) & (np.abs(expected_SS.imag - 128) < 120)
    assert inside.mean() > 0.5
    assert np.abs(square[inside][:, 0] - expected_SS.real[inside]).max() <= 1.5
    assert np.abs(square[inside][:, 1] - expected_SS.imag[inside]).max() <= 1.5
    assert face_share(picture, moved(factor, shift)) == pytest.approx(abs(factor) * 112 / 256)


def test_centre_crop_is_a_square_about_the_centre() -> None:
    picture = np.zeros((40, 100, 3))
    picture[10:30, 40:60] = 255
    square = np.asarray(Image.open(io.BytesIO(centre_crop(png(picture), 0.5))))
    assert (square.shape, square.min()) == ((20, 20, 3), 255)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the columns"),
        ("image_id,x,y\n", "expected the columns"),
        (HEADER, "holds no points"),
        (f"{HEADER}\na,1,2,3\n", "line 2: expected an image and five points apart"),
        (f"{HEADER}\na,{','.join('5' * 10)}\n", "five points apart"),
        (f"{HEADER}\na,{','.join(map(str, range(9)))},nan\n", "five points apart"),
        (f"{HEADER}\n" + 2 * f"a,{','.join(map(str, range(10)))}\n", "line 3: 'a' has points already"),
    ],
)
def test_wrong_landmarks_are_refused_with_their_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_landmarks(text, "points.csv")


def faces(folder: Path) -> Collection:
    """Two pictures of each person, the face somewhere in noise, turned and scaled; pairs and points too."""
    rng = np.random.default_rng(5)
    pictures, lines = {}, [HEADER]
    for person in range(N_PEOPLE):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
        face = small.resize((112, 112), Image.Resampling.NEAREST)
        for number in (1, 2):
            factor = complex(rng.uniform(0.8, 1.2) * np.exp(1j * rng.uniform(-0.5, 0.5)))
            shift = complex(*rng.uniform(75, 135, 2)) - factor * (55.5 + 55.5j)
            back, at = 1 / factor, -shift / factor
            noise = Image.fromarray(rng.integers(0, 256, (210, 210, 3)).astype(np.uint8))
            matrix = (back.real, -back.imag, at.real, back.imag, back.real, at.imag)
            turned, inside = (
                one.transform((210, 210), Image.Transform.AFFINE, data=matrix)
                for one in (face, Image.new("L", face.size, 255))
            )
            name = f"p{person:02d}_{number:04d}.png"
            pictures[name] = png(np.asarray(Image.composite(turned, noise, inside)))
            points = moved(factor, shift).ravel().round(2).tolist()
            lines.append(",".join([name, *map(str, points)]))
    same = [f"p{person:02d}\t1\t2" for person in range(N_PEOPLE)]
    different = [f"p{person:02d}\t1\tp{(person + 1) % N_PEOPLE:02d}\t2" for person in range(N_PEOPLE)]
    collection = Collection(folder)
    collection.use(projection_model("MatMul"))
    write_folder(collection.source, pictures)
    collection.night()
    (folder / "pairs.txt").write_text("\n".join([str(N_PEOPLE), *same, *different]))
    (folder / "points.csv").write_text("\n".join(lines[:-1]))  # one face has no points
    return collection


def test_both_crops_are_judged_in_one_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collection = faces(tmp_path)
    points, page = tmp_path / "points.csv", tmp_path / "report.html"
    asked = ["--landmarks", str(points), "--id-template", "{name}_{n:04d}.png", "--store"]
    asked += [str(collection.folder / "store"), "--json"]
    command = ["evaluate", "verification", *asked]
    listed = ["--pairs", str(tmp_path / "pairs.txt")]
    assert run([*command, *listed, "-o", str(page)]) == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    found = result["alignment"]
    assert (found["n_images"], found["n_without_landmarks"], found["n_lost"]) == (39, 1, 0)
    assert 0.4 < found["centre_share"] < 0.65
    centre, five = found["centre_crop"], found["five_points"]
    assert (five["n_pairs"], centre["n_pairs"], result["n_pairs"]) == (38, 38, 40)
    assert five["accuracy"]["mean"] > 0.95 > 0.8 > centre["accuracy"]["mean"]
    assert "Centre crop against five points" in page.read_text()
    assert run([*command, *listed, "--threshold-from", listed[1]]) == 0
    again = json.loads(capfd.readouterr().out)["alignment"]
    assert again["five_points"]["held_out"]["mean"] > again["centre_crop"]["held_out"]["mean"]
    assert run(command) == 2
    assert "--landmarks is for a list of pairs" in json.loads(capfd.readouterr().out)["error"]["message"]
    points.write_text(points.read_text().replace("_000", "_100"))
    assert run([*command, *listed]) == 2
    assert "none of the 40 listed images" in json.loads(capfd.readouterr().out)["error"]["message"]
