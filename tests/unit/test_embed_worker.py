"""The embedding worker: rows and rejects are what was listed, and the bytes depend on nothing else."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.catalog.plan import ImageShard, plan_shards
from pipeline.catalog.source import SourceSpec
from pipeline.embed.table import EmbeddedImage, part_schema, read_model_id, read_vectors, rejects_bytes
from pipeline.embed.task import PART, REJECTS, EmbedSettings, embed_key
from pipeline.embed.worker import EmbedWorker
from pipeline.errors import ObjectMissing, StorageError
from pipeline.images.preprocess import load_pixels
from pipeline.model.file import read_model
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.receipts import Receipt, fetch
from pipeline.values import DecodeLimits, Reject, RejectReason
from tests.support import models
from tests.support.parts import part_bytes
from tests.support.tiny_catalogs import GARBAGE, black_jpeg, jpeg, list_of, write_folder, write_tar

BAD = {"empty.jpg": b"", "page.jpg": GARBAGE, "cut.jpg": jpeg(3)[:250], "black.jpg": black_jpeg()}


class Bench:
    """A source, a store with a model, and workers over them."""

    def __init__(self, folder: Path, model: bytes) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.model_id = read_model(model, "tiny").model_id
        self.store = LocalStore(folder / "store")
        self.store.put(layout.model(self.model_id), model)

    def settings(self, **changes: object) -> EmbedSettings:
        plain = EmbedSettings(
            store_uri=str(self.folder / "store"),
            source=SourceSpec(uri=str(self.source)),
            model_id=self.model_id,
            cache=self.folder / "cache",
        )
        return replace(plain, **changes)  # type: ignore[arg-type]

    def shard(self) -> ImageShard:
        (shard,) = plan_shards(list_of(self.source, self.folder / "listing").images())
        return shard

    def embed(self, **changes: object) -> Receipt:
        return EmbedWorker(self.settings(**changes)).run(self.shard())

    def elsewhere(self, name: str) -> "Bench":
        """The same source with a store of its own."""
        other = Bench(self.folder / name, self.store.get(layout.model(self.model_id)))
        other.source = self.source
        return other

    def rows(self, receipt: Receipt, role: str = PART) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = pq.read_table(
            fetch(self.store, receipt.files[role], self.folder / "cache")
        ).to_pylist()
        return rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, models.pool_model())
    write_folder(made.source, {f"{n:03d}.jpg": jpeg(n) for n in range(23)} | BAD)
    return made


def digests(receipt: Receipt) -> dict[str, str]:
    return {role: file.sha256 for role, file in receipt.files.items()}


def test_worker_rows_and_rejects_are_what_was_listed(bench: Bench) -> None:
    receipt = bench.embed()
    rows, rejects = bench.rows(receipt), bench.rows(receipt, REJECTS)
    listed = bench.shard().table.to_pylist()
    assert [row["image_id"] for row in rows] == [f"{n:03d}.jpg" for n in range(23)]
    assert {str(row["image_id"]): row["reason"] for row in rejects} == {
        "black.jpg": "nonfinite_embedding",
        "cut.jpg": "truncated",
        "empty.jpg": "empty",
        "page.jpg": "unidentified",
    }
    assert sorted(str(row["image_id"]) for row in [*rows, *rejects]) == [row["image_id"] for row in listed]
    assert {(r["image_id"], r["version"], r["locator"]) for r in [*rows, *rejects]} == {
        (r["image_id"], r["version"], r["locator"]) for r in listed
    }
    assert receipt.counts == {
        "rows": 23, "rejected": 4, "rejected.empty": 1, "rejected.nonfinite_embedding": 1,
        "rejected.truncated": 1, "rejected.unidentified": 1,
    }  # fmt: skip
    assert all(row["detail"] for row in rejects)
    assert {str(r["image_id"]): r["size_bytes"] for r in rejects} == {
        name: len(data) for name, data in BAD.items()
    }


def test_worker_vectors_are_the_models_of_unit_length(bench: Bench) -> None:
    receipt = bench.embed()
    for number, row in enumerate(bench.rows(receipt)):
        pixels = load_pixels(jpeg(number), models.PLAIN, DecodeLimits()).pixels
        mean_C = pixels.astype(np.float64).mean(axis=(1, 2))
        np.testing.assert_allclose(row["embedding"], mean_C / np.linalg.norm(mean_C), atol=1e-5)
        assert row["content_digest"] == hashlib.sha256(jpeg(number)).hexdigest()
        assert (row["width"], row["height"]) == (8, 8)
    assert 1 - 1e-6 < receipt.facts["norm_min"] <= receipt.facts["norm_max"] < 1 + 1e-6


def test_worker_part_has_the_documented_schema_and_metadata(bench: Bench) -> None:
    path = fetch(bench.store, bench.embed().files[PART], bench.folder)
    schema = pq.read_schema(path)
    assert schema.remove_metadata() == part_schema(3)
    assert sorted(schema.metadata) == [
        b"bitsieve.model_id",
        b"bitsieve.preprocess",
        b"bitsieve.source_digest",
        b"bitsieve.stage",
    ]
    assert json.loads(schema.metadata[b"bitsieve.preprocess"])["layout"] == "NCHW"
    assert read_model_id(path) == bench.model_id
    assert read_vectors(path).shape == (23, 3)


@pytest.mark.parametrize("kind", ["pool", "projection", "fixed batch"])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (2, 3), (7, 2), (64, 4)])
def test_worker_batch_size_and_threads_change_no_byte(
    kind: str, batch_size: int, threads: int, tmp_path: Path
) -> None:
    model = {
        "pool": models.pool_model,
        "projection": lambda: models.projection_model("MLP"),
        "fixed batch": lambda: models.fixed_batch_model(3),
    }[kind]()
    one = Bench(tmp_path, model)
    write_folder(one.source, {f"{n:03d}.jpg": jpeg(n) for n in range(17)} | BAD)
    base = one.embed()
    other = one.elsewhere("other").embed(batch_size=batch_size, threads=threads, memory_budget_bytes=3000)
    assert digests(other) == digests(base)
    assert other.key == base.key
    assert other.counts == base.counts


def test_worker_careful_run_gives_the_same_bytes(bench: Bench) -> None:
    careful = EmbedWorker(bench.elsewhere("other").settings()).run_carefully(bench.shard())
    assert digests(careful) == digests(bench.embed())


def test_worker_same_bytes_under_two_ids_are_two_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path, models.pool_model())
    write_folder(bench.source, {"a": jpeg(1), "b": jpeg(2), "c": jpeg(1), "d": GARBAGE, "e": GARBAGE})
    receipt = bench.embed(batch_size=1)
    rows = {str(row["image_id"]): row for row in bench.rows(receipt)}
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"]["embedding"] == rows["c"]["embedding"] != rows["b"]["embedding"]
    assert rows["a"]["content_digest"] == rows["c"]["content_digest"]
    assert [row["reason"] for row in bench.rows(receipt, REJECTS)] == ["unidentified"] * 2


def test_worker_infinite_vector_is_a_reject_its_neighbours_are_not(tmp_path: Path) -> None:
    sevens = io.BytesIO()
    Image.new("RGB", (8, 8), (7, 7, 7)).save(sevens, "PNG")
    bench = Bench(tmp_path, models.inverse_model())
    write_folder(bench.source, {"a": jpeg(1), "b": sevens.getvalue(), "c": jpeg(2)})
    receipt = bench.embed()
    assert [row["image_id"] for row in bench.rows(receipt)] == ["a", "c"]
    assert [row["reason"] for row in bench.rows(receipt, REJECTS)] == ["nonfinite_embedding"]


def test_worker_only_rejects_write_no_part(tmp_path: Path) -> None:
    bench = Bench(tmp_path, models.pool_model())
    write_folder(bench.source, BAD)
    receipt = bench.embed()
    assert set(receipt.files) == {REJECTS}
    assert receipt.counts["rows"] == 0


def test_worker_second_run_is_free_and_says_the_same(bench: Bench) -> None:
    first = bench.embed()
    before = {item.key for item in bench.store.list_objects()}
    shard = bench.shard()
    bench.source.rename(bench.folder / "gone")  # nothing is read again
    assert EmbedWorker(bench.settings(batch_size=3)).run(shard) == first
    assert {item.key for item in bench.store.list_objects()} == before


def test_worker_that_wakes_up_late_changes_nothing(bench: Bench) -> None:
    shard = bench.shard()
    first = EmbedWorker(bench.settings()).run(shard)
    receipt_key = layout.receipt(first.stage, first.key)
    kept = bench.store.get(receipt_key)
    bench.store.delete(receipt_key)  # as the late one saw the store when it began

    class Overtaken(LocalStore):
        """The first receipt lands while the late worker is at work."""

        def create(self, key: str, data: bytes) -> bool:
            if key == receipt_key:
                super().create(key, kept)
            return super().create(key, data)

    late = EmbedWorker(bench.settings())
    late._store = Overtaken(bench.folder / "store")
    assert late.run(shard) == first
    assert bench.store.get(receipt_key) == kept


def test_worker_part_that_is_lost_is_made_again(bench: Bench) -> None:
    first = bench.embed()
    bench.store.delete(first.files[PART].key)
    second = bench.embed()
    assert digests(second) == digests(first)
    assert second.files[PART].key != first.files[PART].key


def test_worker_image_gone_or_changed_since_listing_is_a_reject(bench: Bench) -> None:
    shard = bench.shard()
    (bench.source / "003.jpg").unlink()
    write_folder(bench.source, {"004.jpg": jpeg(104) + b"more"})
    receipt = EmbedWorker(bench.settings()).run(shard)
    reasons = {row["image_id"]: row["reason"] for row in bench.rows(receipt, REJECTS)}
    assert (reasons["003.jpg"], reasons["004.jpg"]) == ("source_missing", "source_changed")
    assert receipt.counts["rows"] == 21


def test_worker_decode_limits_reject_and_are_part_of_the_key(bench: Bench) -> None:
    limits = DecodeLimits(max_side_px=7)
    receipt = bench.embed(limits=limits)
    assert receipt.counts["rejected.bad_dimensions"] == 24
    assert receipt.key != bench.embed().key


def test_worker_store_without_the_model_is_an_error(bench: Bench) -> None:
    bench.store.delete(layout.model(bench.model_id))
    with pytest.raises(ObjectMissing, match="models/"):
        bench.embed()


def test_worker_source_that_fails_writes_no_receipt(bench: Bench) -> None:
    shard = bench.shard()
    worker = EmbedWorker(bench.settings())

    class Down(LocalStore):
        def read(  # type: ignore[override]
            self, key: str, *, most_bytes: int | None = None
        ) -> tuple[object, bytes]:
            if key == "010.jpg":
                raise StorageError("the network is down")
            return super().read(key)

    worker._source = Down(bench.source)
    with pytest.raises(StorageError, match="network"):
        worker.run(shard)
    assert list(bench.store.list_objects("receipts/")) == []


def test_worker_tar_and_folder_of_the_same_images_give_the_same_vectors(tmp_path: Path) -> None:
    folder, tar = (
        Bench(tmp_path / "folder", models.pool_model()),
        Bench(tmp_path / "tar", models.pool_model()),
    )
    write_folder(folder.source, {f"{n:03d}": jpeg(n) for n in range(9)})
    write_tar(tar.source / "a.tar", [(f"{n:03d}.jpg", jpeg(n)) for n in range(9)])
    one, other = folder.rows(folder.embed()), tar.rows(tar.embed())
    assert [row["embedding"] for row in one] == [row["embedding"] for row in other]
    assert [row["image_id"] for row in one] == [row["image_id"] for row in other]


def test_embed_key_depends_on_what_is_computed_only(bench: Bench) -> None:
    shard = bench.shard()
    base = embed_key(shard, bench.settings())
    for decisive in (
        {"provider": "cuda"},
        {"model_id": "other"},
        {"dtype": "float16"},
        {"precision": "tf32"},
        {"limits": DecodeLimits(max_pixels=1)},
    ):
        assert embed_key(shard, bench.settings(**decisive)) != base
    free = bench.settings(batch_size=3, threads=4, memory_budget_bytes=1, store_uri="elsewhere")
    assert embed_key(bench.shard(), free) == base


def test_worker_float16_vectors_are_the_float32_ones_rounded(bench: Bench) -> None:
    whole = read_vectors(fetch(bench.store, bench.embed().files[PART], bench.folder))
    path = fetch(bench.store, bench.embed(dtype="float16").files[PART], bench.folder)
    assert pq.read_schema(path).field("embedding").type.value_type == pa.float16()
    np.testing.assert_array_equal(read_vectors(path), whole.astype(np.float16).astype(np.float32))


def test_worker_repeats_of_settled_images_are_read_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, models.pool_model())
    same = {f"{n:03d}": jpeg(n % 5) for n in range(40)}
    write_folder(bench.source, same | {"x": GARBAGE, "y": jpeg(77), "z": GARBAGE})
    receipt = bench.embed(batch_size=1)
    rows, rejects = bench.rows(receipt), bench.rows(receipt, REJECTS)
    assert [row["image_id"] for row in rows] == [*same, "y"]
    for number, row in enumerate(rows[:40]):
        assert {**row, "image_id": "", "version": "", "locator": ""} == {
            **rows[number % 5], "image_id": "", "version": "", "locator": "",
        }  # fmt: skip
    assert [(row["image_id"], row["reason"]) for row in rejects] == [
        ("x", "unidentified"),
        ("z", "unidentified"),
    ]
    assert rejects[0]["detail"] == rejects[1]["detail"]


def test_part_row_groups_have_a_length_that_the_dimension_decides(tmp_path: Path) -> None:
    image = EmbeddedImage(image_id="a", version="v", content_digest="c", locator="l", width_px=1, height_px=2)
    wide_ND = np.random.default_rng(0).normal(size=(40, 1 << 16)).astype(np.float32)
    file = pq.ParquetFile(io.BytesIO(part_bytes([image] * 40, wide_ND, {})))
    lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert lengths == [16, 16, 8]  # 4 MiB of 65,536 components
    np.testing.assert_array_equal(np.stack(file.read()["embedding"].to_pylist()), wide_ND)


def test_rejects_bytes_keep_every_reason_and_any_text() -> None:
    rejects = [
        Reject(image_id=f"\u00e9 {reason}", version="v", reason=reason, detail="d\n\x00")
        for reason in RejectReason
    ]
    table = pq.read_table(pa.BufferReader(rejects_bytes(rejects)))
    assert table["reason"].to_pylist() == [reason.value for reason in RejectReason]
    assert table["image_id"].to_pylist() == [reject.image_id for reject in rejects]
