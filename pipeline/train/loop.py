"""The training loop of one rank: from the newest checkpoint to the last step or the end of progress.

1. Every random choice follows from the seed and the number of the step, so a killed run repeats nothing and
   skips nothing.
2. A batch: own slice through the network, vectors of all ranks gathered, the loss of the whole, gradients
   summed.
3. Every ``validate_every`` steps, and before the first: retrieval on the validation images, then a
   checkpoint.
4. ``patience`` validations without a better MAP@R end the training; the best step's weights are the result.

Rank 0 writes; the others only compute. All ranks come to the same decisions from the same figures.
"""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore
from pipeline.train.checkpoint import load_checkpoint, load_weights, newest_checkpoint, save_checkpoint
from pipeline.train.examples import Examples, image_seed
from pipeline.train.networks import EmbeddingNet
from pipeline.train.objective import Objective, is_finite
from pipeline.train.optimise import make_optimizer, rate_at, set_rate
from pipeline.train.ranks import Ranks
from pipeline.train.sampling import BatchPlan, Labels
from pipeline.train.settings import document
from pipeline.train.stored import Older
from pipeline.train.upgrade import Upgrade
from pipeline.train.validate import Validation, validate

_CURVE_POINTS = 2000
_TELL_EVERY_S = 1.0
_EMBED_AT_ONCE = 64
_LARGEST_GRADIENT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Data:
    """Labels of all usable images, and the places of those to train on and those to validate on.

    With an older model the best step is chosen on ``held``, and ``older.judge`` are further images apart.
    """

    labels: Labels
    train: NDArray[np.int64]
    held: NDArray[np.int64]
    n_classes: int
    older: Older | None = None

    @property
    def single_labels(self) -> bool:
        """Whether each image has one label."""
        return self.labels.ndim == 1


