"""The command as scripts and people meet it: enrolment, clean JSON, snapshots and errors, Ctrl-C, help."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

from jobs import cli
from tests.support.catalogs import Face, lfw_faces, write_tar
from tests.support.command import Command, events, named
from tests.support.processes import ray_processes_left

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]

_NOISE = """
import os, sys, threading, time

def make_noise():
    while "pipeline.embed.worker" not in sys.modules:
        time.sleep(0.05)
    for _ in range(20):
        print("noise by print", flush=True)
        os.write(1, b"noise by a library written in C\\n")
        with open(os.environ["NOISE_TRACE"], "a") as trace:
            trace.write(f"{os.getpid()}\\n")
        time.sleep(0.1)

if any("default_worker.py" in argument for argument in sys.orig_argv):
    threading.Thread(target=make_noise, daemon=True).start()
"""


@pytest.fixture(scope="module")
def people(shared_data: Path) -> tuple[list[Face], list[Face]]:
    """Faces of many people, and three more of somebody who is not among them."""
    faces = lfw_faces(shared_data, 400)
    counts = Counter(face.identity for face in faces)
    somebody = sorted(identity for identity, count in counts.items() if 3 <= count <= 5)[0]
    new = [face for face in faces if face.identity == somebody]
    return [face for face in faces if face.identity != somebody], new[:3]


@pytest.fixture(scope="module")
def catalog(people: tuple[list[Face], list[Face]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of one tar without the somebody."""
    folder = tmp_path_factory.mktemp("people") / "catalog"
    write_tar(folder / "people.tar", people[0])
    return folder


