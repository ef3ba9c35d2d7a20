"""Single objects with bare boto3, as a user would fetch them: ``threads`` threads in each of ``processes``.

Every thread gets whole objects and reads their bodies; nothing is checked or kept. The keys are listed before
the clock starts.
"""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from jobs.bench.peers import plain

_PATIENCE_S = 600


def main() -> None:
    """Runs the processes and prints the one JSON line."""
    asked = plain.settings()
    spawn = multiprocessing.get_context("spawn")
    ready, spent = spawn.Barrier(asked["processes"] + 1), spawn.Queue()
    keys = _keys(_client(1), asked["bucket"], asked["prefix"])
    workers = [
        spawn.Process(target=_work, args=(asked, keys[number :: asked["processes"]], ready, spent))
        for number in range(asked["processes"])
    ]
    spent_s, seconds = plain.together(workers, ready, spent)
    plain.report(len(keys), seconds, cpu_ms_per_image=1000 * sum(spent_s) / max(1, len(keys)))


def _client(threads: int) -> Any:
    config = Config(max_pool_connections=threads, s3={"addressing_style": "path"})
    return boto3.client("s3", config=config)


def _keys(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [found["Key"] for page in pages for found in page.get("Contents", ())]


def _work(asked: plain.Spec, keys: list[str], ready: Any, spent: Any) -> None:
    client = _client(asked["threads"])

    def fetch(key: str) -> int:
        return len(client.get_object(Bucket=asked["bucket"], Key=key)["Body"].read())

    ready.wait(timeout=_PATIENCE_S)
    started = time.process_time()
    with ThreadPoolExecutor(asked["threads"]) as threads:
        for _ in threads.map(fetch, keys):
            pass
    spent.put(time.process_time() - started)


if __name__ == "__main__":
    main()
