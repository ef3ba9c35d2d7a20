"""Loads a graph into onnxruntime on the execution provider that was asked for, and nothing less.

The device's out-of-memory errors have no type of their own in onnxruntime: they are known by their words.
"""

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

import onnxruntime

from pipeline.errors import ModelError, WorkerError
from pipeline.values import Precision, Provider

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PRECISIONS: dict[Provider, tuple[Precision, ...]] = {
    "cpu": ("float32",),
    "cuda": ("float32", "tf32"),
    "tensorrt": ("float32", "tf32", "float16"),
}
_SILENT = 4  # onnxruntime's log level "fatal": every error arrives as an exception
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|(cublas|cudnn)_status_alloc_failed", re.IGNORECASE
)


def check_precision(provider: Provider, precision: Precision) -> None:
    """Refuses a precision that the provider does not compute in.

    Raises:
        WorkerError: names what it can do.
    """
    if precision not in _PRECISIONS[provider]:
        raise WorkerError(
            f"the provider {provider} computes in {' or '.join(_PRECISIONS[provider])}, not in {precision}",
            "choose another --set embed.precision or another --provider; for half precision on CUDA convert "
            "the model itself to float16",
        )


def provider_options(provider: Provider, precision: Precision, cache: Path | None) -> list[dict[str, str]]:
    """The options of each provider that ``provider`` needs, itself first; TensorRT's engines go to ``cache``.

    Names are onnxruntime's own (https://onnxruntime.ai/docs/execution-providers). The arena grows by what is
    asked for, not by doubling, so that the largest batch that fits can be found.
    """
    if provider == "cpu":
        return [{}]
    tf32 = "0" if precision == "float32" else "1"
    cuda = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": tf32}
    if provider == "cuda":
        return [cuda, {}]
    tensorrt = {"trt_fp16_enable": "1" if precision == "float16" else "0"}
    if cache is not None:
        tensorrt |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache / "tensorrt")}
    return [tensorrt, cuda, {}]


def load(
    model_bytes: bytes,
    where: str,
    provider: Provider = "cpu",
    precision: Precision = "float32",
    cache: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session of one thread on ``provider``; ``where`` names the file in errors.

    Raises:
        ModelError: onnxruntime does not take the file.
        WorkerError: the provider is not there, or another one would run.
    """
    check_precision(provider, precision)
    wanted = _PROVIDERS[provider]
    if provider != "cpu":
        onnxruntime.preload_dlls()  # the CUDA libraries that pip installed beside it
    if wanted not in onnxruntime.get_available_providers():
        raise _wrong_provider(wanted, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    names = [wanted] if provider == "cpu" else [wanted, "CUDAExecutionProvider", "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(
            model_bytes,
            options,
            providers=list(dict.fromkeys(names)),
            provider_options=provider_options(provider, precision, cache),
        )
    except MemoryError:
        raise
    except Exception as exc:  # onnxruntime's own exception types are not public and share no base
        raise ModelError(f"{where} is an ONNX model that does not load: {first_line(exc)}") from exc
    if session.get_providers()[0] != wanted:
        raise _wrong_provider(wanted, session.get_providers())
    return session


def is_out_of_memory(exc: Exception) -> bool:
    """Whether an error of onnxruntime says that the device has no memory left."""
    return _OUT_OF_MEMORY.search(str(exc)) is not None


def first_line(exc: Exception) -> str:
    """An error of onnxruntime, short enough for a message."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]


def _wrong_provider(wanted: str, got: Iterable[str]) -> WorkerError:
    installed = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("onnxruntime", "onnxruntime-gpu")
        if _is_installed(name)
    ]
    return WorkerError(
        f"{wanted} was asked for, but only {', '.join(got)} can run; installed: {', '.join(installed)}",
        "install either the extra 'cpu' or the extra 'gpu' in a clean environment, never both; "
        "or run with --provider cpu",
    )


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
