"""Ray Data as its documentation has it: read_webdataset, map_batches with an actor pool, write_parquet.

``actors`` and ``batch`` as given; with ``decode`` "map" the images are decoded in tasks of their own, with
"actor" in the actor that runs the model. The clock starts when the first task decodes or the first actor
begins to load the model, whichever is earlier, so that Ray's start is apart, as it is for bitsieve.
"""

import os
import time
from typing import Any

import numpy as np

from jobs.bench.peers import plain

Batch = dict[str, Any]


class Decode:
    """Bytes to pixels; ids whose image does not decode are dropped."""

    def __init__(self, asked: plain.Spec) -> None:
        self._asked = asked
        self._marked = False

    def __call__(self, batch: Batch) -> Batch:
        """Decodes one batch."""
        if not self._marked:
            plain.mark(self._asked, "began")
            self._marked = True
        pixels = [plain.load(_image(batch, row), self._asked["preprocess"]) for row in range(_length(batch))]
        good = [row for row, one in enumerate(pixels) if one is not None]
        if not good:
            return {"image_id": np.array([], dtype=str), "pixels": np.zeros((0, 1))}
        keys = np.asarray(batch["__key__"])[good]
        return {"image_id": keys, "pixels": np.stack([pixels[row] for row in good])}


class Embed:
    """The actor: loads the model once; decodes too, unless a map has done it."""

    def __init__(self, asked: plain.Spec) -> None:
        plain.mark(asked, "began")
        self._decode = None if asked["decode"] == "map" else Decode(asked)
        self._net = plain.Net(asked, asked["threads"])
        plain.mark(asked, "loaded")

    def __call__(self, batch: Batch) -> Batch:
        """Embeds one batch."""
        if self._decode is not None:
            batch = self._decode(batch)
        return {"image_id": batch["image_id"], "embedding": self._net(batch["pixels"])}


def _image(batch: Batch, row: int) -> bytes:
    for extension in plain.IMAGE_EXTENSIONS:
        if extension in batch and batch[extension][row] is not None:
            return bytes(batch[extension][row])
    return b""


def _length(batch: Batch) -> int:
    return len(batch["__key__"])


def main() -> None:
    """Runs the pipeline and prints the one JSON line."""
    asked = plain.settings()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.data

    entered = time.perf_counter()
    ray.init(
        num_cpus=asked["cores"],
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=f"{asked['scratch']}/ray",  # Ray opens its folder to everybody, not the one around it
    )
    ray_start_s = time.perf_counter() - entered
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        images = ray.data.read_webdataset(
            asked["tars"], decoder=None, suffixes=list(plain.IMAGE_EXTENSIONS), num_cpus=asked["read_cpus"]
        )
        if asked["decode"] == "map":
            images = images.map_batches(
                Decode(asked).__call__, batch_size=asked["batch"], num_cpus=asked["read_cpus"]
            )
        pool = ray.data.ActorPoolStrategy(size=asked["actors"])
        vectors = images.map_batches(
            Embed,
            fn_constructor_args=(asked,),
            compute=pool,
            batch_size=asked["batch"],
            num_cpus=asked["actor_cpus"],
        )
        called = time.time()
        vectors.write_parquet(asked["output"])
        ended = time.time()
    finally:
        ray.shutdown()
    began = plain.first_mark_s(asked, "began")
    plain.report(
        asked["n_images"],
        ended - began,
        ray_start_s=ray_start_s,
        seconds_with_actor_start=ended - called,
    )


if __name__ == "__main__":
    main()
