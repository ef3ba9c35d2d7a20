"""No secret of the environment is in anything that a night leaves or says, whether it goes well or not."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.storage.s3 import S3Store
from tests.support.command import Command
from tests.support.models import pool_model
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-key/aaaabbbbccccdddd+eeeeffff",
    "AWS_SESSION_TOKEN": "canary-session-aaaabbbbccccddddeeeeffff==",
    "BITSIEVE_HOOK_TOKEN": "canary-hook-aaaabbbb",
    "BITSIEVE_HOOKS__PUBLISH_URL": "http://127.0.0.1:9/canary-path",
    "BITSIEVE_HOOKS__REFUSAL_URL": "http://127.0.0.1:9/canary-path",
}


def found_in(data: bytes) -> list[str]:
    return [name for name, value in SECRETS.items() if value.rpartition("/")[2].encode() in data]


def ray_logs() -> dict[Path, bytes]:
    """What Ray has logged by now, of all runs under way on this machine; each removes its own at its end."""
    texts = {}
    for path in Path("/tmp").glob("bsv-*/ray/session_*/logs/*"):
        with contextlib.suppress(OSError):
            texts[path] = path.read_bytes()
    return texts


def test_a_night_on_s3_leaves_and_says_no_secret(
    command: Command,
    moto_endpoint: str,
    make_bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = make_bucket(moto_endpoint)
    source = write_folder(tmp_path / "photos", {f"{number}.jpg": jpeg(number) for number in range(30)})
    write_folder(source, {"bad.jpg": GARBAGE})
    model = tmp_path / "model.onnx"
    model.write_bytes(pool_model())
    told = command.with_environment(
        **SECRETS,
        AWS_ENDPOINT_URL=moto_endpoint,
        BITSIEVE_DEBUG="1",
        BITSIEVE_EMBED__WORKERS="1",
        BITSIEVE_EMBED__FEW_IMAGES="0",  # Ray's logs are looked through too
    )
    night: list[object] = ["reindex", source, "--store", f"{bucket}/store", "--model", model, "--json"]

    said, logs = bytearray(), {}
    for more, code in ((["--set", "gates.max_rejected_share=0.001"], 3), ([], 0)):
        with told.start(*night, *more) as process:
            while process.poll() is None:
                logs |= ray_logs()
                time.sleep(0.1)
            stdout, stderr = process.communicate()
        assert process.returncode == code, stderr
        assert "the webhook failed" in stderr
        said += stdout.encode() + stderr.encode()
    broken = told.with_environment(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    for arguments in (["search", "--store"], ["reindex", "--set", "embed.bad=1"]):
        said += broken.run(*arguments, "x").stderr.encode()

    assert any(path.name.startswith("raylet") for path in logs)
    assert {path.name: found for path, data in logs.items() if (found := found_in(data))} == {}
    assert found_in(bytes(said)) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    store = S3Store(f"{bucket}/store")
    objects = {item.key: store.get(item.key) for item in store.list_objects()}
    assert any(key.endswith("plan.json") for key in objects)
    assert {key: found for key, data in objects.items() if (found := found_in(data))} == {}
