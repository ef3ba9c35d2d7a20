"""Fixed shapes on bound buffers, and what happens when the device has no memory for one: real failures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import WorkerError
from pipeline.model.batches import BatchRunner, LargestBatch
from pipeline.model.file import read_model
from pipeline.model.runtime import check_precision, load, provider_options
from pipeline.model.session import EmbeddingSession
from tests.support import models

_LIMITED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import WorkerError
from pipeline.model.batches import BatchRunner, LargestBatch
from pipeline.model.file import read_model
from pipeline.model.runtime import load
from tests.support import models

data = models.hungry_model()
model, session = read_model(data, "hungry"), load(data, "hungry")
runner = BatchRunner(session, model, (1, 8, 64), "cpu", LargestBatch(Path(sys.argv[1]), "hungry"))
taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), resource.RLIM_INFINITY))
images = [np.full(model.pixels_shape, number + 1, dtype=np.float32) for number in range(70)]
out_ND = np.zeros((70, 3), dtype=np.float32)
try:
    runner.run(images, out_ND)
    print(json.dumps({"shapes": runner.shapes, "first": out_ND[:, 0].tolist()}))
except WorkerError as exc:
    print(json.dumps({"shapes": runner.shapes, "error": exc.message}))
"""


def limited(folder: Path, room_bytes: int) -> dict[str, object]:
    """70 images of 12.6 MB each in a process that may take ``room_bytes`` more than it began with."""
    command = [sys.executable, "-c", _LIMITED, str(folder), str(room_bytes)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_batch_that_does_not_fit_is_halved_and_no_image_is_lost(tmp_path: Path) -> None:
    answer = limited(tmp_path, 300 << 20)
    assert answer["first"] == [number + 1 for number in range(70)]
    shapes = answer["shapes"]
    assert isinstance(shapes, list)
    assert shapes[0] == 1
    assert 1 < shapes[-1] < 64
    remembered = LargestBatch(tmp_path, "hungry").read()
    assert remembered == shapes[-1]
    data = models.pool_model()
    again = BatchRunner(
        load(data, "pool"), read_model(data, "pool"), (1, 8, 64), "cpu", LargestBatch(tmp_path, "hungry")
    )
    assert again.shapes[-1] == remembered


def test_single_image_that_does_not_fit_is_an_error_of_the_worker(tmp_path: Path) -> None:
    answer = limited(tmp_path, 8 << 20)
    assert answer["shapes"] == [1]
    assert "allocate memory" in str(answer["error"])


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9, 17, 23])
def test_bound_buffers_give_each_image_its_own_vector(count: int) -> None:
    data = models.projection_model("MLP")
    model = read_model(data, "mlp")
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 255, model.pixels_shape).astype(np.float32) for _ in range(count)]
    got_ND = np.zeros((count, model.card.dim), dtype=np.float32)
    BatchRunner(load(data, "mlp"), model, (1, 4, 8), "cpu").run(images, got_ND)
    with EmbeddingSession(data) as session:
        np.testing.assert_allclose(got_ND, session.run_raw(images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 0}', '{"images": "8"}', "\0"])
def test_largest_batch_that_cannot_be_read_is_not_known(text: str, tmp_path: Path) -> None:
    (tmp_path / "largest-batch-m.json").write_text(text)
    assert LargestBatch(tmp_path, "m").read() is None


def test_largest_batch_in_a_folder_that_cannot_be_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    LargestBatch(tmp_path / "file", "m").write(8)
    assert LargestBatch(tmp_path / "file", "m").read() is None


def test_precision_that_a_provider_does_not_have_is_refused() -> None:
    check_precision("tensorrt", "float16")
    for provider, precision in (("cpu", "float16"), ("cpu", "tf32"), ("cuda", "float16")):
        with pytest.raises(WorkerError, match=f"not in {precision}"):
            check_precision(provider, precision)  # type: ignore[arg-type]


def test_provider_options_turn_reduced_precision_off_unless_asked_for(tmp_path: Path) -> None:
    assert provider_options("cpu", "float32", tmp_path) == [{}]
    assert provider_options("cuda", "float32", None)[0]["use_tf32"] == "0"
    assert provider_options("cuda", "tf32", None)[0]["use_tf32"] == "1"
    tensorrt, cuda, _ = provider_options("tensorrt", "float16", tmp_path)
    assert tensorrt["trt_fp16_enable"] == "1"
    assert Path(tensorrt["trt_engine_cache_path"]).parent == tmp_path
    assert cuda["arena_extend_strategy"] == "kSameAsRequested"