@dataclass(slots=True, kw_only=True)
class History:
    """What a training has come to: losses by step, validations by step, the best of them."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best: float = -1.0
    worse_since: int = 0

    def add(self, step: int, found: Validation, on_older: Validation | None = None) -> None:
        """Takes up a validation, by MAP@R; with an older model by the mean with MAP@R on its vectors."""
        self.validations.append({"step": step, **found.document()})
        reached = found.map_at_r
        if on_older is not None:
            self.validations[-1]["on_older"] = on_older.document()
            reached = (reached + on_older.map_at_r) / 2
        if reached > self.best:
            self.best, self.best_step, self.worse_since = reached, step, 0
        else:
            self.worse_since += 1

    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "losses": [list(point) for point in self.losses],
            "validations": self.validations,
            "best_step": self.best_step,
            "best": self.best,
            "worse_since": self.worse_since,
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> "History":
        """The history that ``document`` made the document of."""
        losses = [(int(step), float(loss)) for step, loss in document["losses"]]
        return cls(**{**document, "losses": losses})


class Training:
    """One rank's network, loss, optimiser and history."""

    def __init__(
        self,
        net: EmbeddingNet,
        data: Data,
        examples: Examples,
        settings: TrainConfig,
        *,
        store: ObjectStore,
        key: str,
        ranks: Ranks | None = None,
        device: str = "cpu",
    ) -> None:
        self.ranks = ranks or Ranks()
        self.settings = settings
        self.net = self.ranks.joined(net).to(device)
        self.data = data
        self.examples = examples
        self.plan = BatchPlan(
            data.labels[data.train], settings.classes, settings.images, settings.random_images, settings.seed
        )
        if self.plan.batch_size % self.ranks.count:
            raise UsageError(
                f"{self.plan.batch_size} images a batch cannot be shared by {self.ranks.count} workers",
                fix="choose train.classes and train.images so that it can",
            )
        if settings.freeze_trunk:
            net.trunk.requires_grad_(requires_grad=False)
        torch.manual_seed(settings.seed)
        self.objective = Objective(settings, data.n_classes if data.single_labels else 0, net.head).to(device)
        self.optimizer = make_optimizer(self.net, self.objective, settings)
        self.history = History()
        self.step = 0
        self._labels = torch.from_numpy(np.ascontiguousarray(data.labels)).to(device)
        self.upgrade = None if data.older is None else Upgrade(settings, data.older, self._labels, data.train)
        self._store = store
        self._key = key
        self._device = device
        self._told_s = 0.0
        self._resume()

    def run(self) -> dict[str, Any]:
        """Trains to the end; the result document, which rank 0 has also written to the store."""
        if not self.history.validations:
            self._validate()
        with ThreadPoolExecutor(1, "batches") as ahead:
            coming = self._prepare(ahead, self.step)
            while not self._is_over:
                inputs = coming.result()
                if self.step + 1 < self.settings.steps:
                    coming = self._prepare(ahead, self.step + 1)
                self._learn(inputs)
                if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                    self._validate()
        return self._end()

    @property
    def _is_over(self) -> bool:
        return self.step >= self.settings.steps or self.history.worse_since >= self.settings.patience

    def _rows(self, step: int) -> NDArray[np.int64]:
        return self.data.train[self.plan.batch(step)]

    def _prepare(self, ahead: ThreadPoolExecutor, step: int) -> Future[Tensor]:
        own = self.ranks.share(self.plan.batch_size)
        return ahead.submit(self.examples.batch, self._rows(step)[own], step, own.start)

    def _learn(self, inputs: Tensor) -> None:
        """One step."""
        seed = image_seed(self.settings.seed, self.step, 0)
        torch.manual_seed(seed)  # dropout and dropped regions: equal on every rank and in every sitting
        rows = self._rows(self.step)
        self._train_mode()
        e_BD = self.ranks.gather(self._embedded(inputs))
        images_B = torch.from_numpy(rows).to(self._device)
        loss = self.objective(e_BD, self._labels[images_B], images_B, seed)
        if self.upgrade is not None:
            loss = loss + self.upgrade.loss(e_BD.float(), images_B, seed)
        if not is_finite(loss):
            raise self._diverged(rows, float(loss.item()))
        self.optimizer.zero_grad()
        loss.backward()
        self.ranks.sum_gradients(self.net)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), _LARGEST_GRADIENT)
        set_rate(self.optimizer, rate_at(self.step, self.settings))
        self.optimizer.step()
        if self.step % max(1, self.settings.steps // _CURVE_POINTS) == 0:
            self.history.losses.append((self.step, float(loss.item())))
        self.step += 1
        self._tell()

    def _embedded(self, inputs: Tensor) -> Tensor:
        half = self.settings.precision == "bfloat16"
        with torch.autocast(torch.device(self._device).type, dtype=torch.bfloat16, enabled=half):
            embedded: Tensor = self.net(inputs.to(self._device))
        return embedded

    def _train_mode(self) -> None:
        self.net.train()
        if self.settings.freeze_trunk:
            self.net.trunk.eval()

    def _validate(self) -> None:
        """Judges the network on the validation images, each rank embedding its share; then a checkpoint."""
        e_ND = self._embed_all(self.data.held)
        found = validate(e_ND, self._labels[torch.from_numpy(self.data.held)], self.settings.shared_labels)
        self.history.add(
            self.step, found, None if self.upgrade is None else self.upgrade.validate(e_ND, self.data.held)
        )
        if self.ranks.number == 0:
            save_checkpoint(self._store, self._key, self.step, self._state(), {self.history.best_step})
            self._write("curves", self.history.document())
        self._tell(now=True)
        self.ranks.in_step()

    def _embed_all(self, places: NDArray[np.int64]) -> Tensor:
        """The vectors of these images, in order, as in use."""
        n_more = -len(places) % self.ranks.count
        padded = np.concatenate([places, np.repeat(places[:1], n_more)])
        own = padded[self.ranks.share(len(padded))]
        self.net.eval()
        with torch.no_grad():
            parts = [
                self._embedded(self.examples.plain(own[start : start + _EMBED_AT_ONCE]))
                for start in range(0, len(own), _EMBED_AT_ONCE)
            ]
            return self.ranks.gather(torch.cat(parts))[: len(places)]

    def _state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "objective": self.objective.state_dict(),
            "memory": self.objective.memory.state(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.document(),
        }

    def _resume(self) -> None:
        state = newest_checkpoint(self._store, self._key)
        if state is None:
            return
        load_weights(self.net, state["net"], f"the checkpoint of step {state['step']}")
        load_weights(self.objective, state["objective"], f"the loss of step {state['step']}")
        self.objective.memory.load(state["memory"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History.of(state["history"])
        self.step = int(state["step"])

    def _diverged(self, rows: NDArray[np.int64], loss: float) -> UsageError:
        if self.ranks.number == 0:
            rows_now = [int(row) for row in rows]
            self._write("diverged", {"step": self.step, "loss": repr(loss), "rows": rows_now})
        where = layout.training_file(self._key, "diverged")
        return UsageError(
            f"the loss of step {self.step} is {loss}: the training stops; its batch is in {where}",
            fix="lower train.learning_rate, or train.precision float32; the checkpoint before it is kept",
        )

    def _end(self) -> dict[str, Any]:
        first, last = self.history.validations[0], self.history.validations[-1]
        best = next(found for found in self.history.validations if found["step"] == self.history.best_step)
        result = {
            "key": self._key,
            "steps": self.step,
            "stopped": "steps" if self.step >= self.settings.steps else "patience",
            "best_step": self.history.best_step,
            "n_validations": len(self.history.validations),
            "untrained": first,
            "validation": best,
            "last": last,
            "settings": document(self.settings),
            "older": self._judged(),
        }
        if self.ranks.number == 0:
            self._write("curves", self.history.document())
            self._write("result", result)
        return result

    def _judged(self) -> dict[str, Any] | None:
        """What the best step's vectors are to the older model's; None where there is none."""
        if self.upgrade is None:
            return None
        state = load_checkpoint(self._store, self._key, self.history.best_step)
        load_weights(self.net, state["net"], f"the checkpoint of step {state['step']}")
        return self.upgrade.judge(self._embed_all, self.data.held)

    def _tell(self, *, now: bool = False) -> None:
        if self.ranks.number != 0 or (not now and time.monotonic() - self._told_s < _TELL_EVERY_S):
            return
        self._told_s = time.monotonic()
        loss = self.history.losses[-1][1] if self.history.losses else None
        latest = self.history.validations[-1] if self.history.validations else None
        self._write("progress", {"step": self.step, "loss": loss, "validation": latest})

    def _write(self, name: str, document: dict[str, Any]) -> None:
        self._store.put(layout.training_file(self._key, name), json.dumps(document).encode())
