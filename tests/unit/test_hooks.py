"""Hooks are told, have their time, and can neither undo a publication nor learn a secret by redirection."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.hooks import PUBLISHED, REFUSED, announce
from pipeline.config import CatalogConfig, HooksConfig, load_catalog
from pipeline.errors import ConfigError

RESULT = {"snapshot": 3, "digest": "d"}


class Listener(BaseHTTPRequestHandler):
    """Notes every request; ``/moved`` sends the caller to ``/elsewhere``, ``/broken`` answers 500."""

    seen: list[tuple[str, dict[str, str], bytes]] = []  # noqa: RUF012 reset by the fixture

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, dict(self.headers), body))
        self.send_response({"/moved": 307, "/found": 302, "/broken": 500}.get(self.path, 204))
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Listener.seen = []
    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def hooks(**settings: Any) -> HooksConfig:
    return HooksConfig.model_validate(settings)


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_command_gets_the_result_on_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    copy = python("import sys; open(sys.argv[1], 'w').write(sys.stdin.read())", out)
    announce(hooks(on_refusal=copy), PUBLISHED, RESULT)
    assert not out.exists()
    announce(hooks(on_publish=copy), PUBLISHED, RESULT)
    assert json.loads(out.read_text()) == {"event": "published", **RESULT}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (python("raise SystemExit(4)"), "exit code 4"),
        (["/no/such/program"], "No such file"),
        (python("import time; time.sleep(60)"), "not done after 0.5 s"),
    ],
)
def test_command_that_fails_is_said_and_raises_nothing(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(hooks(on_publish=command, timeout_s=0.5), PUBLISHED, RESULT)
    assert said in capsys.readouterr().err


def test_command_out_of_time_ends_with_all_that_it_started(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    child = "import sys, time\nwhile True: open(sys.argv[1], 'a').write('x'); time.sleep(.01)"
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\n"
        "time.sleep(60)"
    )
    announce(hooks(on_publish=python(parent, child, beat), timeout_s=1), PUBLISHED, RESULT)
    size = beat.stat().st_size
    time.sleep(0.1)
    assert beat.stat().st_size == size > 0


def test_url_gets_a_post_with_the_token_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSIEVE_HOOK_TOKEN", "t0ken")
    announce(hooks(refusal_url=f"{url}/here"), REFUSED, RESULT)
    ((path, headers, body),) = Listener.seen
    assert (path, headers["Authorization"]) == ("/here", "Bearer t0ken")
    assert json.loads(body) == {"event": "refused", **RESULT}


@pytest.mark.parametrize(("path", "said"), [("/moved", "307"), ("/found", "302"), ("/broken", "500")])
def test_url_that_fails_or_leads_elsewhere_is_said_without_being_shown(
    path: str, said: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(hooks(publish_url=url + path), PUBLISHED, RESULT)
    err = capsys.readouterr().err
    assert said in err
    assert url not in err
    assert [seen for seen, _, _ in Listener.seen] == [path]


def test_url_where_nobody_listens_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    announce(hooks(publish_url="http://127.0.0.1:9/secret"), PUBLISHED, RESULT)
    err = capsys.readouterr().err
    assert "the webhook failed" in err
    assert "secret" not in err


@pytest.mark.parametrize(
    "bad", ["file:///etc/passwd", "ftp://host/s3cret", "https://user:s3cret@host/", "s3cret", "https://"]
)
def test_url_of_another_kind_is_refused_and_not_repeated(bad: str) -> None:
    settings = [f"hooks.publish_url={bad}"]
    with pytest.raises(ConfigError, match=r"hooks\.publish_url") as caught:
        load_catalog(None, None, environ={}, settings=settings, flags={"source": "/a", "store": "/b"})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_url_is_not_in_the_configuration_that_is_stored() -> None:
    config = CatalogConfig(
        source="a", store="b", hooks=hooks(publish_url="https://chat.example/s3cret", on_publish="a,b")
    )
    assert "s3cret" not in json.dumps(config.model_dump(mode="json")) + repr(config)
    assert config.hooks.on_publish == ("a", "b")
