"""The command line of publish: what it says, with which exit code, and whom it tells."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.gates import Thresholds, judge
from pipeline.snapshot.publish import keep_candidate
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import prepare_store
from tests.support.manifests import content, coverage, evidence, manifest


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store whose collection ``canary`` has a candidate that refused a tenth of the images."""
    made = LocalStore(tmp_path / "store")
    prepare_store(made)
    body = content("a")
    for one in snapshot_files(body):
        made.put(one.file.key, bytes(one.file.size_bytes))
    gates = judge(evidence(coverage=coverage(embedded=90, rejected=10)), Thresholds(), {})
    keep_candidate(made, manifest(body, collection="canary", run_id="r1", gates=gates))
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A catalog ``shop`` of that store and collection, whose hooks write down what they are told."""
    program = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    hook = json.dumps([sys.executable, "-c", program, str(tmp_path / "told")])
    file = tmp_path / "bitsieve.toml"
    file.write_text(
        f'[catalogs.shop]\nsource = "/none"\nstore = "{tmp_path}/store"\ncollection = "canary"\n'
        f"hooks = {{ on_publish = {hook}, on_refusal = {hook} }}\n"
    )
    return file


def publish(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of one command line."""
    code = run(["publish", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_refused_then_overridden_then_flipped_and_hooks_are_told(
    store: LocalStore, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop = ("--store", "shop", "-c", config)
    code, said = publish(capsys, "r1", *shop)
    assert (code, said["error"]["kind"]) == (3, "gate")
    code, said = publish(capsys, "r1", *shop, "--override", "rejected_share=looked at them")
    assert (code, said["collection"], said["snapshot"], said["published"]) == (0, "canary", 1, True)
    code, again = publish(capsys, "r1", *shop)
    assert (code, again["published"], again["digest"]) == (0, False, said["digest"])
    code, wrong = publish(capsys, "r1", *shop, "--override", "rejects=looked at them")
    assert (code, wrong["error"]["kind"]) == (2, "usage")
    assert "rejected_share" in wrong["error"]["fix"]
    code, flipped = publish(capsys, "--from", "canary", "--to", "main", *shop)
    assert (code, flipped["collection"], flipped["digest"]) == (0, "main", said["digest"])
    assert flipped["adopted"] == {"collection": "canary", "sequence": 1}
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [(one["event"], one["collection"]) for one in told] == [
        ("refused", "canary"), ("published", "canary"), ("published", "main"),
    ]  # fmt: skip
    assert "rejected_share" in told[0]["error"]["message"]
    assert told[1] == {"event": "published", **said}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes the run"),
        (["r1", "--from", "canary"], "takes the run"),
        (["r1", "--to", "main"], "go with --from"),
        (["r1", "--snapshot", 1], "go with --from"),
        (["r1", "--replace-source"], "goes with --from"),
        (["--from", "canary", "--collection", "canary"], "goes with a run"),
        (["--from", "main"], "in itself"),
        (["--from", "../x"], "no name of a collection"),
        (["r1", "--override", "shrink"], "no reason"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[object], message: str, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = publish(capsys, *arguments, "--store", store.uri)
    assert (code, said["error"]["kind"]) == (2, "usage")
    assert message in said["error"]["message"]


def test_without_a_store_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = publish(capsys, "r1")
    assert (code, said["error"]["message"]) == (2, "--store is not given")
