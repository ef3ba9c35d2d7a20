"""Vectors of real pictures: the folders and models that `BITSIEVE_DATA` holds, embedded once and kept.

They are no part of bitsieve. Their place is `BITSIEVE_DATA`, or shared/data beside the checkout.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import jobs
from jobs.output import say
from pipeline.embed.query import embed_queries
from pipeline.errors import SourceError
from pipeline.model.card import ModelCard
from pipeline.model.file import wrap_model
from pipeline.model.session import EmbeddingSession
from pipeline.values import Preprocess

_BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    folder: str
    model: str
    output: str
    dim: int
    preprocess: Preprocess


def _square(side_px: int, scale: float, mean: float) -> Preprocess:
    return Preprocess(
        size=(side_px, side_px), resize="squash", scale=scale, mean=(mean,) * 3, std=(1, 1, 1), layout="NCHW"
    )


_SETS = {
    "lfw": _Set(
        folder="lfw-aligned112",
        model="mobilefacenet128_l2.onnx",
        output="embedding",
        dim=128,
        preprocess=_square(112, 1, 0),
    ),
    "grocery": _Set(
        folder="grocery",
        model="mobilenet_v2_embedding1280_logits.onnx",
        output="features",
        dim=1280,
        preprocess=_square(224, 1 / 127.5, 1),
    ),
}
NAMED = tuple(_SETS)


def embedded_vectors(name: str, cache: Path) -> npt.NDArray[np.float32]:
    """Unit vectors of every picture of the set that has one, float32 [N, D].

    Raises:
        SourceError: its pictures or its model are not there.
    """
    kept = cache / "bench-data" / f"{name}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, _embedded(name))
    vectors_ND: npt.NDArray[np.float32] = np.load(kept)
    return vectors_ND


def _embedded(name: str) -> npt.NDArray[np.float32]:
    wanted, place = _SETS[name], _place()
    model, folder = place / "models" / wanted.model, place / wanted.folder
    if not model.is_file() or not folder.is_dir():
        raise SourceError(
            f"{model} or {folder} is not there",
            fix="set BITSIEVE_DATA to the folder that holds both, or use --data identity",
        )
    card = ModelCard(
        name=name, dim=wanted.dim, normalised=False, license="see its source", output=wanted.output
    )
    session = EmbeddingSession(
        wrap_model(model.read_bytes(), card, wanted.preprocess, wanted.output), where=str(model)
    )
    say(f"bench: embedding the pictures in {folder}, once")
    found: list[npt.NDArray[np.float32]] = []
    batch: list[Any] = []
    for picture in _pictures(folder):
        batch.append(picture)
        if len(batch) == _BATCH:
            found.append(_vectors(session, batch))
            batch = []
    return np.concatenate([*found, _vectors(session, batch)])


def _vectors(session: EmbeddingSession, batch: list[Any]) -> npt.NDArray[np.float32]:
    embedded = embed_queries(session, batch)
    good = [reason is None for reason in embedded.reasons]
    return embedded.xq_QD[np.array(good, dtype=np.bool_)]


def _pictures(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for info in tar:
                    file = tar.extractfile(info) if info.name.endswith(".jpg") else None
                    if file is not None:
                        yield file.read()
        elif path.suffix in (".jpg", ".png"):
            yield path.read_bytes()


def _place() -> Path:
    beside = Path(next(iter(jobs.__path__))).parent.parent / "shared" / "data"
    return Path(os.environ.get("BITSIEVE_DATA", beside))
