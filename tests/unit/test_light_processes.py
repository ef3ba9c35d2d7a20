"""What a run holds in memory while it embeds: libraries of other stages are not even imported."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.model.file import read_model
from tests.support.models import pool_model
from tests.support.nights import Collection
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_folder

_ELSEWHERE = "sklearn scipy matplotlib jinja2 numba duckdb polars pandas torch pyarrow.dataset"

_DRIVER = """
import os, sys
from jobs import cli
cli.command_line("reindex")
import pyarrow
from jobs.reindex import reindex
from jobs.session import open_run
from pipeline.config import CatalogConfig

class Pool:
    def prepare(self):
        pass
    def few(self, make_worker, tasks):
        return ()
    def run(self, make_worker, tasks, *, deadline_s=None):
        pool = pyarrow.default_memory_pool().backend_name  # what Arrow chose by itself, in C++ too
        print(len(tasks), pool, *{modules} & set(sys.modules), flush=True)
        os._exit(0)
        yield

source, store, model = sys.argv[1:]
with open_run(CatalogConfig(source=source, store=store, model=model), quiet=True) as run:
    run.pool = Pool()
    reindex(run)
"""
_WORKER = """
import sys
from pathlib import Path
from pipeline.catalog.source import SourceSpec
from pipeline.embed.task import EmbedSettings, make_worker

source, store, model_id, cache = sys.argv[1:]
asked = EmbedSettings(store_uri=store, source=SourceSpec(uri=source), model_id=model_id, cache=Path(cache))
worker = make_worker(asked)
print(*{modules} & set(sys.modules), flush=True)
"""


def said(program: str, absent: str, *arguments: object) -> str:
    """What the program prints in a process of its own; ``absent`` are the modules that it looks for."""
    command = [
        sys.executable,
        "-c",
        program.replace("{modules}", repr(set(absent.split()))),
        *map(str, arguments),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARROW_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_driver_that_hands_out_images_holds_no_decoder_runtime_or_report(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a.jpg": jpeg(40, 30, seed=0)})
    model = tmp_path / "model.onnx"
    model.write_bytes(pool_model())
    absent = f"{_ELSEWHERE} onnx onnxruntime faiss PIL boto3 botocore"
    assert said(_DRIVER, absent, source, tmp_path / "store", model) == "1 system"


def test_worker_with_a_known_model_holds_nothing_of_the_index_of_reports_and_of_onnx(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    model_id = read_model(shop.model, "tiny").model_id
    absent = f"{_ELSEWHERE} onnx faiss rich typer ray"
    assert said(_WORKER, absent, shop.source, shop.store.uri, model_id, shop.cache) == ""
