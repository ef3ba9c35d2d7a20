"""Which model queries are of: the snapshot's own, or another whose vectors an accepted adapter takes over.

Vectors of two models have nothing to do with each other, even of equal dimensions: without an adapter that is
named, another model is refused, never searched with.
"""

from functools import partial

from jobs.models import model_bytes, stored_model
from jobs.search_queries import QueryModel
from pipeline.errors import StoreMismatch, UsageError
from pipeline.model.adapter_file import Adapter, named_adapter, read_adapters
from pipeline.model.described import remembered
from pipeline.model.probe import probe_in_child, read_in_child
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage import layout


def query_model(snapshot: OpenSnapshot, file: str | None, adapter: str | None) -> QueryModel:
    """The model of queries that the flags ``--model`` and ``--adapter`` name.

    Raises:
        StoreMismatch: the file is another model and no adapter is named; or the one that is named was
            refused, or joins other models.
    """
    own = snapshot.content.model
    chosen = None if adapter is None else named_adapter(read_adapters(snapshot.store), adapter)
    if chosen is not None:
        _check(snapshot, chosen)
    wanted_id = own.id if chosen is None else chosen.source.model_id
    if file is None:
        open_session = partial(_stored_session, snapshot, wanted_id)
    else:
        data = model_bytes(file)
        found = remembered(data, snapshot.cache, partial(read_in_child, data, file))
        if found.model_id != wanted_id:
            raise StoreMismatch(
                f"{file} is model {found.model_id[:12]}, "
                + (
                    f"the snapshot is of {own.id[:12]}"
                    if chosen is None
                    else f"adapter {chosen.digest[:12]} takes vectors of {wanted_id[:12]}"
                ),
                fix=_advice(snapshot, found.model_id),
            )
        if snapshot.store.stat(layout.model(found.model_id)) is None:
            probe_in_child(data, file)  # a hostile file ends there, not here
        open_session = partial(EmbeddingSession, data, cache=snapshot.cache, where=file)
    return QueryModel(
        model_id=wanted_id,
        dim=own.dim if chosen is None else chosen.source.dim,
        open_session=open_session,
        adapt=None if chosen is None else chosen.map().apply,
        advice=partial(_advice, snapshot),
    )


def _check(snapshot: OpenSnapshot, chosen: Adapter) -> None:
    """That it leads to this snapshot's model, and may be used."""
    own = snapshot.content.model.id
    if chosen.target.model_id != own:
        raise StoreMismatch(
            f"adapter {chosen.digest[:12]} leads to model {chosen.target.model_id[:12]}, the snapshot is of "
            f"{own[:12]}",
            fix="see `bitsieve adapter list` for what leads where",
        )
    if not chosen.accepted:
        raise StoreMismatch(
            f"adapter {chosen.digest[:12]} was refused: {chosen.verdict}",
            fix="search with the model of this snapshot, or fit an adapter on more images",
        )


def _advice(snapshot: OpenSnapshot, model_id: str) -> str:
    """What to do with queries of this model."""
    plain = "embed the queries with the model of this snapshot"
    own = snapshot.content.model.id
    for one in read_adapters(snapshot.store):
        if one.accepted and (one.source.model_id, one.target.model_id) == (model_id, own):
            return f"{plain}, or pass --adapter {one.digest[:12]}, which takes them over"
    return f"{plain}, or see `bitsieve adapter fit --help`"


def _stored_session(snapshot: OpenSnapshot, model_id: str) -> EmbeddingSession:
    is_own = model_id == snapshot.content.model.id
    if not is_own and snapshot.store.stat(layout.model(model_id)) is None:
        raise UsageError(
            f"{snapshot.store.uri} does not have the model {model_id[:12]} that the adapter leads from",
            fix="pass its ONNX file with --model",
        )
    model, data = stored_model(snapshot.store, model_id, snapshot.cache)
    return EmbeddingSession(data, cache=snapshot.cache, where=model.card.name)
