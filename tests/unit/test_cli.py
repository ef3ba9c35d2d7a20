"""Whole command lines: exit codes, one JSON object on standard output, and no traceback, whatever is given.

Command lines that get as far as Ray are in the integration tests.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import prepare_store
from tests.support import models
from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder, write_tar


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, str]:
        """The error object; it is all that is on standard output."""
        document = json.loads(self.out)
        assert set(document) == {"error"}
        error: dict[str, str] = document["error"]
        assert set(error) == {"kind", "message", "fix"}
        return error


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no cache of whoever runs the tests."""
    monkeypatch.delenv("BITSIEVE_DEBUG", raising=False)
    monkeypatch.setenv("BITSIEVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Any:
    def carry_out(*arguments: object) -> Said:
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Said(code=code, out=out, err=err)

    return carry_out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {f"{n}.jpg": jpeg(n) for n in range(3)})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.pool_model())
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reindex", "photos", "--stroe", "index"], "--stroe"),
        (["reindex", "photos", "more", "--store", "index"], "more"),
        (["reindex", "photos", "--store", "index", "--recall", "high"], "--recall"),
        (["reindxe", "photos"], "reindxe"),
        (["search", "--store", "index"], "queries"),
        (["search", "x.jpg", "--store", "index", "-k", "0"], "-k"),
        (["snapshots", "rollback", "--store", "index"], "--to"),
        (["snapshots", "frobnicate"], "frobnicate"),
        (["evaluate", "retrieval"], "--store"),
    ],
)
def test_cli_command_line_that_is_none_exits_2_with_json(
    arguments: list[str], message: str, say: Any
) -> None:
    said = say(*arguments, "--json")
    assert said.code == 2
    assert said.error["kind"] == "usage"
    assert message in said.error["message"]
    assert "--help" in said.error["fix"]
    in_words = say(*arguments)
    assert (in_words.code, in_words.out) == (2, "")
    assert message in in_words.err


def test_cli_help_and_no_arguments_are_not_failures_of_ours(say: Any) -> None:
    for arguments in (["--help"], ["reindex", "--help"], ["snapshots", "list", "--help"]):
        said = say(*arguments)
        assert said.code == 0
        assert "Usage" in said.out
    assert say().code == 2


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (["--set", "index.recal=1"], "config", "index.recal"),
        (["--set", "nonsense"], "config", "nonsense"),
        (["--recall", "2"], "config", "index.recall"),
        (["--bits", "12"], "config", "index.bits"),
        (["--format", "zip"], "config", "read.format"),
        (["--provider", "tpu"], "config", "embed.provider"),
        (["--collection", "../up"], "config", "collection"),
        (["--override", "shrink"], "usage", "no reason"),
        (["--override", "shrnk=typo"], "usage", "shrnk"),
        (["--id-template", "{nme}"], "source", "{nme}"),
        (["-c", "absent.toml"], "config", "absent.toml"),
    ],
)
def test_cli_reindex_impossible_setting_exits_2_and_embeds_nothing(
    settings: list[str], kind: str, message: str, say: Any, photos: Path, model: Path, tmp_path: Path
) -> None:
    said = say("reindex", photos, "--store", tmp_path / "index", "--model", model, *settings, "--json")
    assert said.code == 2
    assert said.error["kind"] == kind
    assert message in said.error["message"]
    assert not (tmp_path / "index" / "embeddings").exists()


@pytest.mark.parametrize("verb", ["reindex", "backfill", "plan", "publish"])
def test_cli_without_the_name_of_a_catalog_lists_those_of_the_file(
    verb: str, say: Any, tmp_path: Path
) -> None:
    file = tmp_path / "bitsieve.toml"
    file.write_text(
        "[catalogs.shop]\nsource = 'a'\nstore = 'b'\n[catalogs.blog]\nsource = 'c'\nstore = 'b'\n"
    )
    run_id = ["some-run"] if verb == "publish" else []
    said = say(verb, *run_id, "-c", file, "--json")
    assert (said.code, said.error["kind"]) == (2, "config")
    assert "blog, shop" in said.error["fix"]


