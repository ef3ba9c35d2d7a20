"""Checkpoints in the store: all that a training needs to go on as if it had never stopped.

An object is written once, under the number of its step, and carries the sha256 of what it holds; one that is
damaged is passed over for the one before. Kept are the newest two and the best. Loading executes nothing: a
checkpoint holds tensors, numbers and text.
"""

import io
import pickle
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from pipeline.errors import DataCorrupt, ModelError
from pipeline.fingerprint import sha256_hex
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore

FORMAT = 1
_KEPT = 2
_SHA256_BYTES = 64


def save_checkpoint(
    store: ObjectStore, key: str, step: int, state: dict[str, Any], keep: Collection[int]
) -> None:
    """Writes the state after ``step`` and deletes what is neither among the newest two nor in ``keep``."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "step": step, **state}, buffer)
    data = buffer.getvalue()
    store.put(layout.training_checkpoint(key, step), sha256_hex(data).encode() + data)
    steps = checkpoint_steps(store, key)
    for old in steps[:-_KEPT]:
        if old not in keep:
            store.delete(layout.training_checkpoint(key, old))


def newest_checkpoint(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """The newest whole state; None if there is none."""
    for step in reversed(checkpoint_steps(store, key)):
        try:
            return load_checkpoint(store, key, step)
        except DataCorrupt:
            continue
    return None


def load_checkpoint(store: ObjectStore, key: str, step: int) -> dict[str, Any]:
    """The state after ``step``.

    Raises:
        DataCorrupt: the object is not what was written.
        ObjectMissing: there is none.
    """
    name = layout.training_checkpoint(key, step)
    stored = store.get(name)
    digest, data = stored[:_SHA256_BYTES], stored[_SHA256_BYTES:]
    if digest != sha256_hex(data).encode():
        raise DataCorrupt(
            f"{name} in {store.uri} is damaged", "delete it and train again: it goes on before it"
        )
    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as exc:
        raise DataCorrupt(
            f"{name} in {store.uri} is no checkpoint: {exc}", "delete it and train again"
        ) from exc
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataCorrupt(f"{name} in {store.uri} is of another version", "train again")
    return state


def checkpoint_steps(store: ObjectStore, key: str) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    prefix = layout.training(key) + "checkpoints/"
    names = [stat.key.removeprefix(prefix).removesuffix(".pt") for stat in store.list_objects(prefix)]
    return sorted(int(name) for name in names if name.isdecimal())


def load_weights(net: nn.Module, weights: dict[str, Any], where: str) -> None:
    """Puts ``weights`` into ``net``.

    Raises:
        ModelError: they are of another architecture.
    """
    own = net.state_dict()
    missing = sorted(set(own) - set(weights))
    unknown = sorted(set(weights) - set(own))
    other = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unknown or other:
        first = (other or missing or unknown)[0]
        raise ModelError(
            f"{where} is of another architecture: {len(missing)} tensors are missing, {len(unknown)} are "
            f"unknown, {len(other)} have another shape; the first is {first!r}",
            fix="give the network, pooling and dim that it was trained with",
        )
    net.load_state_dict(weights)
