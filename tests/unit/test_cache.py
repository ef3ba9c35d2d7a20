"""The cache folder keeps to its limit: what goes, what stays, and what is not ours."""

import json
import os
import time
from pathlib import Path

import pytest

from jobs.cli import run
from pipeline.storage.cache import IN_USE_S, sweep
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from pipeline.storage.receipts import fetch, upload
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder

NOW = 1_000_000_000.0


def _entry(folder: Path, name: str, age_s: float, size: int = 10) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age_s, NOW - age_s))
    return name


def _sha(digit: str) -> str:
    return digit * 64


def test_longest_unused_goes_first_until_the_rest_fits(tmp_path: Path) -> None:
    for digit, age_h in (("a", 9), ("b", 2), ("c", 30), ("d", 5)):
        _entry(tmp_path, _sha(digit), age_h * 3_600)
    swept = sweep(tmp_path, 25, NOW)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b", "d"]
    assert (swept.removed_bytes, swept.kept_bytes) == (20, 20)
    assert sweep(tmp_path, 20, NOW).removed_bytes == 0


def test_what_is_in_use_stays_even_beyond_the_limit(tmp_path: Path) -> None:
    opened = _entry(tmp_path, _sha("a"), 90 * 3_600)
    recent = _entry(tmp_path, _sha("b"), IN_USE_S - 60)
    _entry(tmp_path, _sha("c"), IN_USE_S + 60)
    sweep(tmp_path, 0, NOW, frozenset({opened}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [opened, recent]


def test_files_of_others_stay_and_what_killed_writers_left_goes(tmp_path: Path) -> None:
    kept = [
        _entry(tmp_path, name, 10**7) for name in ("notes.txt", "peers/env", "a" * 63, f"{_sha('a')}.part")
    ]
    fresh = _entry(tmp_path, f"{_sha('a')}.{'1' * 32}", 3_600)
    _entry(tmp_path, f"{_sha('b')}.{'1' * 32}", 2 * 86_400)
    truth = f"{_sha('c')}-{'2' * 16}.np"
    for name in ("y", f"z.{'1' * 32}", f"y.{'1' * 32}.npy"):
        _entry(tmp_path / "ground-truth", f"{truth}{name}", 10**6)
    kept.append(f"ground-truth/{_entry(tmp_path / 'ground-truth', f'{truth}z.' + '3' * 32, 3_600)}")
    sweep(tmp_path, 0, NOW)
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([*kept, fresh])
    assert sweep(tmp_path / "absent", 0, NOW).kept_bytes == 0


@pytest.fixture
def s3(moto_endpoint: str, make_bucket: object, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    bucket: str = make_bucket(moto_endpoint)  # type: ignore[operator]
    return f"{bucket}/store"


def test_use_marks_a_copy_and_a_copy_that_is_gone_comes_again(s3: str, tmp_path: Path) -> None:
    store = open_store(s3)
    file = upload(store, "index", "ab" * 32, ".bin", b"codes")
    cached = fetch(store, file, tmp_path)
    os.utime(cached, (NOW, NOW))
    assert fetch(store, file, tmp_path) == cached
    assert time.time() - cached.stat().st_mtime < 60
    cached.unlink()
    assert fetch(store, file, tmp_path).read_bytes() == b"codes"


def test_search_of_a_store_on_s3_keeps_the_cache_within_its_limit(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = Collection(tmp_path)
    write_folder(made.source, {f"{i}.jpg": jpeg(i) for i in range(5)})
    made.night()
    local, remote = LocalStore(tmp_path / "store"), open_store(s3)
    for stat in local.list_objects():
        remote.put(stat.key, local.get(stat.key))
    cache = tmp_path / "s3-cache"
    monkeypatch.setenv("BITSIEVE_CACHE", str(cache))
    monkeypatch.setenv("BITSIEVE_CACHE_GB", "0")
    (tmp_path / "q.jpg").write_bytes(jpeg(2))
    arguments = ["search", str(tmp_path / "q.jpg"), "--store", s3, "-k", "1", "--json"]
    assert run(arguments) == 0
    used = {path.name for path in cache.iterdir()}
    assert used
    _entry(cache, _sha("0"), 0)
    for path in cache.iterdir():
        os.utime(path, (NOW, NOW))  # long ago
    assert run(arguments) == 0
    assert {path.name for path in cache.iterdir()} == used
    out = capfd.readouterr().out.splitlines()
    assert json.loads(out[0]) == json.loads(out[1])
    monkeypatch.setenv("BITSIEVE_CACHE_GB", "much")
    assert run(arguments) == 2
    assert "BITSIEVE_CACHE_GB" in capfd.readouterr().err