def test_cli_reindex_without_a_source_says_so(say: Any) -> None:
    said = say("reindex", "--store", "index", "--json")
    assert (said.code, said.error["message"]) == (2, "source is not given")
    assert "folder or s3:// prefix" in said.error["fix"]


def test_cli_reindex_without_a_store_says_so(say: Any, photos: Path) -> None:
    said = say("reindex", photos, "--json")
    assert (said.code, said.error["kind"]) == (2, "config")
    assert "store is not given" in said.error["message"]


@pytest.mark.parametrize(
    "source", ["absent", "photos/0.jpg", "ftp://host/photos", "file:///photos", "", "s3://"]
)
def test_cli_reindex_source_that_is_none_exits_2(
    source: str, say: Any, photos: Path, model: Path, tmp_path: Path
) -> None:
    said = say("reindex", source, "--store", tmp_path / "index", "--model", model, "--json")
    assert said.code == 2
    assert said.error["kind"] in ("source", "usage")
    assert said.error["fix"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no model file"),
        (b"", ""),
        (b"\x00\xff" * 500, ""),
        (jpeg(1), ""),
        (b"\x08\x09" + b"\xff" * 90, ""),
    ],
    ids=["absent", "empty", "random bytes", "a picture", "broken protobuf"],
)
def test_cli_reindex_model_that_is_none_exits_2_and_names_it(
    data: bytes | None, message: str, say: Any, photos: Path, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / "bad.onnx").write_bytes(data)
    said = say("reindex", photos, "--store", tmp_path / "index", "--model", tmp_path / "bad.onnx", "--json")
    assert (said.code, said.error["kind"]) == (2, "model")
    assert "bad.onnx" in said.error["message"]
    assert message in said.error["message"]


def test_cli_reindex_model_that_is_a_folder_exits_2(say: Any, photos: Path, tmp_path: Path) -> None:
    said = say("reindex", photos, "--store", tmp_path / "index", "--model", tmp_path, "--json")
    assert (said.code, said.error["kind"]) == (2, "model")


