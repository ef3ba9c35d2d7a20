"""Decode, preprocess and session together against a bare loop over real models and faces."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from pipeline.images.preprocess import load_pixels
from pipeline.model.card import ModelCard
from pipeline.model.file import wrap_model
from pipeline.model.session import EmbeddingSession
from pipeline.values import DecodeLimits, Preprocess


def faces(shared_data: Path, count: int) -> list[bytes]:
    tar_path = sorted((shared_data / "lfw-aligned112").glob("*.tar"))[0]
    with tarfile.open(tar_path) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][:count]
        streams = [tar.extractfile(member) for member in members]
        return [stream.read() for stream in streams if stream is not None]


def wrapped(path: Path, size: int, *, output: str, normalised: bool, imagenet: bool) -> bytes:
    spec = Preprocess(
        size=(size, size),
        resize="shortest",
        scale=1 / 255 if imagenet else 1,
        mean=(0.485, 0.456, 0.406) if imagenet else (0, 0, 0),
        std=(0.229, 0.224, 0.225) if imagenet else (1, 1, 1),
    )
    card = ModelCard(name=path.stem, dim=128, normalised=normalised, license="Apache-2.0", output=output)
    return wrap_model(path.read_bytes(), card, spec)


def ours(model: bytes, images: list[bytes], threads: int = 1) -> np.ndarray:
    with EmbeddingSession(model, threads=threads) as session:
        pixels = [load_pixels(data, session.model.preprocess, DecodeLimits()).pixels for data in images]
        vectors, ok = session.embed(np.stack(pixels))
    assert ok.all()
    return vectors


def bare_loop(path: Path, images: list[bytes]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) for data in images]
    return session.run(None, {"image": np.stack(batch).transpose(0, 3, 1, 2)})[0]


def test_faces_give_the_vectors_of_a_bare_loop(shared_data: Path) -> None:
    path = shared_data / "models" / "mobilefacenet128_l2.onnx"
    images = faces(shared_data, 24)
    vectors = ours(wrapped(path, 112, output="embedding", normalised=True, imagenet=False), images, threads=2)
    np.testing.assert_allclose((vectors * bare_loop(path, images)).sum(1), 1, rtol=0, atol=1e-6)


def test_awkward_third_party_model_gives_the_same_faces(shared_data: Path) -> None:
    folder = shared_data / "models"
    images = faces(shared_data, 8)
    awkward = wrapped(folder / "MobileFaceNet.onnx", 112, output="output0", normalised=False, imagenet=True)
    with EmbeddingSession(awkward) as session:
        assert "fixed at 1" in session.notes[0]
    cosine = (ours(awkward, images) * bare_loop(folder / "mobilefacenet128_l2.onnx", images)).sum(1)
    assert cosine.min() > 0.99999


@pytest.mark.parametrize(("name", "size"), [("mobilefacenet128_l2", 112), ("mobilenet_v2_pca128_l2", 224)])
def test_real_model_batches_and_threads_change_no_byte(shared_data: Path, name: str, size: int) -> None:
    path = shared_data / "models" / f"{name}.onnx"
    model = wrapped(path, size, output="embedding", normalised=True, imagenet=False)
    images = faces(shared_data, 9)
    alone = np.concatenate([ours(model, [data]) for data in images])
    assert ours(model, images, threads=3).tobytes() == alone.tobytes()


@pytest.mark.parametrize(("draft", "least"), [(2, 0.998), (3, 0.9995)])
def test_draft_changes_vectors_of_real_models_no_more_than_the_docs_say(
    draft: int, least: float, shared_data: Path
) -> None:
    """Pictures of 3 x 3 photos, so that there is detail at full size."""
    files = sorted((shared_data / "grocery").rglob("*.jpg"))[::40][:54]
    images = []
    for start in range(0, len(files) - 8, 9):
        picture = Image.new("RGB", (1044, 1044))
        for number, file in enumerate(files[start : start + 9]):
            photo = Image.open(file).convert("RGB").resize((348, 348))
            picture.paste(photo, (number % 3 * 348, number // 3 * 348))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    for name, size in (("mobilefacenet128_l2", 112), ("mobilenet_v2_pca128_l2", 224)):
        model = wrapped(
            shared_data / "models" / f"{name}.onnx", size, output="embedding", normalised=True, imagenet=False
        )
        with EmbeddingSession(model) as session:
            spec = session.model.preprocess
            whole, drafted = (
                session.embed(np.stack([load_pixels(data, s, DecodeLimits()).pixels for data in images]))[0]
                for s in (spec, replace(spec, draft=draft))
            )
        assert (whole * drafted).sum(1).min() >= least
