"""Model files: what is refused and in which words, what wrapping adds, and what the model id depends on."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import ModelError
from pipeline.model.card import (
    MODEL_KEY,
    PREPROCESS_KEY,
    ModelCard,
    card_from_metadata,
    card_from_values,
    preprocess_from_values,
    to_metadata,
)
from pipeline.model.file import inspect_graph, output_dim, read_model, wrap_model
from tests.support import models


def refusal(data: bytes) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(data, "m.onnx")
    assert caught.value.exit_code == 2
    return caught.value


def edited(data: bytes, **fields: object) -> bytes:
    proto = onnx.load_model_from_string(data)
    for name, value in fields.items():
        setattr(proto, name, value)
    return bytes(proto.SerializeToString())


def with_keys(**metadata: str) -> bytes:
    proto = onnx.load_model_from_string(models.bare_pool())
    helper.set_model_props(proto, {key.replace("_", "."): text for key, text in metadata.items()})
    return bytes(proto.SerializeToString())


def test_read_model_wrapped_says_what_it_needs() -> None:
    model = read_model(models.pool_model(), "m.onnx")
    assert model.preprocess == models.PLAIN
    assert (model.input_name, model.output_name, model.static_batch) == ("image", "embedding", None)
    assert model.card.dim == 3
    assert len(model.card.source_sha256) == len(model.model_id) == 64


def test_metadata_round_trip_keeps_both_values() -> None:
    card = models.card().model_copy(update={"compatible_with": ("a", "b"), "train_data": "ü"})
    spec = replace(models.PLAIN, mean=(0.1, 0.2, 0.3), align="arcface5", layout="NHWC")
    assert card_from_metadata(to_metadata(card, spec), "m") == (card, spec)


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"hello, I am a text file", bytes(range(256)) * 9])
def test_read_model_random_bytes_are_refused(data: bytes) -> None:
    assert "not an ONNX model" in refusal(data).message


def test_read_model_truncated_anywhere_is_refused() -> None:
    data = models.pool_model()
    for cut in range(1, len(data), 7):
        refusal(data[:cut])


def test_read_model_without_metadata_names_the_command() -> None:
    error = refusal(models.bare_pool())
    assert "does not say how it wants its input" in error.message
    assert error.fix.startswith("bitsieve model wrap m.onnx -o m.wrapped.onnx --name m --size 4 --resize")
    assert "--output" not in error.fix
    assert "--output embedding|logits" in refusal(models.two_output_bare()).fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"schema": 2}', "schema"),
        (
            '{"size": [4, 4], "resize": "squash", "scale": 1, "mean": [0,0,0], "std": [1,1,1], "hue": 3}',
            "hue",
        ),
        ('{"size": [4, 4], "resize": "squash", "scale": 1, "mean": [0,0,0], "std": [1,1,0]}', "std"),
        ('{"size": [4, 4], "resize": "stretch", "scale": 1, "mean": [0,0,0], "std": [1,1,1]}', "squash"),
    ],
)
def test_read_model_preprocess_not_understood_is_refused(text: str, words: str) -> None:
    card = to_metadata(models.card(), models.PLAIN)[MODEL_KEY]
    assert words in refusal(with_keys(bitsieve_preprocess=text, bitsieve_model=card)).message


def test_read_model_card_unknown_key_or_missing_card_is_refused() -> None:
    texts = to_metadata(models.card(), models.PLAIN)
    wrong = texts[MODEL_KEY].replace('"metric":"l2"', '"metric":"cosine"')
    assert (
        "metric"
        in refusal(with_keys(bitsieve_preprocess=texts[PREPROCESS_KEY], bitsieve_model=wrong)).message
    )
    assert MODEL_KEY in refusal(with_keys(bitsieve_preprocess=texts[PREPROCESS_KEY])).message


def test_read_model_external_data_is_refused_wherever_it_hides() -> None:
    bare = models.graph_bytes(models.pool_nodes(), weights={"w": np.zeros(2, dtype=np.float32)})
    for path in ("../../etc/passwd", "/etc/passwd", "weights.bin"):
        proto = onnx.load_model_from_string(bare)
        tensor = proto.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=path)
        assert "another file" in refusal(proto.SerializeToString()).message
        hidden = onnx.load_model_from_string(models.bare_pool())
        hidden.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
        assert "another file" in refusal(hidden.SerializeToString()).message


def test_read_model_custom_operator_is_refused_by_name() -> None:
    nodes = [helper.make_node("Evil", ["image"], ["embedding"], domain="com.example")]
    error = refusal(models.graph_bytes(nodes))
    assert "com.example" in error.message
    assert "Evil" in error.message


@pytest.mark.parametrize("shape", [("N", 48), ("N", 3, 4), ("N", 3, 4, 4, 1)])
def test_wrap_model_wrong_rank_is_refused(shape: tuple[int | str, ...]) -> None:
    nodes = [helper.make_node("Flatten", ["image"], ["embedding"], axis=1)]
    with pytest.raises(ModelError, match="4 axes"):
        wrap_model(models.graph_bytes(nodes, input_shape=shape), models.card(), models.PLAIN)


def test_wrap_model_second_input_is_refused() -> None:
    proto = onnx.load_model_from_string(models.bare_pool())
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="image, mask"):
        wrap_model(proto.SerializeToString(), models.card(), models.PLAIN)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(models.PLAIN, size=(5, 4)), r"\[N, 3, 5, 4\]"),
        (replace(models.PLAIN, layout="NHWC"), "NHWC"),
        (replace(models.PLAIN, dtype="uint8"), "uint8"),
    ],
)
def test_wrap_model_card_that_contradicts_the_input_is_refused(spec: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        wrap_model(models.bare_pool(), models.card(), spec)  # type: ignore[arg-type]


def test_wrap_model_output_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[N, 5\].*\[N, 3\]"):
        wrap_model(models.bare_pool(), models.card(dim=5), models.PLAIN)
    flat = models.graph_bytes(
        [helper.make_node("Relu", ["image"], ["embedding"])], output_shape=("N", 3, 4, 4)
    )
    with pytest.raises(ModelError, match=r"\[N, 3, 4, 4\]"):
        wrap_model(flat, models.card(), models.PLAIN)


def test_wrap_model_unknown_output_names_what_there_is() -> None:
    with pytest.raises(ModelError, match="embedding, logits"):
        wrap_model(models.two_output_bare(), models.card(), models.PLAIN, output="nope")


def test_wrap_model_keeps_all_outputs_and_other_metadata() -> None:
    proto = onnx.load_model_from_string(models.two_output_bare())
    helper.set_model_props(proto, {"theirs": "kept"})
    wrapped = wrap_model(proto.SerializeToString(), models.card(), models.PLAIN, output="logits")
    facts = inspect_graph(wrapped, "m")
    assert [tensor.name for tensor in facts.outputs] == ["embedding", "logits"]
    assert facts.metadata["theirs"] == "kept"
    assert read_model(wrapped, "m").output_name == "logits"


def test_model_id_ignores_names_licence_and_producer() -> None:
    first = read_model(models.pool_model(), "a").model_id
    assert read_model(models.pool_model(), "b").model_id == first
    other = ModelCard(name="other", dim=3, normalised=False, license="MIT", output="embedding", version="9")
    assert read_model(wrap_model(models.bare_pool(), other, models.PLAIN), "a").model_id == first
    again = wrap_model(models.pool_model(), models.card(), models.PLAIN)
    assert read_model(again, "a").model_id == first
    texts = edited(
        models.pool_model(), producer_name="x", producer_version="1", doc_string="d", model_version=4
    )
    proto = onnx.load_model_from_string(texts)
    proto.graph.name = "renamed"
    proto.graph.doc_string = proto.graph.node[0].doc_string = "text"
    assert read_model(proto.SerializeToString(), "a").model_id == first


def test_model_id_follows_all_that_decides_a_vector() -> None:
    bare = models.two_output_bare()
    weighted = models.projection_model("Gemm")
    proto = onnx.load_model_from_string(weighted)
    values = bytearray(proto.graph.initializer[0].raw_data)
    values[0] ^= 1
    proto.graph.initializer[0].raw_data = bytes(values)
    files = [
        wrap_model(bare, models.card(), models.PLAIN, output="embedding"),
        wrap_model(bare, models.card(), models.PLAIN, output="logits"),
        wrap_model(bare, models.card(normalised=True), models.PLAIN, output="embedding"),
        wrap_model(bare, models.card(), replace(models.PLAIN, mean=(1, 0, 0)), output="embedding"),
        wrap_model(bare, models.card(), replace(models.PLAIN, draft=2), output="embedding"),
        models.pool_model(),
        weighted,
        proto.SerializeToString(),
    ]
    assert len({read_model(data, "m").model_id for data in files}) == len(files)


def test_model_id_same_resolved_preprocessing_is_the_same() -> None:
    implied = replace(models.PLAIN, resize="shortest")
    spelled = replace(implied, resize_to=4)
    ids = {
        read_model(wrap_model(models.bare_pool(), models.card(), spec), "m").model_id
        for spec in (implied, spelled)
    }
    assert len(ids) == 1


def test_output_dim_is_inferred_where_it_is_not_stated() -> None:
    assert output_dim(models.bare_pool(output_shape=("N", "D")), "embedding", "m") == 3


def test_values_that_make_no_sense_are_model_errors() -> None:
    with pytest.raises(ModelError, match="resize"):
        preprocess_from_values(
            {"size": (4, 4), "resize": "big", "scale": 1, "mean": (0, 0, 0), "std": (1, 1, 1)}
        )
    with pytest.raises(ModelError, match="dim"):
        card_from_values({"name": "x", "dim": 0, "normalised": True, "license": "MIT", "output": "y"})