@pytest.fixture(scope="module")
def first_night(
    command: Command, catalog: Path, face_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], set[int]]:
    """The store, what ``reindex`` said, and which processes made noise meanwhile."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "sitecustomize.py").write_text(_NOISE)
    (folder / "trace").touch()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    noisy = command.with_environment(PYTHONPATH=path, NOISE_TRACE=str(folder / "trace"))
    how = ("--store", folder / "store", "--model", face_model, "--label", "identity")
    said = noisy.json("reindex", catalog, *how, "--set", "embed.shard_images=60")
    return folder / "store", said, {int(line) for line in (folder / "trace").read_text().split()}


def test_json_is_all_of_standard_output_though_the_workers_print(
    first_night: tuple[Path, dict[str, Any], set[int]],
) -> None:
    store, said, noisy = first_night
    tasks = named(events(store, said["run"]), "task_succeeded")
    workers = {int(event["worker"].partition(":")[2]) for event in tasks if event["stage"] == "embed"}
    assert workers & noisy
    assert said["published"]


@pytest.fixture(scope="module")
def second_night(
    command: Command,
    catalog: Path,
    people: tuple[list[Face], list[Face]],
    first_night: tuple[Path, dict[str, Any], set[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """A night after one image of the somebody came; and what another image found before and after it."""
    store = first_night[0]
    query = tmp_path_factory.mktemp("query") / "query.jpg"
    query.write_bytes(people[1][1].jpeg)
    search = ("search", query, "--store", store, "-k", 5)
    before = command.json(*search)["results"][0]["matches"]
    write_tar(catalog / "somebody.tar", people[1][:1])
    said = command.json("reindex", catalog, "--store", store, "--label", "identity")
    return said, [before, command.json(*search)["results"][0]["matches"]]


def test_one_image_of_a_new_identity_is_found_by_another_after_one_night_without_training(
    people: tuple[list[Face], list[Face]],
    first_night: tuple[Path, dict[str, Any], set[int]],
    second_night: tuple[dict[str, Any], list[list[dict[str, Any]]]],
) -> None:
    enrolled = people[1][0]
    said, (before, after) = second_night
    assert enrolled.identity not in {match["label"] for match in before}
    assert said["published"]
    assert said["images"]["embedded"] == 1
    assert said["images"]["reused"] == len(people[0])
    assert (after[0]["id"], after[0]["label"]) == (enrolled.name, enrolled.identity)
    assert after[0]["distance"] < before[0]["distance"]
    assert said["model"] == first_night[1]["model"]


def test_snapshots_are_listed_shown_and_taken_back(
    command: Command,
    catalog: Path,
    first_night: tuple[Path, dict[str, Any], set[int]],
    second_night: tuple[dict[str, Any], list[list[dict[str, Any]]]],
) -> None:
    store, digests = first_night[0], [first_night[1]["digest"], second_night[0]["digest"]]
    listed = command.json("snapshots", "list", "--store", store)["snapshots"]
    assert [(one["snapshot"], one["digest"]) for one in listed] == [(2, digests[1]), (1, digests[0])]
    assert command.json("snapshots", "show", 1, "--store", store)["digest"] == digests[0]
    assert command.json("snapshots", "show", "--store", store)["digest"] == digests[1]

    back = command.json("snapshots", "rollback", "--store", store, "--to", 1, "--reason", "a test")
    assert (back["snapshot"], back["digest"]) == (3, digests[0])
    again = command.run("reindex", catalog, "--store", store, "--label", "identity", "--json")
    assert again.code == 3
    assert (again.json["published"], again.json["error"]["kind"]) == (False, "gate")
    assert [gate["name"] for gate in again.json["gates"] if not gate["passed"]] == ["not_rolled_back"]
    assert len(command.json("snapshots", "list", "--store", store)["snapshots"]) == 3


def test_a_query_that_is_no_image_is_a_usage_error_in_json_too(
    command: Command, first_night: tuple[Path, dict[str, Any], set[int]], tmp_path: Path
) -> None:
    (tmp_path / "words.jpg").write_text("these are words")
    outcome = command.run("search", tmp_path / "words.jpg", "--store", first_night[0], "--json")
    assert outcome.code == 2
    assert outcome.json.keys() == {"error"}
    assert outcome.json["error"].keys() == {"kind", "message", "fix"}
    assert "words.jpg" in outcome.json["error"]["message"]
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("reindex", "/nowhere", "--store", "{tmp}/store", "--model", "builtin"), 2),
        (("reindex", "{tmp}", "--store", "/tmp/bitsieve-never", "--model", "/nowhere.onnx"), 2),
        (("search", "query.jpg", "--store", "{tmp}/store"), 2),
        (("reindex",), 2),
        (("reindex", "{tmp}", "--store", "{tmp}/store", "--set", "embed.wrokers=2"), 2),
    ],
)
def test_bad_usage_ends_with_one_json_object_and_no_traceback(
    arguments: tuple[str, ...], code: int, command: Command, tmp_path: Path
) -> None:
    outcome = command.run(*(argument.format(tmp=tmp_path) for argument in arguments), "--json")
    assert outcome.code == code
    assert outcome.json["error"]["message"]
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_so_once_and_keeps_what_is_done(
    number: signal.Signals, command: Command, shared_data: Path, face_model: Path, mark: str, tmp_path: Path
) -> None:
    """Ctrl-C goes to the whole process group, as from a terminal; an eviction to the driver."""
    write_tar(tmp_path / "catalog" / "faces.tar", lfw_faces(shared_data, 1_000))
    process = command.start(
        "reindex", tmp_path / "catalog", "--store", tmp_path / "store", "--model", face_model,
        "--set", "embed.shard_images=60", "--json", own_group=True,
    )  # fmt: skip
    receipts = tmp_path / "store" / "receipts" / "embed"
    while not receipts.exists() or not any(receipts.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert json.loads(stdout)["error"]["kind"] == "terminated"
    lines = [line for line in stderr.splitlines() if not line.startswith(("list:", "embed:"))]
    assert [line.split(":")[0].strip() for line in lines] == ["bitsieve", "fix"]
    assert ray_processes_left(mark) == []
    (run,) = (tmp_path / "store" / "runs").iterdir()
    assert [event["error"] for event in named(events(tmp_path / "store", run.name), "run_failed")]


def _leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if hasattr(command, "commands"):
        return [leaf for name, inner in command.commands.items() for leaf in _leaves(inner, (*path, name))]
    return [path]


@pytest.mark.parametrize("verb", _leaves(typer.main.get_command(cli.command_line())), ids=" ".join)
def test_every_verb_has_help_with_an_example_of_itself(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*verb, "--help"]) == 0
    example = " ".join(capsys.readouterr().out.partition("Example:")[2].split())
    assert example.startswith(f"bitsieve {' '.join(verb)}")
