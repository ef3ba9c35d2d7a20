"""Import: rows find their images, a sample is proven, and the next night finds everything known."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.import_command import Import
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.errors import BitsieveError, SourceError, UsageError
from pipeline.exchange.embeddings import EmbeddingsFormat, EmbeddingsSpec
from pipeline.exchange.faiss_index import write_faiss
from pipeline.exchange.rows_file import write_rows
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.reembed import reembed_sample
from pipeline.storage.local import LocalStore
from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, tar_of, write_folder, write_tar

N = 40
Vectors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, OpenSnapshot]:
    """A folder of images, embedded the usual way."""
    collection = Collection(tmp_path_factory.mktemp("embedded"))
    write_folder(collection.source, {f"p/{number}.jpg": jpeg(number) for number in range(N)})
    return collection, collection.open(collection.night())


@pytest.fixture
def fresh(embedded: tuple[Collection, OpenSnapshot], tmp_path: Path) -> Collection:
    """The same images, and nothing embedded yet."""
    collection = Collection(tmp_path / "fresh")
    shutil.copytree(embedded[0].source, collection.source, dirs_exist_ok=True)
    return collection


def by_id(snapshot: OpenSnapshot) -> dict[str, np.ndarray]:
    return dict(zip(snapshot.live["image_id"].to_pylist(), snapshot.vectors, strict=True))


def work(path: Path, **more: Any) -> Import:
    spec = {name: more.pop(name) for name in ("format", "ids", "id_column", "vector_column") if name in more}
    return Import(spec=EmbeddingsSpec(uri=str(path), **spec), **more)


def write_vectors(path: Path, vectors: Vectors, kind: str = "list") -> Path:
    values = [np.asarray(vector, dtype=np.float32) for vector in vectors.values()]
    types = {"list": pa.list_(pa.float64()), "halves": pa.list_(pa.float16(), 3)}
    column = pa.array([list(map(types[kind].value_type.to_pandas_dtype(), v)) for v in values], types[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image_path": list(vectors), "vector": column}), path, row_group_size=7)
    return path


def n_embedded(collection: Collection) -> int:
    return sum(collection.pool.n_tasks)


@pytest.mark.parametrize("kind", ["parquet", "faiss"])
def test_what_was_exported_comes_back_bit_for_bit_and_the_next_night_changes_nothing(
    embedded: Any, fresh: Collection, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    (write_rows if kind == "parquet" else write_faiss)(embedded[1], path, with_attributes=False)
    job = work(path, sample=10)
    night = fresh.night(job.bring, embed={"shard_images": 16})
    assert night.published
    expected, found = by_id(embedded[1]), by_id(fresh.open(night))
    assert {i: x.tobytes() for i, x in found.items()} == {i: x.tobytes() for i, x in expected.items()}
    assert (night.manifest.coverage.embedded, night.manifest.coverage.reused) == (0, N)
    assert [part.rows for part in night.manifest.content.parts] == [16, 16, 8]
    assert job.proof is not None
    assert job.proof.compared == 10
    assert job.proof.least_cosine > 0.999999
    again = fresh.night()
    assert (again.published, n_embedded(fresh)) == (False, 0)
    xq_QD = embedded[1].vectors[:5]
    answers = [one.searcher.search(xq_QD, 4).ids for one in (embedded[1], fresh.open(night))]
    assert answers[0] == answers[1]


def test_an_import_that_is_started_again_finds_its_parts(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    write_rows(embedded[1], tmp_path / "rows.parquet", with_attributes=False)
    with pytest.raises(UsageError, match="no image of"):
        fresh.night(work(tmp_path / "rows.parquet").bring, label="nobody")
    assert not any(key.startswith("embeddings/") for key in fresh.files())
    fresh.night(work(tmp_path / "rows.parquet").bring)
    parts = {key for key in fresh.files() if key.startswith("embeddings/")}
    fresh.night(work(tmp_path / "rows.parquet").bring, collection="other")
    assert {key for key in fresh.files() if key.startswith("embeddings/")} == parts


def test_clip_retrieval_folder_with_paths_doubles_strangers_and_useless_rows(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    vectors = by_id(embedded[1])
    rows = [(f"/data/{name}", 3 * vector) for name, vector in vectors.items()]
    rows[4] = (rows[4][0], np.full(3, np.nan))
    rows[5] = (rows[5][0], np.zeros(3))
    rows.append((rows[0][0], -rows[0][1]))  # later, so not used
    rows.append(("/data/p/stranger.jpg", np.ones(3)))
    half = len(rows) // 2
    for number, piece in enumerate((rows[:half], rows[half:])):
        for folder in ("img_emb", "metadata"):
            (tmp_path / "clip" / folder).mkdir(parents=True, exist_ok=True)
        data = np.array([vector for _, vector in piece], dtype=np.float16)
        np.save(tmp_path / f"clip/img_emb/img_emb_{number}.npy", data)
        metadata = pa.table({"image_path": [name for name, _ in piece], "caption": ["a"] * len(piece)})
        pq.write_table(metadata, tmp_path / f"clip/metadata/metadata_{number}.parquet")
    job = work(tmp_path / "clip", strip=("/nowhere/", "/data/"), sample=N)
    night = fresh.night(job.bring)
    assert job.counts == {
        "rows": N + 2,
        "adopted": N - 2,
        "without_image": 1,
        "not_needed": 0,
        "duplicates": 1,
        "unusable": 2,
        "normalised": N - 2,
        "images_without_row": 0,
    }
    assert (night.manifest.coverage.embedded, night.manifest.coverage.reused) == (2, N - 2)
    found = by_id(fresh.open(night))
    assert found.keys() == vectors.keys()
    for name, vector in vectors.items():
        np.testing.assert_allclose(found[name], vector, atol=1e-3)


def test_vectors_of_another_model_are_refused_with_the_worst_and_nothing_is_written(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    vectors = by_id(embedded[1])
    one = "p/7.jpg"
    path = write_vectors(tmp_path / "v.parquet", {**vectors, one: -vectors[one]})
    with pytest.raises(UsageError, match=rf"1 of {N} sampled vectors .* the worst: '{one}' -1\.0000"):
        fresh.night(work(path, sample=N).bring)
    assert not any(key.startswith(("embeddings/", "collections/")) for key in fresh.files())


def test_images_without_a_row_are_embedded_if_they_are_few(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    vectors = dict(list(by_id(embedded[1]).items())[5:])
    path = write_vectors(tmp_path / "v.parquet", vectors, "halves")
    with pytest.raises(SourceError, match=f"5 of {N} images have no row"):
        fresh.night(work(path).bring)
    job = work(path, max_missing=0.2)
    night = fresh.night(job.bring)
    assert (night.manifest.coverage.embedded, night.manifest.coverage.reused) == (5, N - 5)
    later = work(path)
    assert not fresh.night(later.bring).published
    assert later.counts["not_needed"] == N - 5


def test_an_image_that_was_changed_and_one_that_cannot_be_decoded_are_no_proof(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    path = write_vectors(tmp_path / "v.parquet", by_id(embedded[1]))
    write_folder(fresh.source, {f"p/{number}.jpg": GARBAGE for number in range(N - 10)})
    with pytest.raises(UsageError, match=f"only 10 of {N} sampled images"):
        fresh.night(work(path, sample=N).bring)
    write_folder(fresh.source, {"p/39.jpg": jpeg(1039)})
    with pytest.raises(UsageError, match="1 of 10 sampled vectors"):
        fresh.night(work(path, sample=N).bring)


def test_verify_reads_imported_images_and_asks_only_for_what_was_proven(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    vectors = {name: x_D + rng.normal(size=3) * 0.02 for name, x_D in by_id(embedded[1]).items()}
    path = write_vectors(tmp_path / "v.parquet", vectors)
    snapshot = fresh.open(fresh.night(work(path, least_cosine=0.99, sample=N).bring))
    session = EmbeddingSession(fresh.model)
    spec = SourceSpec(uri=str(fresh.source), format=SourceFormat.PREFIX)
    again = reembed_sample(snapshot, session, LocalStore(fresh.source), spec, N, 0)
    assert (again.compared, again.findings) == (N, ())
    assert again.least_cosine is not None
    assert 0.99 <= again.least_cosine < 0.9999


def test_digests_are_known_where_versions_are_digests(embedded: Any, tmp_path: Path) -> None:
    collection = Collection(tmp_path)
    write_tar(collection.source / "a.tar", tar_of(*range(6)))
    vectors = {f"{number:04d}": by_id(embedded[1])[f"p/{number}.jpg"] for number in range(6)}
    night = collection.night(work(write_vectors(tmp_path / "v.parquet", vectors)).bring)
    live = collection.open(night).live
    assert live["content_digest"].to_pylist() == live["version"].to_pylist()
    assert night.manifest.coverage.reused == 6


def test_foreign_indexes_with_ids_of_their_own_or_beside_them(
    embedded: Any, fresh: Collection, tmp_path: Path
) -> None:
    names, x_ND = list(by_id(embedded[1])), np.stack(list(by_id(embedded[1]).values()))
    flat = faiss.IndexFlatIP(3)
    mapped = faiss.IndexIDMap2(flat)
    mapped.add_with_ids(x_ND, 7 * np.arange(N))
    quantiser = faiss.IndexFlatL2(3)
    quantiser.add(x_ND[:5])
    lists = faiss.IndexIVFScalarQuantizer(quantiser, 3, 5, faiss.ScalarQuantizer.QT_fp16)
    lists.train(x_ND)
    lists.add(x_ND)
    pq.write_table(pa.table({"faiss_id": 7 * np.arange(N), "name": names}), tmp_path / "mapped.parquet")
    pq.write_table(pa.table({"name": names}), tmp_path / "rows.parquet")
    for index, ids in ((mapped, "mapped"), (lists, "rows")):
        faiss.write_index(index, str(tmp_path / f"{ids}.index"))
        job = work(tmp_path / f"{ids}.index", ids=str(tmp_path / f"{ids}.parquet"), sample=N)
        night = fresh.night(job.bring, collection=ids)
        assert night.manifest.coverage.reused == N
    with pytest.raises(SourceError, match=r"'0', the source's first 'p/0\.jpg'"):
        fresh.night(work(tmp_path / "mapped.index").bring, collection="third")
    with pytest.raises(SourceError, match="has 40 ids and no column 'faiss_id'"):
        fresh.night(work(tmp_path / "mapped.index", ids=str(tmp_path / "rows.parquet")).bring, collection="x")


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("has vectors of 2 dimensions, the model gives 3", lambda at: write_ids(at, [[1.0, 2.0]] * N)),
        ("is string, not lists of floating-point numbers", lambda at: write_ids(at, ["x"] * N)),
        ("has no vector column 'embedding' or", lambda at: pq.write_table(pa.table({"id": ["a"]}), at)),
        ("is not a readable Parquet file", lambda at: at.write_bytes(b"hello")),
        ("there are no embeddings at", lambda at: None),
        ("Faiss does not open", lambda at: at.with_suffix(".faiss").write_bytes(b"IwFlhello")),
        ("there without its partner", lambda at: write_folder(at, {"img_emb/img_emb_0.npy": b"x"})),
    ],
)
def test_what_is_no_embeddings_is_refused_by_name(
    fresh: Collection, tmp_path: Path, said: str, make: Any
) -> None:
    path = tmp_path / "v.parquet"
    make(path)
    found = path.with_suffix(".faiss") if said.startswith("Faiss") else path
    with pytest.raises(BitsieveError, match=said):
        fresh.night(work(found).bring)


def write_ids(path: Path, values: list[Any]) -> None:
    pq.write_table(pa.table({"id": [f"p/{n}.jpg" for n in range(N)], "embedding": values}), path)


def test_a_file_of_ids_goes_with_an_index_only(fresh: Collection, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="goes with a Faiss index"):
        fresh.night(work(tmp_path / "v.parquet", ids="x", format=EmbeddingsFormat.PARQUET).bring)
