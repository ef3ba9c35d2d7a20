"""``bitsieve train-expansion``: learns which neighbours should speak for a query, for ``search --rerank``."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jobs.evaluate.subject import label_column, labelled_vectors
from jobs.output import AsJson, print_result, say
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from pipeline.errors import UsageError
from pipeline.evaluate.exact_base import ExactBase
from pipeline.evaluate.reranking import halves, identity_codes
from pipeline.model.expansion import ExpansionCard


def command(
    store: Store,
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="How many neighbours it looks at.")] = 16,
    epochs: Annotated[int, typer.Option(min=0, help="0 writes the untrained one: alpha-qe.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the half that is trained on, and of the training.")] = 0,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    as_json: AsJson = False,
) -> None:
    """Trains a query expansion on half of the identities; `evaluate reranking` with the same seed judges it.

    Example: bitsieve train-expansion --store index/ --label identity -o expansion.onnx
    """
    try:
        from pipeline.train.expansion import ExpansionSettings, expansion_file, train_expansion
    except ImportError as exc:
        raise UsageError(f"training needs torch: {exc}", fix="pip install 'bitsieve[cpu,train]'") from exc
    snapshot = find_place(store, collection, config).snapshot(sequence)
    column = label_column(snapshot, label)
    labelled = labelled_vectors(snapshot, column)
    exact = ExactBase(labelled.x_ND, labelled.ids)
    code_N = identity_codes(exact, labelled.labels)
    _, judging = halves(code_N, seed)
    seen = np.flatnonzero(~np.isin(code_N, judging))  # no image of an identity that will judge
    names = [labelled.ids[row] for row in exact.given_N[seen].tolist()]
    settings = ExpansionSettings(n=neighbours, epochs=epochs, seed=seed)
    trained = train_expansion(
        ExactBase(exact.x_ND[seen], names),
        code_N[seen],
        settings,
        lambda epoch, value: say(
            f"bitsieve: epoch {epoch} of {epochs}: mAP {value:.4f} on what is kept back"
        ),
    )
    card = ExpansionCard(
        model_id=snapshot.content.model.id,
        dim=snapshot.content.model.dim,
        n=neighbours,
        alpha=settings.alpha,
        label=column,
        digest=snapshot.manifest.digest,
        n_identities=trained.n_identities,
        n_queries=trained.n_queries,
        seed=seed,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(expansion_file(trained.net, card))
    except OSError as exc:
        raise UsageError(f"{output} cannot be written: {exc.strerror}", fix="check -o") from exc
    result: dict[str, Any] = {
        "output": str(output),
        "map_by_epoch": list(trained.map_by_epoch),
        "best_epoch": trained.best_epoch,
        "card": card.model_dump(),
        "snapshot": snapshot.manifest.sequence,
    }
    first, best = trained.map_by_epoch[0], trained.map_by_epoch[trained.best_epoch]
    words = (
        f"{output}: mAP {best:.4f} after epoch {trained.best_epoch}, {first:.4f} untrained (alpha-qe), on "
        f"identities kept back; {trained.n_queries:,} queries of {trained.n_identities:,} others trained it"
    )
    print_result(result, words, as_json=as_json)
