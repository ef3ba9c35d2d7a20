"""Opens existing embeddings: tells what they are, and finds their files."""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import SourceError
from pipeline.exchange.blocks import Block
from pipeline.exchange.numpy_blocks import numpy_blocks
from pipeline.exchange.parquet_blocks import ParquetFileRef, parquet_blocks
from pipeline.storage.open import open_store
from pipeline.storage.store import ObjectStore

_INDEX_ENDINGS = (".faiss", ".index", ".ivf", ".bin")
_IDS_SUFFIX = ".ids.parquet"


class EmbeddingsFormat(StrEnum):
    """How existing embeddings are kept."""

    PARQUET = "parquet"
    CLIP_RETRIEVAL = "clip-retrieval"
    FAISS = "faiss"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsSpec:
    """Where existing embeddings are and how they are read; None means told from what is there."""

    uri: str
    format: EmbeddingsFormat | None = None
    id_column: str | None = None
    vector_column: str | None = None
    ids: str | None = None


def open_embeddings(spec: EmbeddingsSpec) -> list[Block]:
    """The rows, block by block, in a fixed order.

    Raises:
        SourceError: nothing is there, or it is not what it is taken for.
    """
    if spec.ids is not None and _told(spec, []) is not EmbeddingsFormat.FAISS:
        raise SourceError(
            "a file of ids goes with a Faiss index", fix="leave --ids away, or pass --format faiss"
        )
    folder, name = _split(spec.uri)
    if name and folder.stat(name) is not None:
        if _told(spec, [name]) is EmbeddingsFormat.FAISS:
            return _index(spec)
        return parquet_blocks(folder, [name], spec.id_column, spec.vector_column)
    store = open_store(spec.uri)
    keys = [stat.key for stat in store.list_objects()]
    if not keys:
        raise SourceError(f"there are no embeddings at {spec.uri}", fix="check the path")
    kind = _told(spec, keys)
    if kind is EmbeddingsFormat.CLIP_RETRIEVAL:
        return numpy_blocks(store, keys, spec.id_column)
    files = [key for key in keys if key.endswith(".parquet")]
    if kind is EmbeddingsFormat.FAISS or not files:
        raise SourceError(
            f"{spec.uri} is a folder without Parquet files", fix="name the file, or pass --format"
        )
    return parquet_blocks(store, files, spec.id_column, spec.vector_column)


def _told(spec: EmbeddingsSpec, keys: list[str]) -> EmbeddingsFormat:
    if spec.format is not None:
        return spec.format
    if spec.uri.endswith(_INDEX_ENDINGS):
        return EmbeddingsFormat.FAISS
    is_clip = any(key.startswith("img_emb/") for key in keys)
    return EmbeddingsFormat.CLIP_RETRIEVAL if is_clip else EmbeddingsFormat.PARQUET


def _index(spec: EmbeddingsSpec) -> list[Block]:
    from pipeline.exchange.faiss_blocks import faiss_blocks

    store, name = _split(spec.uri)
    path = store.local_path(name)
    if path is None:
        raise SourceError(f"a Faiss index is mapped, and {spec.uri} is remote", fix="copy it to this machine")
    ids = None
    if spec.ids is not None:
        ids_store, ids_name = _split(spec.ids)
        ids = ParquetFileRef(store=ids_store, key=ids_name)
    elif store.stat(name + _IDS_SUFFIX) is not None:
        ids = ParquetFileRef(store=store, key=name + _IDS_SUFFIX)
    return faiss_blocks(path, ids, spec.id_column)


def _split(uri: str) -> tuple[ObjectStore, str]:
    """The folder of a file as a store, and the name of the file in it; no name if it is a bucket."""
    scheme, separator, rest = uri.partition("://")
    folder, _, name = rest.rpartition("/") if separator else uri.rpartition("/")
    if separator and not folder:
        return open_store(uri), ""
    return open_store(f"{scheme}://{folder}" if separator else folder or "/"), name
