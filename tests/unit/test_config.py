"""The configuration: file, environment, --set and flags in this order; errors that name what to change."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import CatalogConfig, known_keys, load_catalog
from pipeline.errors import ConfigError

TOML = """
[catalogs.shop]
source = "/photos"
store = "/index"
collection = "file"
max_reembed = 0.25
read = { include = ["*.jpg"], id_template = "{tar}/{name}" }

[catalogs.shop.index]
recall = 0.95
bits = 128

[catalogs.shop.gates.override]
shrink = "season"

[catalogs.other]
source = "/a"
store = "/b"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bitsieve.toml"
    path.write_text(TOML)
    return path


def load(
    file: Path | None = None,
    name: str | None = "shop",
    environ: dict[str, str] | None = None,
    settings: list[str] | None = None,
    **flags: Any,
) -> CatalogConfig:
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return load_catalog(file, name, environ=environ or {}, settings=settings or [], flags=dotted)


def test_config_file_fills_in_sections_and_leaves_defaults(file: Path) -> None:
    config = load(file)
    assert (config.source, config.store, config.collection, config.max_reembed) == (
        "/photos",
        "/index",
        "file",
        0.25,
    )
    assert config.read.include == ("*.jpg",)
    assert (config.index.recall, config.index.bits, config.index.recall_at) == (0.95, 128, 10)
    assert config.gates.override == {"shrink": "season"}
    assert load(file, "other").collection == "main"


def test_config_later_source_overrides_earlier(file: Path) -> None:
    environ = {"BITSIEVE_COLLECTION": "env", "BITSIEVE_INDEX__RECALL": "0.5", "BITSIEVE_STALE_NIGHTS": "3"}
    settings = ["collection=set", "index.recall=0.6"]
    assert load(file, environ=environ).collection == "env"
    assert load(file, environ=environ).index.recall == 0.5
    assert load(file, environ=environ, settings=settings).collection == "set"
    assert load(file, environ=environ, settings=settings, collection="flag").collection == "flag"
    config = load(file, environ=environ, settings=settings, collection=None, index__bits=64)
    assert (config.collection, config.index.recall, config.index.bits) == ("set", 0.6, 64)
    assert config.stale_nights == 3


def test_config_without_a_file_comes_from_flags_and_environment() -> None:
    config = load(None, None, {"BITSIEVE_STORE": "/index"}, source="/photos")
    assert (config.source, config.store) == ("/photos", "/index")


def test_config_every_key_can_be_set_in_the_environment() -> None:
    environ = {"BITSIEVE_" + key.replace(".", "__").upper(): "\0" for key in known_keys()}
    for key in known_keys():
        name = "BITSIEVE_" + key.replace(".", "__").upper()
        others = {"BITSIEVE_SOURCE": "/a", "BITSIEVE_STORE": "/b", name: environ[name]}
        try:
            config: Any = load(None, None, others)
        except ConfigError as exc:
            assert key in exc.message  # noqa: PT017
        else:
            for part in key.split("."):
                config = getattr(config, part)
            assert config in ("\0", ("\0",))


@pytest.mark.parametrize("how", ["environ", "settings"])
def test_config_list_is_given_as_text_with_commas(how: str) -> None:
    flags = {"source": "/a", "store": "/b"}
    if how == "environ":
        config = load(None, None, {"BITSIEVE_READ__INCLUDE": "*.jpg, *.png"}, **flags)
    else:
        config = load(None, None, settings=["read.include=*.jpg,*.png"], **flags)
    assert config.read.include == ("*.jpg", "*.png")


def test_config_set_reaches_a_gate_override() -> None:
    config = load(None, None, settings=["gates.override.shrink=a=b"], source="/a", store="/b")
    assert config.gates.override == {"shrink": "a=b"}


@pytest.mark.parametrize(
    ("setting", "message", "fix"),
    [
        ("index.recal=0.9", "'index.recal'", "'index.recall'"),
        ("recall=0.9", "'recall'", "'index.recall'"),
        ("colection=x", "'colection'", "'collection'"),
        ("zzzz=1", "'zzzz'", "docs/configuration.md"),
        ("index.recall", "not key=value", "--set"),
        ("=x", "''", ""),
        ("index.recall=high", "index.recall.*'high'", ""),
        ("index.recall=1", "index.recall", ""),
        ("index.recall=nan", "index.recall", ""),
        ("index.bits=12", "index.bits.*multiple of 8", ""),
        ("index.recall_at=11", "index.recall_at.*1, 10 or 100", ""),
        ("embed.workers=-1", "embed.workers", ""),
        ("embed.workers=1000000", "embed.workers", ""),
        ("embed.batch_size=1e9", "embed.batch_size", ""),
        ("read.format=zip", "read.format.*'zip'", ""),
        ("collection=../x", "collection.*'../x'", ""),
        ("collection=", "collection", ""),
        ("gates.max_rejected_share=2", "gates.max_rejected_share", ""),
        ("replace_source=maybe", "replace_source", ""),
        ("max_reembed=inf", "max_reembed", ""),
    ],
)
def test_config_bad_setting_is_named_with_a_way_out(setting: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, None, settings=[setting], source="/a", store="/b")
    assert caught.value.fix
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "not TOML"),
        ("[catalogs.other]\nsource='x'", "no catalog 'shop'"),
        ("", "no catalog 'shop'"),
        ("[catalog.shop]\nsource='x'", "unknown table 'catalog'"),
        ("[catalogs]\nshop = 5", "'shop'"),
        ("catalogs = 5", "catalogs"),
        ("[[catalogs]]\nsource='x'", "catalogs"),
        ("[catalogs.shop]\nsource='/a'\nstore='/b'\nread=5", "read"),
        ("[catalogs.shop]\nsource='/a'\nstore='/b'\nrecall=0.9", "'recall'"),
        ("[catalogs.shop]\nsource='/a'", "store is not given"),
        ("[catalogs.shop]\nsource=5\nstore='/b'", "source"),
    ],
)
def test_config_bad_file_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bitsieve.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert caught.value.fix


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", "[catalogs.shop]\nsource = '\u00e9'\nstore = '/b'".encode("latin-1")]
)
def test_config_file_that_is_not_utf8_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bitsieve.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bitsieve\.toml"):
        load(path)


def test_config_file_that_is_absent_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)


def test_config_loading_leaves_flags_and_later_loads_alone(file: Path) -> None:
    override = {"shrink": "mine"}
    assert load(file, gates__override=override).gates.override == override
    assert load(file).gates.override == {"shrink": "season"}
    assert override == {"shrink": "mine"}
