"""Trains the weights of a query expansion: a small transformer over a query and its neighbours.

After Gordo, Radenovic and Berg, Attention-Based Query Expansion Learning, arXiv 2007.08019. It differs in
one thing: the weight of a neighbour is max(s, 0) ** alpha (alpha-weighted expansion) times 2 sigmoid(g),
and g starts as 0. So the untrained network is alpha-weighted expansion, and training only has to say
where that is wrong.

1. Vectors and learnt places (query, first neighbour, …) go through attention; g of a neighbour is the scaled
   cosine of its output with the query's.
2. The expanded query has to be nearer to images of its identity than to the hardest of others, by a margin;
   g has to say besides which neighbours are of the identity. Neighbours are dropped at random.
3. A fifth of the identities is kept back; the epoch with the best average precision on them is kept, the
   untrained one included.

Legend: B queries of a batch, N neighbours, T tokens (1 + N), D dimensions, W width, P positives, M negatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import UsageError
from pipeline.evaluate.exact_base import ExactBase
from pipeline.evaluate.metrics import average_precision_at
from pipeline.evaluate.reranking import relevant_ranks
from pipeline.model.expansion import METADATA_KEY, ExpansionCard
from pipeline.model.graph import parse, with_metadata
from pipeline.train.export import traced

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]

_HELD_BACK = 5  # one identity of so many
_POSITIVES = 8
_NEGATIVES = 24
_DEPTH = 1_000
_FARTHEST = -9.0  # where a query has no more images of others: no loss
_NOBODY = -1e4
_STEEPNESS = 10.0  # so that two numbers near 0 reach what they have to within a few hundred steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpansionSettings:
    """How the expansion is built and trained."""

    n: int = 16
    alpha: float = 3.0
    width: int = 128
    heads: int = 8
    layers: int = 2
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 1e-3
    margin: float = 0.1
    relevance: float = 0.3
    """Weight of the loss that asks which neighbours are of the identity."""
    dropped: float = 0.15
    """Share of the neighbours that a query does not see while it trains."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedExpansion:
    """The network of the best epoch, and the average precision on what was kept back, epoch by epoch."""

    net: "ExpansionNet"
    map_by_epoch: tuple[float, ...]
    """The first is the untrained network: alpha-weighted expansion."""
    best_epoch: int
    n_queries: int
    n_identities: int


class ExpansionNet(nn.Module):
    """Tokens [B, T, D], the query first, zeros for nobody, to weights [B, N]."""

    def __init__(self, dim: int, settings: ExpansionSettings) -> None:
        super().__init__()
        self.alpha = settings.alpha
        self.project = nn.Linear(dim, settings.width)
        self.place_TW = nn.Parameter(0.02 * torch.randn(1 + settings.n, settings.width))
        self.blocks = nn.ModuleList(_Block(settings.width, settings.heads) for _ in range(settings.layers))
        self.last = nn.Linear(settings.width, settings.width)
        self.scale = nn.Parameter(torch.zeros(()))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Weights that are not negative; 0 where there is nobody."""
        return self.weights(tokens_BTD, self.relevance(tokens_BTD))

    def weights(self, tokens_BTD: Tensor, relevance_BN: Tensor) -> Tensor:
        """The same from what ``relevance`` gave."""
        similarity_BN = (tokens_BTD[:, 1:] * tokens_BTD[:, :1]).sum(dim=2).clamp(min=0)
        present_BN = (tokens_BTD[:, 1:].abs().sum(dim=2) > 0).to(tokens_BTD.dtype)
        return similarity_BN**self.alpha * 2 * torch.sigmoid(relevance_BN) * present_BN

    def relevance(self, tokens_BTD: Tensor) -> Tensor:
        """The network's g of every neighbour, [B, N]: above 0 where it weighs more than its similarity."""
        absent_BT = (tokens_BTD.abs().sum(dim=2) == 0).to(tokens_BTD.dtype) * _NOBODY
        hidden_BTW = self.project(tokens_BTD) + self.place_TW
        for block in self.blocks:
            hidden_BTW = block(hidden_BTW, absent_BT)
        out_BTW = functional.normalize(self.last(hidden_BTW), dim=2)
        cosine_BN = (out_BTW[:, 1:] * out_BTW[:, :1]).sum(dim=2)
        return _STEEPNESS * (self.scale * cosine_BN + self.shift)


