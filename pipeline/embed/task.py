"""What embedding an image shard is known by and needs to be told; imports nothing that embeds.

The driver of a run handles settings, keys and receipts for hours, and holds neither ONNX Runtime nor Pillow.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.catalog.plan import ImageShard
from pipeline.catalog.source import SourceSpec
from pipeline.embed.table import VectorDtype
from pipeline.fingerprint import task_key
from pipeline.values import DecodeLimits, Precision, Provider

if TYPE_CHECKING:
    from pipeline.embed.worker import EmbedWorker

STAGE = "embed"
STAGE_VERSION = 3
PART = "embeddings"
REJECTS = "rejects"
REUSED = "reused"  # the count of rows whose vectors are those of earlier parts


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """What an embedding worker has to know; small and picklable.

    ``threads``, ``batch_size`` and ``memory_budget_bytes`` say how to compute, not what: they are in no key.
    The budget bounds what a worker holds beside the model: a quarter each for images being read, images that
    wait, pixels being decoded and inputs of the model. One image may always be held, whatever it takes; what
    is settled is written in row groups of at most 4 MiB of vectors.
    """

    store_uri: str
    source: SourceSpec
    model_id: str
    cache: Path
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    provider: Provider = "cpu"
    precision: Precision = "float32"
    dtype: VectorDtype = "float32"
    threads: int = 1
    batch_size: int = 8
    memory_budget_bytes: int = 128 << 20

    @property
    def config(self) -> dict[str, Any]:
        """The embed config: what, beside the images, decides the bytes of a part."""
        return {
            "model_id": self.model_id,
            "provider": self.provider,
            "precision": self.precision,
            "dtype": self.dtype,
            "limits": asdict(self.limits),
        }


def embed_key(shard: ImageShard, settings: EmbedSettings) -> str:
    """The key of a shard's part: the embed config, and the images with their versions and redo counter."""
    redo = {"redo": shard.redo} if shard.redo else {}
    return task_key(STAGE, STAGE_VERSION, settings.config | redo, [shard.digest])


def make_worker(settings: EmbedSettings) -> "EmbedWorker":
    """A worker with its model loaded, in the process that calls; what it needs is imported there."""
    from pipeline.embed.worker import EmbedWorker

    return EmbedWorker(settings)
