"""Nothing that is read can carry code: the product has no loader that would run it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BitsieveError
from pipeline.exchange.embeddings import EmbeddingsSpec, open_embeddings
from pipeline.index.encoder import Encoder
from tests.support.tiny_catalogs import write_parquet

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load",
    "marshal.loads", "shelve.open", "joblib.load", "dill.load", "dill.loads", "yaml.load", "os.system",
}  # fmt: skip


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Where, what and how: every call by a dotted name in the product."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def says(call: ast.Call, name: str, value: object) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


def test_product_calls_no_loader_that_runs_code() -> None:
    assert [(where, name) for where, name, _ in calls() if name in FORBIDDEN] == []


def test_product_turns_no_pickle_of_numpy_or_torch_on() -> None:
    found = [(where, name, call) for where, name, call in calls() if name in {"np.load", "torch.load"}]
    assert len(found) >= 5
    assert [
        where for where, name, call in found if name == "np.load" and says(call, "allow_pickle", True)
    ] == []
    assert [
        where for where, name, call in found if name == "torch.load" and not says(call, "weights_only", True)
    ] == []
    assert not [where for where, _, call in calls() if says(call, "trust_remote_code", True)]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def test_trap_would_spring(tmp_path: Path) -> None:
    np.save(tmp_path / "trap.npy", np.array([Trap(tmp_path / "sprung")], dtype=object))
    np.load(tmp_path / "trap.npy", allow_pickle=True)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["embeddings", "encoder"])
def test_array_of_objects_is_refused_and_springs_no_trap(name: str, tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 3, dtype=object)
    if name == "embeddings":
        write_parquet(tmp_path / "clip" / "metadata" / "metadata_0.parquet", {"id": ["a", "b", "c"]})
        (tmp_path / "clip" / "img_emb").mkdir()
        np.save(tmp_path / "clip" / "img_emb" / "img_emb_0.npy", trap[:, None])
        with pytest.raises(BitsieveError, match="floating-point"):
            open_embeddings(EmbeddingsSpec(uri=str(tmp_path / "clip")))
    else:
        np.savez(tmp_path / "encoder.npz", mean_D=trap)
        with pytest.raises(BitsieveError, match="not an encoder"):
            Encoder.from_bytes((tmp_path / "encoder.npz").read_bytes())
    assert not (tmp_path / "sprung").exists()
