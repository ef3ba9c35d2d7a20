"""What is known of a model file without reading it again, and what it takes to read one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.model.described import Model, from_json, remembered, to_json
from pipeline.model.file import read_model
from pipeline.model.probe import read_in_child
from tests.support import models

MODELS = [models.pool_model(), models.fixed_batch_model(4), models.byte_input_model()]


def never() -> Model:
    raise AssertionError("the file was read though it is known")


def reader(data: bytes) -> Callable[[], Model]:
    return lambda: read_model(data, "tiny")


@pytest.mark.parametrize("data", MODELS)
def test_model_comes_back_from_its_json_as_it_was(data: bytes) -> None:
    model = read_model(data, "tiny")
    numbers = replace(models.PLAIN, scale=1 / 255, mean=(0.1, 1e-7, 3.0))
    odd = replace(model, preprocess=numbers)
    assert from_json(to_json(model)) == model
    assert from_json(to_json(odd)) == odd


def test_file_that_is_known_is_not_read_again_and_another_one_is(tmp_path: Path) -> None:
    first, second = MODELS[:2]
    model = remembered(first, tmp_path / "cache", reader(first))
    assert remembered(first, tmp_path / "cache", never) == model
    assert remembered(second, tmp_path / "cache", reader(second)) == read_model(second, "tiny") != model


def test_broken_entry_is_as_good_as_none(tmp_path: Path) -> None:
    data = MODELS[0]
    model = remembered(data, tmp_path, reader(data))
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    for broken in (b"", b"{}", b"\xff", whole[:-1], whole.replace(b'"dim":3', b'"dim":0')):
        entry.write_bytes(broken)
        assert remembered(data, tmp_path, reader(data)) == model
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_folder_that_cannot_be_written_to_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    data = MODELS[0]
    assert remembered(data, tmp_path / "cache", reader(data)) == read_model(data, "tiny")


def test_child_reads_what_this_process_would() -> None:
    assert read_in_child(MODELS[0], "tiny") == read_model(MODELS[0], "tiny")
    with pytest.raises(ModelError) as here:
        read_model(models.bare_pool(), "bare.onnx")
    with pytest.raises(ModelError) as there:
        read_in_child(models.bare_pool(), "bare.onnx")
    assert (there.value.message, there.value.fix) == (here.value.message, here.value.fix)
