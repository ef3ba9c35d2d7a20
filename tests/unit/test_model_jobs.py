"""``bitsieve model show`` and ``model wrap`` as a user and a script meet them."""

import json
from pathlib import Path

import pytest

from jobs.model import app
from pipeline.errors import ModelError, UsageError
from pipeline.model.file import read_model
from tests.support import models

CARD = ["--name", "tiny", "--size", "4", "--resize", "squash", "--scale", "1", "--mean", "0,0,0"]
CARD += ["--std", "1,1,1", "--license", "CC0-1.0"]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    app([*args, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "bare.onnx"
    path.write_bytes(models.bare_pool())
    return path


def test_model_wrap_then_show_agree(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    wrapped = run(capsys, "wrap", str(bare), "-o", str(out), *CARD)
    shown = run(capsys, "show", str(out))
    assert wrapped["model_id"] == shown["model_id"] == read_model(out.read_bytes(), "out").model_id
    assert wrapped["probe"]["dim"] == 3  # type: ignore[index]
    assert shown["model"]["license"] == "CC0-1.0"  # type: ignore[index]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.onnx", "out.onnx"]


def test_model_wrap_does_not_overwrite_without_force(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bare.read_bytes()
    with pytest.raises(UsageError, match="exists") as caught:
        run(capsys, "wrap", str(bare), "-o", str(bare), *CARD)
    assert "--force" in caught.value.fix
    assert bare.read_bytes() == before
    run(capsys, "wrap", str(bare), "-o", str(bare), *CARD, "--force")
    assert read_model(bare.read_bytes(), "bare").card.name == "tiny"


def test_model_wrap_failure_writes_nothing(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(ModelError, match="length"):
        run(capsys, "wrap", str(bare), "-o", str(out), *CARD, "--normalised")
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--size", "4x4x4"), ("--size", "-4"), ("--mean", "0,0"), ("--std", "a,b,c"), ("--resize", "big")],
)
def test_model_wrap_bad_value_is_named(
    option: str, value: str, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=option.removeprefix("--")):
        run(capsys, "wrap", str(bare), "-o", str(tmp_path / "o.onnx"), *CARD, option, value)


def test_model_wrap_several_outputs_must_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "two.onnx", tmp_path / "out.onnx"
    source.write_bytes(models.two_output_bare())
    with pytest.raises(ModelError, match="embedding, logits"):
        run(capsys, "wrap", str(source), "-o", str(out), *CARD)
    result = run(capsys, "wrap", str(source), "-o", str(out), *CARD, "--output", "logits")
    assert result["model"]["output"] == "logits"  # type: ignore[index]


def test_model_wrap_reads_layout_and_dtype_from_the_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "bytes.onnx", tmp_path / "out.onnx"
    source.write_bytes(models.byte_input_model())
    result = run(capsys, "wrap", str(source), "-o", str(out), *CARD)
    spec = result["preprocess"]
    assert (spec["layout"], spec["dtype"]) == ("NHWC", "uint8")  # type: ignore[index]


def test_model_show_bare_or_missing_file_is_refused(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as caught:
        run(capsys, "show", str(bare))
    assert caught.value.fix.startswith(f"bitsieve model wrap {bare}")
    with pytest.raises(ModelError, match="No such file"):
        run(capsys, "show", str(bare.with_name("gone.onnx")))


def test_model_show_for_people_names_the_used_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.pool_model())
    app(["show", str(path)], standalone_mode=False)
    assert "embedding [N, 3]  (used)" in capsys.readouterr().out