def test_cli_reindex_model_without_card_is_told_how_to_wrap_it(
    say: Any, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare.onnx").write_bytes(models.bare_pool())
    said = say("reindex", photos, "--store", tmp_path / "index", "--model", tmp_path / "bare.onnx", "--json")
    assert (said.code, said.error["kind"]) == (2, "model")
    assert "bitsieve model wrap" in said.error["fix"]


def test_cli_reindex_first_night_without_model_exits_2(say: Any, photos: Path, tmp_path: Path) -> None:
    said = say("reindex", photos, "--store", tmp_path / "index", "--json")
    assert (said.code, said.error["kind"]) == (2, "usage")
    assert "--model" in said.error["fix"]


@pytest.mark.parametrize(
    "files",
    [
        {"format.json": b'{"name": "my app"}', "data.txt": b"x"},
        {"format.json": b"not json"},
        {"format.json": b'{"layout": 99}'},
        {"letters/to mother.txt": b"Dear"},
    ],
)
def test_cli_reindex_into_a_strangers_folder_exits_2_and_leaves_it_alone(
    files: dict[str, bytes], say: Any, photos: Path, model: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "strange", files)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = say("reindex", photos, "--store", folder, "--model", model, "--json")
    assert (said.code, said.error["kind"]) == (2, "store")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("store", ["photos/index", "photos", "link/index"])
def test_cli_reindex_store_inside_its_source_exits_2(
    store: str, say: Any, photos: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(photos)
    said = say("reindex", photos, "--store", tmp_path / store, "--model", model, "--json")
    assert said.code == 2
    assert said.error["kind"] in ("usage", "store")
    assert sorted(path.name for path in photos.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]


def test_cli_reindex_damaged_tar_exits_2_and_names_tar_and_byte(
    say: Any, model: Path, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "tars" / "a.tar", [("1.jpg", jpeg(1)), ("2.jpg", jpeg(2))])
    path.write_bytes(path.read_bytes()[:700])
    said = say("reindex", tmp_path / "tars", "--store", tmp_path / "index", "--model", model, "--json")
    assert (said.code, said.error["kind"]) == (2, "source")
    assert "a.tar" in said.error["message"]


@pytest.fixture
def indexed(tmp_path: Path) -> Collection:
    """A published snapshot."""
    collection = Collection(tmp_path / "work", settings={"label": "@folder"})
    write_folder(collection.source, {f"{n % 3}/{n:02d}.jpg": jpeg(n) for n in range(12)})
    collection.night()
    return collection


def test_cli_reindex_nothing_changed_exits_0_without_ray(indexed: Collection, say: Any) -> None:
    said = say("reindex", indexed.source, "--store", indexed.folder / "store", "--json")
    assert said.code == 0
    result = json.loads(said.out)
    assert result["published"] is False
    assert result["snapshot"] == 1
    assert set(result["images"]) == {
        "listed",
        "embedded",
        "reused",
        "stale",
        "rejected",
        "set_aside",
        "deleted",
    }
    assert result["index"]["ann_recall@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert {gate["name"] for gate in result["gates"]} >= {"coverage", "recall"}
    assert set(result["bytes"]) == {"read", "written"}
    in_words = say("reindex", indexed.source, "--store", indexed.folder / "store")
    assert "12 listed = 0 embedded + 12 reused" in in_words.out
    assert "nothing changed: snapshot 1" in in_words.out


def test_cli_reindex_gate_that_refuses_exits_3_and_names_gate_number_threshold(
    indexed: Collection, say: Any
) -> None:
    for path in sorted(indexed.source.rglob("*.jpg"))[:6]:
        path.unlink()
    said = say("reindex", indexed.source, "--store", indexed.folder / "store", "--json")
    assert said.code == 3
    result = json.loads(said.out)
    assert result["error"]["kind"] == "gate"
    assert all(text in result["error"]["message"] for text in ("shrink", "0.5", "0.2"))
    assert result["candidate"].startswith("collections/main/candidates/")
    assert (result["published"], result["snapshot"]) == (False, None)
    said = say(
        "reindex", indexed.source, "--store", indexed.folder / "store", "--override", "shrink=sold", "--json"
    )
    assert said.code == 0
    assert json.loads(said.out)["snapshot"] == 2


def test_cli_search_finds_the_image_itself(indexed: Collection, say: Any) -> None:
    query = indexed.source / "1" / "04.jpg"
    said = say("search", query, "--store", indexed.folder / "store", "-k", "3", "--json")
    assert said.code == 0
    (result,) = json.loads(said.out)["results"]
    assert result["query"] == str(query)
    assert result["matches"][0] == {"id": "1/04.jpg", "distance": pytest.approx(0, abs=1e-6), "label": "1"}
    assert len(result["matches"]) == 3
    assert "1/04.jpg" in say("search", query, "--store", indexed.folder / "store").out


@pytest.mark.parametrize("query", ["absent.jpg", "garbage.jpg", "empty", "truncated.jpg"])
def test_cli_search_query_that_is_none_exits_2(
    query: str, indexed: Collection, say: Any, tmp_path: Path
) -> None:
    write_folder(tmp_path, {"garbage.jpg": GARBAGE, "truncated.jpg": jpeg(1)[:300]})
    (tmp_path / "empty").mkdir()
    said = say("search", tmp_path / query, "--store", indexed.folder / "store", "--json")
    assert (said.code, said.error["kind"]) == (2, "usage")
    assert query in said.error["message"]


def test_cli_search_store_or_snapshot_that_is_none_exits_2(
    indexed: Collection, say: Any, tmp_path: Path
) -> None:
    query = indexed.source / "0" / "00.jpg"
    store = indexed.folder / "store"
    prepare_store(LocalStore(tmp_path / "empty store"))
    for arguments in (
        ["--store", tmp_path / "absent"],
        ["--store", tmp_path / "empty store"],
        ["--store", store, "--snapshot", "9"],
        ["--store", store, "--collection", "other"],
    ):
        said = say("search", query, *arguments, "--json")
        assert (said.code, said.error["kind"]) == (2, "store"), arguments
    assert not (tmp_path / "absent").exists()


def test_cli_snapshots_list_show_and_rollback(indexed: Collection, say: Any) -> None:
    write_folder(indexed.source, {"0/99.jpg": jpeg(99)})
    indexed.night()
    store = indexed.folder / "store"
    listed = json.loads(say("snapshots", "list", "--store", store, "--json").out)
    assert [row["snapshot"] for row in listed["snapshots"]] == [2, 1]
    shown = json.loads(say("snapshots", "show", "1", "--store", store, "--json").out)
    assert shown["coverage"]["listed"] == 12
    assert "12 listed" in say("snapshots", "show", "1", "--store", store).out
    back = say("snapshots", "rollback", "--to", "1", "--reason", "test", "--store", store, "--json")
    assert back.code == 0
    assert json.loads(back.out)["snapshot"] == 3
    refused = say("reindex", indexed.source, "--store", store, "--json")
    assert refused.code == 3
    assert "not_rolled_back" in json.loads(refused.out)["error"]["message"]
    for arguments in (
        ["--to", "3", "--reason", "x"],
        ["--to", "7", "--reason", "x"],
        ["--to", "1", "--reason", " "],
    ):
        assert say("snapshots", "rollback", *arguments, "--store", store).code == 2


def test_cli_damaged_snapshot_exits_1_and_names_it(indexed: Collection, say: Any) -> None:
    path = next((indexed.folder / "store" / "collections/main/snapshots").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"live_rows":12', b'"live_rows":13'))
    said = say("snapshots", "show", "--store", indexed.folder / "store", "--json")
    assert (said.code, said.error["kind"]) == (1, "corrupt")
    assert path.name in said.error["message"]


def test_cli_evaluate_label_that_is_none_exits_2(indexed: Collection, say: Any) -> None:
    said = say("evaluate", "retrieval", "--store", indexed.folder / "store", "--label", "nothing", "--json")
    assert (said.code, said.error["kind"]) == (2, "usage")
    assert "folder" in said.error["fix"]


def test_cli_evaluate_writes_page_and_json(indexed: Collection, say: Any, tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    said = say("evaluate", "retrieval", "--store", indexed.folder / "store", "-o", page, "--json")
    assert said.code == 0
    assert json.loads(said.out)["n_queries"] == 12
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(said.out)
    assert "data:image" in page.read_text()


def test_cli_names_of_any_bytes_end_in_words_or_json(say: Any, model: Path, tmp_path: Path) -> None:
    odd = "caf\udce9 \x1b[2J"
    said = say("reindex", tmp_path / odd, "--store", tmp_path / "index", "--model", model, "--json")
    assert said.code == 2
    assert said.error["kind"] in ("source", "usage")
    assert "\x1b" not in said.err


def test_cli_ids_of_any_characters_reach_the_reader(say: Any, tmp_path: Path) -> None:
    shop = Collection(tmp_path / "work")
    write_folder(
        shop.source, {"caf\udce9.jpg": jpeg(1), "\u202e\x1b[2J.jpg": jpeg(2), "\u00e9\U0001f600.jpg": jpeg(3)}
    )
    shop.night()
    query = write_folder(tmp_path, {"q.jpg": jpeg(2)}) / "q.jpg"
    said = say("search", query, "--store", shop.folder / "store", "-k", "3", "--json")
    ids = {match["id"] for match in json.loads(said.out)["results"][0]["matches"]}
    assert ids == {"caf\\xe9.jpg", "\u202e\x1b[2J.jpg", "\u00e9\U0001f600.jpg"}
    assert "\x1b" not in say("search", query, "--store", shop.folder / "store").out
