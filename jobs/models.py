"""Which model a job uses: the one it is given, else the one its collection was made with.

A model that is given is put into the store under its id, so that search, evaluation and every later night
find the very same file.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.run import Run
from pipeline.errors import DataCorrupt, ModelError, ObjectMissing, StorageError, UsageError
from pipeline.model.builtin import BUILTIN_FILE
from pipeline.model.described import Model, remembered
from pipeline.model.probe import probe_in_child, read_in_child
from pipeline.snapshot.publish import newest
from pipeline.storage import layout
from pipeline.storage.commit import commit
from pipeline.storage.open import open_store
from pipeline.storage.store import ObjectStore

BUILTIN, FILTERS = "builtin", "builtin-filters"
_LOG = logging.getLogger(__name__)


def collection_model(run: Run) -> Model:
    """The model of this run, present in the store.

    Raises:
        ModelError: the file cannot be read, or does not say how it wants its input.
        UsageError: no model is given and the collection does not exist yet.
    """
    if run.config.model is not None:
        data = model_bytes(run.config.model)
        model = remembered(data, run.cache, partial(read_in_child, data, run.config.model))
        if run.store.stat(layout.model(model.model_id)) is None:
            probe_in_child(data, run.config.model)  # a hostile file ends there, not here
            commit(run.store, layout.model(model.model_id), data)
    else:
        manifest = newest(run.store, run.config.collection)
        if manifest is None:
            raise UsageError(
                f"collection {run.config.collection!r} has no model yet",
                fix="pass --model FILE.onnx (or `builtin`)",
            )
        model = _stored(run.store, manifest.content.model.id, run.cache, read_in_child)[0]
    if model.static_batch == 1:
        _LOG.warning(
            "the batch axis of %s is fixed at 1: images go through one by one, which is slow; "
            "export it with a dynamic batch axis",
            model.card.name,
        )
    return model


def model_bytes(where: str) -> bytes:
    """An ONNX file, local or on S3, or one of the models that bitsieve brings, by its name."""
    if where == BUILTIN:
        return BUILTIN_FILE.read_bytes()
    if where == FILTERS:
        from pipeline.model.filters import build_filter_model  # it takes the onnx package

        return build_filter_model()
    folder, _, name = where.rpartition("/")
    try:
        if where.startswith("s3://"):
            return open_store(folder).get(name)
        return Path(where).read_bytes()
    except (ObjectMissing, FileNotFoundError, IsADirectoryError) as exc:
        raise ModelError(f"there is no model file {where}", fix="check --model") from exc
    except OSError as exc:
        raise ModelError(
            f"the model file {where} cannot be read: {exc.strerror}", fix="check --model"
        ) from exc


def stored_model(store: ObjectStore, model_id: str, cache: Path) -> tuple[Model, bytes]:
    """The model of a snapshot and its file; ``cache`` is the folder of this machine that remembers models.

    Raises:
        StorageError: the store does not have it any more.
    """
    return _stored(store, model_id, cache, _read_here)


def _stored(
    store: ObjectStore, model_id: str, cache: Path, read: Callable[[bytes, str], Model]
) -> tuple[Model, bytes]:
    key = layout.model(model_id)
    try:
        data = store.get(key)
    except ObjectMissing as exc:
        raise StorageError(
            f"{store.uri} has lost the model {key} that its snapshot was made with",
            fix="run `bitsieve reindex --model FILE` with the same model once more",
        ) from exc
    model = remembered(data, cache, partial(read, data, key))
    if model.model_id != model_id:
        raise DataCorrupt(
            f"{key} in {store.uri} holds another model: its id is {model.model_id}",
            fix="delete the object and run `bitsieve reindex --model FILE` with the right one",
        )
    return model, data


def _read_here(data: bytes, where: str) -> Model:
    from pipeline.model.file import read_model

    return read_model(data, where)
