"""What is exported serves another engine as it serves ours; the import command ends as a night does."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient, models

from jobs.bench.index.grid import peers
from jobs.bench.peers_environment import environment
from jobs.run import default_cache
from pipeline.exchange.changes import changes_since
from pipeline.exchange.embeddings import EmbeddingsSpec, open_embeddings
from pipeline.exchange.rows_file import write_changes, write_rows
from pipeline.exchange.stable_ids import stable_ids
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import snapshot as published
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from tests.support.command import Command
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = pytest.mark.integration

_K = 10
_THEIRS = """
import json, sys
import lancedb
import pyarrow.compute as pc
import pyarrow.parquet as pq

folder, rows, changes, queries, k = sys.argv[1:]
table = lancedb.connect(folder).create_table("images", pq.read_table(rows))

def answers():
    found = []
    for query in pq.read_table(queries)["embedding"].to_pylist():
        search = table.search(query, vector_column_name="embedding").distance_type("l2").limit(int(k))
        answer = search.to_arrow()
        found.append([answer["image_id"].to_pylist(), answer["_distance"].to_pylist()])
    return found

before = answers()
delta = pq.read_table(changes)
upserts = delta.filter(pc.equal(delta["change"], "upsert")).drop_columns("change")
merge = table.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all()
merge.execute(upserts)
gone = delta.filter(pc.equal(delta["change"], "delete"))["image_id"].to_pylist()
table.delete("image_id in (" + ", ".join(f"'{one}'" for one in gone) + ")")
print(json.dumps({"before": before, "after": answers()}))
"""


@pytest.fixture(scope="module")
def lancedb_python() -> str:
    """A Python that has LanceDB, made once and kept in the cache folder, as ``bench index`` makes it."""
    wanted = list(peers(1_000, 64)["lancedb"].requirements)
    made = environment(default_cache(os.environ) / "bench-peers-lancedb", wanted, make=True)
    if made.python is None:
        pytest.skip(f"LanceDB cannot be installed: {made.failure}")
    return made.python


def two_nights(folder: Path) -> tuple[Collection, OpenSnapshot, OpenSnapshot]:
    """300 images; on the second night 20 are gone, 20 have other bytes and 20 are new."""
    collection = Collection(folder)
    write_folder(collection.source, {f"{n:03d}.jpg": jpeg(n) for n in range(300)})
    first = collection.night()
    for n in range(20):
        (collection.source / f"{n:03d}.jpg").unlink()
    write_folder(collection.source, {f"{n:03d}.jpg": jpeg(1000 + n) for n in range(20, 40)})
    write_folder(collection.source, {f"new{n}.jpg": jpeg(2000 + n) for n in range(20)})
    return collection, collection.open(first), collection.open(collection.night())


@dataclass(frozen=True)
class Exported:
    """The rows of a first night and the changes of a second one as files, and queries."""

    before: OpenSnapshot
    after: OpenSnapshot
    rows: Path
    changes: Path
    xq_QD: npt.NDArray[np.float32]

    def check(self, theirs: dict[str, list[tuple[list[str], list[float]]]]) -> None:
        """Ids and squared distances of another engine, before and after the changes, are those of ours."""
        for name, snapshot in (("before", self.before), ("after", self.after)):
            ours = snapshot.searcher.search(self.xq_QD, _K, exact=True)
            for ids, distances, (their_ids, their_distances) in zip(
                ours.ids, ours.distances, theirs[name], strict=True
            ):
                np.testing.assert_allclose(distances, their_distances, atol=1e-5)
                near_end = {
                    one for one, far in zip(ids, distances, strict=True) if far < distances[-1] - 1e-5
                }
                assert near_end <= set(their_ids)  # what is not tied for the last place


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    _, before, after = two_nights(folder / "ours")
    rows, changes = folder / "rows.parquet", folder / "changes.parquet"
    write_rows(before, rows, with_attributes=False)
    found = changes_since(before, after, with_attributes=False)
    write_changes(after, found, 1, changes, with_attributes=False)
    return Exported(before=before, after=after, rows=rows, changes=changes, xq_QD=after.vectors[::15])


def test_qdrant_answers_as_we_do_from_exported_rows_and_again_after_exported_changes(
    exported: Exported,
) -> None:
    """Its points have whole numbers as ids: the stable ones that `export --format faiss` uses too."""
    qdrant = QdrantClient(":memory:")
    dim = exported.xq_QD.shape[1]
    vectors = models.VectorParams(size=dim, distance=models.Distance.EUCLID)
    qdrant.create_collection("images", vectors_config=vectors)

    def upsert(table: pa.Table) -> None:
        ids = table["image_id"].to_pylist()
        payloads = [{"image_id": image_id} for image_id in ids]
        points = models.Batch(
            ids=stable_ids(ids).tolist(), vectors=table["embedding"].to_pylist(), payloads=payloads
        )
        qdrant.upsert("images", points=points)

    def answers() -> list[tuple[list[str], list[float]]]:
        found = []
        for x_D in exported.xq_QD:
            points = qdrant.query_points("images", query=x_D.tolist(), limit=_K).points
            images = [point.payload["image_id"] for point in points if point.payload]
            found.append((images, [point.score**2 for point in points]))
        return found

    upsert(pq.read_table(exported.rows))
    before = answers()
    delta = pq.read_table(exported.changes)
    upsert(delta.filter(pc.equal(delta["change"], "upsert")))
    gone = delta.filter(pc.equal(delta["change"], "delete"))["image_id"].to_pylist()
    qdrant.delete("images", points_selector=models.PointIdsList(points=stable_ids(gone).tolist()))
    exported.check({"before": before, "after": answers()})
    assert qdrant.count("images").count == exported.after.content.live_rows


@pytest.mark.timeout(900)  # LanceDB may have to be installed
def test_lancedb_answers_as_we_do_from_exported_rows_and_again_after_exported_changes(
    tmp_path: Path, lancedb_python: str, exported: Exported
) -> None:
    queries = tmp_path / "queries.parquet"
    pq.write_table(pa.table({"embedding": exported.xq_QD.tolist()}), queries)
    files = [tmp_path / "lance", exported.rows, exported.changes, queries]
    done = subprocess.run(
        [lancedb_python, "-c", _THEIRS, *map(str, files), str(_K)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    exported.check(json.loads(done.stdout.splitlines()[-1]))


def test_import_command_makes_the_snapshot_that_embedding_made(tmp_path: Path) -> None:
    collection, _, snapshot = two_nights(tmp_path / "ours")
    rows, theirs = tmp_path / "rows.parquet", tmp_path / "theirs"
    write_rows(snapshot, rows, with_attributes=False)
    flags = ["--source", collection.source, "--store", theirs, "--model", collection.folder / "model.onnx"]
    result = Command(tmp_path / "cache").json("import", rows, *flags)
    assert (result["published"], result["import"]["adopted"], result["images"]["reused"]) == (True, 300, 300)
    assert result["import"]["proof"]["compared"] == 200
    store = LocalStore(theirs)
    again = OpenSnapshot(store=store, manifest=published(store, "main"), cache=tmp_path / "cache")
    write_rows(again, tmp_path / "again.parquet", with_attributes=False)
    tables = [pq.read_table(path).sort_by("image_id") for path in (rows, tmp_path / "again.parquet")]
    assert tables[0].equals(tables[1])


def test_embeddings_on_s3_are_read_by_ranges(
    tmp_path: Path, moto_endpoint: str, make_bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    bucket = make_bucket(moto_endpoint)
    store = open_store(bucket)
    x_ND = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float16)
    names = [f"{number}.jpg" for number in range(len(x_ND))]
    np.save(tmp_path / "x.npy", x_ND)
    store.put("clip/img_emb/img_emb_0.npy", (tmp_path / "x.npy").read_bytes())
    column = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.reshape(-1)), 64)
    pq.write_table(pa.table({"key": names}), tmp_path / "metadata.parquet")
    store.put("clip/metadata/metadata_0.parquet", (tmp_path / "metadata.parquet").read_bytes())
    pq.write_table(pa.table({"id": names, "vector": column}), tmp_path / "v.parquet", row_group_size=9_000)
    store.put("v.parquet", (tmp_path / "v.parquet").read_bytes())
    for uri, n_blocks in ((f"{bucket}/clip", 1), (f"{bucket}/v.parquet", 3)):
        blocks = open_embeddings(EmbeddingsSpec(uri=uri))
        assert len(blocks) == n_blocks
        assert [name for block in blocks for name in block.ids().to_pylist()] == names
        found_ND = np.concatenate([batch_ND for block in blocks for batch_ND in block.vectors(64)])
        np.testing.assert_array_equal(found_ND, x_ND.astype(np.float32))
