"""Runs a learned query expansion: queries and their neighbours in, the neighbours' weights out.

The file is ONNX with one input, float32 [Q, 1 + N, D] (the query first, rows of zeros where there is no
neighbour), one output, float32 [Q, N], and a card under the key ``bitsieve.expansion``: for which embedding
model, how many neighbours, trained on what. Every query goes through the graph alone, so that company
changes nothing.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ModelError, WorkerError
from pipeline.model.runtime import first_line, load

METADATA_KEY = "bitsieve.expansion"


class ExpansionCard(BaseModel):
    """What people and searches must know of a learned expansion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model_id: str
    """The embedding model whose vectors it weighs."""
    dim: int = Field(ge=1)
    n: int = Field(ge=1)
    """Neighbours it looks at."""
    alpha: float = Field(ge=0)
    """The power of similarity that its weights start from."""
    label: str
    digest: str
    """The snapshot whose images it was trained on."""
    n_identities: int
    n_queries: int
    seed: int
    """Of the half of the identities that it was trained on, as `evaluate reranking` draws it."""


class ExpansionSession:
    """A loaded expansion; calls may come from many threads."""

    def __init__(self, data: bytes, where: str) -> None:
        """``where`` names the file in errors.

        Raises:
            ModelError: it is no learned expansion, or does not run.
        """
        self._session = load(data, where)
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.card = ExpansionCard.model_validate_json(metadata.get(METADATA_KEY, ""))
        except ValidationError as exc:
            raise ModelError(
                f"{where} is no learned query expansion: its metadata have no sound {METADATA_KEY}",
                "make one with `bitsieve train-expansion`",
            ) from exc
        self._where = where
        self._input = self._session.get_inputs()[0].name
        probe_QD = np.zeros((1, self.card.dim), dtype=np.float32)
        try:
            self.weigh(probe_QD, np.zeros((1, self.card.n, self.card.dim), dtype=np.float32))
        except WorkerError as exc:
            raise ModelError(f"{where} cannot run: {exc.message}") from exc

    def weigh(
        self, xq_QD: npt.NDArray[np.float32], x_QND: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Weights of the neighbours, float64 [Q, N].

        Raises:
            WorkerError: the graph does not take them, or gives what is no weight.
        """
        weight_QN = np.empty(x_QND.shape[:2])
        for weight_N, q_D, x_ND in zip(weight_QN, xq_QD, x_QND, strict=True):
            tokens_1TD = np.concatenate([q_D[None], x_ND])[None]
            try:
                found = self._session.run(None, {self._input: tokens_1TD})[0]
            except MemoryError:
                raise
            except Exception as exc:  # onnxruntime's own exception types are not public and share no base
                raise WorkerError(f"{self._where}: {first_line(exc)}") from exc
            if found.shape != (1, len(x_ND)) or not np.isfinite(found).all():
                raise WorkerError(f"{self._where} gave no weights for {len(x_ND)} neighbours")
            weight_N[:] = found[0]
        return weight_QN
