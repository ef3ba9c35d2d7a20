"""The documentation names everything the code has, its links resolve, and its snippets run."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import click
import pytest
import typer

from jobs import demo_catalog
from jobs.cli import command_line
from jobs.models import BUILTIN
from jobs.reindex import reindex
from jobs.run import Run
from pipeline import errors
from pipeline.catalog.source import SourceFormat
from pipeline.cluster.pool import Done, Result, Task, Worker
from pipeline.config import CatalogConfig, known_keys
from pipeline.model.card import ModelCard
from pipeline.snapshot.gates import Evidence, Spread, Thresholds, judge
from pipeline.snapshot.manifest import Content, Coverage, Manifest
from pipeline.storage import layout
from pipeline.storage.open import open_store
from pipeline.telemetry import EventLog
from pipeline.values import Preprocess, RejectReason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def missing(names: list[str], name_of_page: str) -> list[str]:
    """Those of ``names`` that the page does not have as code."""
    text = page(name_of_page)
    coded = set(re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)))
    words = {word for code in coded for word in re.split(r"[\s,]+", code)} | coded
    return [name for name in names if name not in words]


def verbs() -> list[tuple[str, click.Command]]:
    def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            yield path, command
            return
        for name, inner in inside.items():
            yield from walk(inner, f"{path} {name}".strip())

    return list(walk(typer.main.get_command(command_line()), ""))


VERBS = verbs()


def test_verbs_are_found() -> None:
    assert {"reindex", "search", "snapshots rollback", "model wrap"} <= {name for name, _ in VERBS}


@pytest.mark.parametrize(("verb", "command"), VERBS, ids=[name for name, _ in VERBS])
def test_verb_is_documented_with_all_of_its_flags(verb: str, command: click.Command) -> None:
    heading = re.search(rf"^## `bitsieve {re.escape(verb)}[ `].*?(?=^## |\Z)", page("commands"), re.S | re.M)
    assert heading, f"docs/commands.md has no section `bitsieve {verb}`"
    section = heading.group()
    flags = [flag for param in command.params for flag in (*param.opts, *param.secondary_opts)]
    flags = [flag for flag in flags if flag.startswith("-") and flag != "--help"]
    assert [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", section)] == []
    assert f"```sh\nbitsieve {verb}" in section


@pytest.mark.parametrize(("verb", "command"), VERBS, ids=[name for name, _ in VERBS])
def test_verb_has_an_example_in_its_help(verb: str, command: click.Command) -> None:
    assert f"Example: bitsieve {verb}" in f"{command.help} {command.epilog}"


def test_every_configuration_key_is_documented() -> None:
    assert missing(known_keys(), "configuration") == []


def test_every_documented_configuration_key_exists() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \|", page("configuration"), re.M)
    assert sorted(rows) == sorted(known_keys())


def test_documented_defaults_are_the_defaults() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| [^|]+ \| `?([^|`]+)`? \|", page("configuration"), re.M)
    config = CatalogConfig(source="a", store="b")
    for key, said in rows:
        value: object = config
        for name in key.split("."):
            value = getattr(value, name)
        if isinstance(value, bool):
            assert said == str(value).lower(), key
        elif isinstance(value, int | float):
            assert float(said) == value, key


def test_every_error_is_documented_with_kind_and_exit_code() -> None:
    text = page("errors")
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.BitsieveError):
            assert f"| `{name}` | `{kind.kind}` | {kind.exit_code} |" in text


def test_every_reject_reason_is_documented() -> None:
    assert missing([reason.value for reason in RejectReason], "data-formats") == []


def test_every_event_is_documented() -> None:
    assert missing(sorted(recorded_events()), "events") == []


def test_every_documented_event_is_recorded() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", page("events"), re.M)
    assert sorted(rows) == sorted(recorded_events())


@lru_cache
def recorded_events() -> set[str]:
    """First arguments of all calls of ``.record(…)`` in jobs and pipeline."""
    found = set()
    for file in [*(ROOT / "jobs").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "record" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_every_folder_of_the_layout_is_documented() -> None:
    source = inspect.getsource(layout)
    folders = set(re.findall(r'"([a-z]+/)', source)) | {layout.FORMAT, layout.PROBES}
    assert folders >= {"models/", "receipts/", "lists/", "collections/", "runs/"}
    uploads = set()
    for file in (ROOT / "pipeline").rglob("*.py"):
        uploads |= set(re.findall(r'upload\(\s*[\w.]+,\s*"([a-z]+)"', file.read_text()))
    assert uploads >= {"embeddings", "rejects", "index", "attributes", "encoders", "deletes", "listings"}
    text = page("data-formats")
    assert [
        name for name in sorted(folders | {f"{name}/" for name in uploads}) if f"`{name}" not in text
    ] == []


def test_every_gate_is_documented() -> None:
    none = Coverage(listed=0, embedded=0, reused=0, stale=0, rejected=0, set_aside=0, deleted=0)
    evidence = Evidence(
        coverage=none,
        live_rows=0,
        distinct_live_ids=0,
        parent_live_rows=0,
        n_models=1,
        norm_error=0,
        recall_low=1,
        filtered_recall_high=1,
        bit_imbalance=0,
        spread=Spread(variance=1, distinct_codes=1),
        rolled_back=False,
    )
    assert missing([gate.name for gate in judge(evidence, Thresholds(), {})], "concepts") == []


def test_every_manifest_field_is_documented() -> None:
    names = [*Manifest.model_fields, *(f"content.{name}" for name in Content.model_fields)]
    names = [name for name in names if name != "content"]
    assert missing(names, "data-formats") == []


def test_every_model_key_and_source_format_is_documented() -> None:
    keys = [field.alias or name for name, field in ModelCard.model_fields.items()]
    assert missing([*keys, *(field.name for field in dataclasses.fields(Preprocess))], "models") == []
    assert missing([kind.value for kind in SourceFormat], "catalogs") == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_relative_links_resolve(file: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", file.read_text()))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if target and not (file.parent / target).exists()] == []


def test_every_page_is_on_the_map() -> None:
    index = page("index")
    assert [file.name for file in sorted(DOCS.glob("*.md")) if file.name not in index] == ["index.md"]


class _Inline:
    """Carries out tasks in this process."""

    started = False
    n_workers = 1

    def prepare(self) -> None: ...

    def prepare_few(self, *modules: str) -> None: ...

    def few(self, make_worker: object, tasks: list[Task]) -> Iterator[Done[Result]]:
        yield from ()

    def release(self) -> None: ...

    def run(
        self, make_worker: object, tasks: list[Task], *, deadline_s: float | None = None
    ) -> Iterator[Done[Result]]:
        worker: Worker[Task, Result] = make_worker()  # type: ignore[operator]
        for index, task in enumerate(tasks):
            yield Done(index=index, result=worker.run(task))

    def measure(self, metric: object, value: float, labels: object) -> None: ...


class _Silent:
    def stage(self, name: str, total: int, unit: str) -> None: ...

    def advance(self, done: int, note: str = "") -> None: ...


@pytest.fixture
def small_demo(tmp_path: Path) -> Path:
    """``demo-output`` with a small catalog and two nights, as `bitsieve demo` leaves it."""
    folder = tmp_path / "demo-output"
    demo_catalog.write_demo_catalog(folder / "catalog", n_products=20, views=6)
    one_night(folder, tmp_path / "cache")
    demo_catalog.write_second_night(folder / "catalog")
    one_night(folder, tmp_path / "cache")
    return folder


def one_night(folder: Path, cache: Path) -> None:
    catalog, where = str(folder / "catalog"), str(folder / "store")
    store = open_store(where)
    run = Run(
        run_id="test",
        config=CatalogConfig(source=catalog, store=where, model=BUILTIN, label="product"),
        store=store,
        source=open_store(catalog),
        cache=cache,
        pool=_Inline(),  # type: ignore[arg-type]
        progress=_Silent(),
        events=EventLog(store, "test"),
    )
    assert reindex(run).published


def test_runnable_snippets_open_every_file_of_a_store(
    small_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_demo.parent)
    snippets = re.findall(r"^```python runnable\n(.*?)^```", page("data-formats"), re.S | re.M)
    assert len(snippets) >= 7
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/data-formats.md", "exec"), names)
    content = names["content"]
    assert isinstance(content, dict)
    assert content["dead_rows"], "the second night must have left dead rows to read"