class _Block(nn.Module):
    """Attention, then a layer of twice the width, both added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)
        self.gathered = nn.Linear(width, width)
        self.layer = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_BTW: Tensor, absent_BT: Tensor) -> Tensor:
        n_tokens, width = x_BTW.shape[1:]
        each = width // self.heads
        asked_BTW = self.asked(self.before_attention(x_BTW))
        query, key, value = (
            part.reshape(-1, n_tokens, self.heads, each).transpose(1, 2) for part in asked_BTW.chunk(3, dim=2)
        )
        score_BHTT = query @ key.transpose(2, 3) / math.sqrt(each) + absent_BT[:, None, None, :]
        mixed_BTW = (score_BHTT.softmax(dim=3) @ value).transpose(1, 2).reshape(-1, n_tokens, width)
        x_BTW = x_BTW + self.gathered(mixed_BTW)
        return x_BTW + self.layer(self.before_layer(x_BTW))


def expanded(tokens_BTD: Tensor, weight_BN: Tensor) -> Tensor:
    """normalised(q + sum of w_i x_i), [B, D]."""
    return functional.normalize(
        tokens_BTD[:, 0] + (weight_BN[:, :, None] * tokens_BTD[:, 1:]).sum(dim=1), dim=1
    )


def train_expansion(
    base: ExactBase,
    code_N: Ints,
    settings: ExpansionSettings,
    progress: Callable[[int, float], None],
) -> TrainedExpansion:
    """Trains on the images of a base; deterministic for a seed on one machine.

    Args:
        base: Vectors of all images that training may see.
        code_N: The identity of each row of the base; -1 for one that only stands in the way.
        settings: Sizes and seed.
        progress: Told the mean average precision on what is kept back, after each epoch.

    Raises:
        UsageError: fewer than ten identities with several images.
    """
    count_G = np.bincount(code_N[code_N >= 0])
    several = np.flatnonzero(count_G > 1)
    if len(several) < 2 * _HELD_BACK:
        raise UsageError(
            f"an expansion is trained on identities with several images: expected at least {2 * _HELD_BACK}, "
            f"got {len(several)}",
            fix="choose a label that several images share",
        )
    generator = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)  # products are small: threads would wait for each other
    kept_back = generator.permutation(several)[: len(several) // _HELD_BACK]
    judged = np.flatnonzero(np.isin(code_N, kept_back))
    asking = np.flatnonzero(np.isin(code_N, np.setdiff1d(several, kept_back)))
    examples = _Examples.of(base, code_N, asking, settings)
    net = ExpansionNet(base.x_ND.shape[1], settings)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    maps = [_mean_ap(net, base, code_N, judged, settings.n)]
    best = {name: value.clone() for name, value in net.state_dict().items()}
    for epoch in range(settings.epochs):
        net.train()
        for rows in np.array_split(generator.permutation(len(asking)), max(1, len(asking) // settings.batch)):
            optimiser.zero_grad()
            _loss(net, examples, rows, settings, generator).backward()
            optimiser.step()
        maps.append(_mean_ap(net, base, code_N, judged, settings.n))
        progress(epoch + 1, maps[-1])
        if maps[-1] > max(maps[:-1]):
            best = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best)
    return TrainedExpansion(
        net=net.eval(),
        map_by_epoch=tuple(maps),
        best_epoch=int(np.argmax(maps)),
        n_queries=len(asking),
        n_identities=len(several) - len(kept_back),
    )


def expansion_file(net: ExpansionNet, card: ExpansionCard) -> bytes:
    """The ONNX file that ``search --rerank lattqe:model=FILE`` takes."""
    graph = traced(net.eval(), torch.zeros(2, 1 + card.n, card.dim), "vectors")
    return with_metadata(parse(graph, "the expansion"), {METADATA_KEY: card.model_dump_json()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Examples:
    """What training queries are shown: neighbours, images of their identity, and the hardest of others."""

    tokens_QTD: Tensor
    relevant_QN: Tensor
    positive: list[Ints]
    negative_QM: Ints
    x_ND: Tensor

    @classmethod
    def of(cls, base: ExactBase, code_N: Ints, asking: Ints, settings: ExpansionSettings) -> "_Examples":
        depth = settings.n + 4 * _NEGATIVES
        near_QK = base.nearest(base.x_ND[asking], depth, asking).row_QK
        relevant_QK = (code_N[near_QK] == code_N[asking, None]) & (near_QK >= 0)
        other_QK = (near_QK >= 0) & ~relevant_QK
        first_QM = np.argsort(~other_QK, axis=1, kind="stable")[:, :_NEGATIVES]
        negative_QM = np.where(
            np.take_along_axis(other_QK, first_QM, axis=1), np.take_along_axis(near_QK, first_QM, axis=1), -1
        )
        rows_of = {code: np.flatnonzero(code_N == code) for code in np.unique(code_N[asking]).tolist()}
        return cls(
            tokens_QTD=torch.from_numpy(_tokens(base, asking, near_QK[:, : settings.n])),
            relevant_QN=torch.from_numpy(relevant_QK[:, : settings.n].astype(np.float32)),
            positive=[rows_of[int(code_N[row])][rows_of[int(code_N[row])] != row] for row in asking],
            negative_QM=negative_QM,
            x_ND=torch.from_numpy(np.ascontiguousarray(base.x_ND)),
        )


def _tokens(base: ExactBase, asking: Ints, near_QN: Ints) -> Vectors:
    x_QND = np.where((near_QN >= 0)[:, :, None], base.x_ND[near_QN], 0)
    return np.concatenate([base.x_ND[asking][:, None], x_QND], axis=1).astype(np.float32)


def _loss(
    net: ExpansionNet,
    examples: _Examples,
    rows: Ints,
    settings: ExpansionSettings,
    generator: np.random.Generator,
) -> Tensor:
    seen = torch.from_numpy(generator.random((len(rows), settings.n)) >= settings.dropped)
    tokens_BTD = examples.tokens_QTD[rows].clone()
    tokens_BTD[:, 1:] *= seen[:, :, None]
    relevance_BN = net.relevance(tokens_BTD)
    query_BD = expanded(tokens_BTD, net.weights(tokens_BTD, relevance_BN))
    positive_BP = np.stack([generator.choice(examples.positive[row], _POSITIVES) for row in rows.tolist()])
    near_BP = (query_BD[:, None] * examples.x_ND[positive_BP]).sum(dim=2)
    negative_BM = examples.negative_QM[rows]
    far_BM = (query_BD[:, None] * examples.x_ND[negative_BM]).sum(dim=2)
    far_BM = far_BM.masked_fill(torch.from_numpy(negative_BM < 0), _FARTHEST)
    ranking = functional.relu(settings.margin + far_BM[:, None, :] - near_BP[:, :, None]).mean()
    judged_BN = functional.binary_cross_entropy_with_logits(
        relevance_BN, examples.relevant_QN[rows], reduction="none"
    )
    return ranking + settings.relevance * (judged_BN * seen).sum() / seen.sum().clamp(min=1)


def _mean_ap(net: ExpansionNet, base: ExactBase, code_N: Ints, judged: Ints, n: int) -> float:
    """Mean average precision of the expanded queries over the whole base, each without itself."""
    net.eval()
    tokens_QTD = torch.from_numpy(_tokens(base, judged, base.neighbours(judged, n)))
    with torch.no_grad():
        query_QD = expanded(tokens_QTD, net(tokens_QTD)).numpy()
    found = relevant_ranks(base.nearest(query_QD, _DEPTH, judged).row_QK, judged, code_N)
    return float(average_precision_at(found, _DEPTH).mean())
