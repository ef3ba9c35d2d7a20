"""``bitsieve import``: takes over embeddings that exist already, proven by embedding a sample of them again.

1. List the source and compare it with the newest snapshot, as any night does.
2. Find the image of every row by its id; refuse if too many images have no row.
3. Prove: a random sample of the images is read and embedded again, and must agree with the rows.
4. Write the rows as embedding parts. Images without a row are embedded.
5. Fit, reduce, calibrate, gates, publish, as any night does. The next night finds everything known.
"""

import os
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
import typer

from jobs.imported import Imported
from jobs.look import Listed
from jobs.models import stored_model
from jobs.reindex import reindex
from jobs.reindex_command import Config, Json, Setting, overrides, run_night
from jobs.run import Run
from jobs.session import absolute
from pipeline.catalog.source import SourceFormat
from pipeline.config import load_catalog
from pipeline.embed.task import PART
from pipeline.errors import SourceError
from pipeline.exchange.adopt import Adoption, ImportSettings, adopt
from pipeline.exchange.embeddings import EmbeddingsFormat, EmbeddingsSpec, open_embeddings
from pipeline.exchange.match import Matched, match
from pipeline.exchange.proof import LEAST_COSINE, SAMPLE, Proof, prove
from pipeline.model.described import Model
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.manifest import PartRef
from pipeline.storage.receipts import Receipt


def command(
    embeddings: Annotated[
        str, typer.Argument(help="Parquet file or folder, clip-retrieval folder, or Faiss index.")
    ],
    source: Annotated[
        str, typer.Option(help="The images: folder or s3:// prefix; with -c the name of a catalog.")
    ],
    store: Annotated[str | None, typer.Option(help="Where the index lives: folder or s3:// prefix.")] = None,
    model: Annotated[str | None, typer.Option(help="The ONNX file that made the embeddings.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection in the store, `main` if absent.")] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that names what an image shows.")] = None,
    format_: Annotated[
        EmbeddingsFormat | None,
        typer.Option("--format", help="parquet, clip-retrieval or faiss; told from the files if absent."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with the images' ids.")] = None,
    vector_column: Annotated[str | None, typer.Option(help="Parquet: column with the vectors.")] = None,
    ids: Annotated[str | None, typer.Option(help="Faiss: Parquet file with the ids of its rows.")] = None,
    strip: Annotated[
        list[str] | None, typer.Option(help="Prefix to take off the ids; may be repeated.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Images to embed again as proof.")] = SAMPLE,
    least_cosine: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Every sampled vector must agree this well.")
    ] = LEAST_COSINE,
    max_missing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the images that may lack a row.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 0,
    override: Annotated[list[str] | None, typer.Option(help="GATE=REASON, recorded.")] = None,
    workers: Annotated[int | None, typer.Option(help="Actors; one per CPU or GPU if absent.")] = None,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> int:
    """Adopts existing embeddings: proves them on a sample, embeds what has none, publishes as any night.

    Example: bitsieve import vectors.parquet --source photos/ --store index/ --model clip.onnx
    """
    flags: dict[str, Any] = {
        "source": None if config else source,
        "store": store,
        "model": model,
        "collection": collection,
        "label": label,
        "gates.override": overrides(override) if override else None,
        "embed.workers": workers,
    }
    resolved = load_catalog(config, source, environ=os.environ, settings=settings or [], flags=flags)
    spec = EmbeddingsSpec(
        uri=absolute(embeddings),
        format=format_,
        id_column=id_column,
        vector_column=vector_column,
        ids=None if ids is None else absolute(ids),
    )
    work = Import(
        spec=spec,
        strip=(*(strip or ()), f"{source.rstrip('/')}/", f"{absolute(source)}/"),
        sample=sample,
        least_cosine=least_cosine,
        max_missing=max_missing,
        seed=seed,
    )
    return run_night(resolved, as_json=as_json, job=partial(reindex, importer=work.bring), more=work.report)


@dataclass(slots=True, kw_only=True)
class Import:
    """What is imported, under which conditions, and in ``counts`` and ``proof`` what came of it."""

    spec: EmbeddingsSpec
    strip: tuple[str, ...] = ()
    sample: int = SAMPLE
    least_cosine: float = LEAST_COSINE
    max_missing: float = 0.1
    seed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    proof: Proof | None = None

    def bring(self, run: Run, model: Model, listed: Listed) -> Imported:
        """Finds, proves and writes the rows for what is fresh tonight.

        Raises:
            SourceError: the embeddings cannot be read, or are not those of this source.
            UsageError: they are not this model's.
        """
        fresh = listed.change.fresh
        blocks = open_embeddings(self.spec)
        matched = match(blocks, listed.catalog.images(), fresh, self.strip)
        self._check_missing(matched)
        config = ImportSettings(
            model=model,
            dtype=run.config.embed.dtype,
            least_cosine=self.least_cosine,
            part_rows=run.config.embed.shard_images,
        )
        if matched.n_matched:
            session = EmbeddingSession(
                stored_model(run.store, model.model_id, run.cache)[1], cache=run.cache, where=model.card.name
            )
            spec = replace(run.source_spec, format=SourceFormat(listed.catalog.format))
            run.progress.stage("prove", 1, "sample")
            with run.stage("prove"):
                self.proof = prove(
                    blocks,
                    matched,
                    fresh,
                    session,
                    (run.source, spec),
                    n=self.sample,
                    seed=self.seed,
                    least_cosine=self.least_cosine,
                )
            run.progress.advance(1)
        run.progress.stage("import", len(matched.fresh_M), "rows")
        with run.stage("import"):
            adoption = adopt(run.store, blocks, matched, fresh, config, run.progress.advance)
        self.counts = _counts(matched, adoption)
        run.bytes_written += sum(receipt.files[PART].size_bytes for receipt in adoption.receipts)
        run.events.record(
            "embeddings_imported",
            source=self.spec.uri,
            **self.counts,
            proof=None if self.proof is None else asdict(self.proof),
        )
        since = listed.parent.sequence + 1
        return Imported(
            parts=[_part(receipt, config.config_id, since) for receipt in adoption.receipts],
            norm_error=max((_norm_error(receipt) for receipt in adoption.receipts), default=0.0),
            left=fresh.filter(pa.array(~adoption.has_vector_F)),
        )

    def report(self) -> tuple[dict[str, Any], str]:
        """What was imported, for the JSON of the run and in words."""
        counts = self.counts
        lines = [
            f"{counts['adopted']} of {counts['rows']} rows imported; {counts['without_image']} have no image "
            f"in the source, {counts['not_needed']} are not needed, {counts['duplicates']} are duplicates, "
            f"{counts['unusable']} are zero or not finite; {counts['normalised']} were normalised; "
            f"{counts['images_without_row']} images had no row"
        ]
        if self.proof is not None:
            lines.append(
                f"proven on {self.proof.compared} of {self.proof.asked} sampled images: "
                f"least cosine {self.proof.least_cosine:.6f}, mean {self.proof.mean_cosine:.6f}"
            )
        proof = None if self.proof is None else asdict(self.proof)
        return {"import": {**counts, "proof": proof}}, "\n".join(lines)

    def _check_missing(self, matched: Matched) -> None:
        missing = matched.n_fresh - matched.n_matched
        if missing > self.max_missing * matched.n_fresh:
            raise SourceError(
                f"{missing} of {matched.n_fresh} images have no row and would be embedded, "
                f"{matched.without_image} of {len(matched.fresh_M)} rows have no image in the source",
                fix="check --id-column and --strip, or pass --max-missing 1 to embed them",
            )


def _counts(matched: Matched, adoption: Adoption) -> dict[str, int]:
    return {
        "rows": len(matched.fresh_M),
        "adopted": int(adoption.has_vector_F.sum()),
        "without_image": matched.without_image,
        "not_needed": matched.not_needed,
        "duplicates": matched.duplicates,
        "unusable": adoption.unusable,
        "normalised": adoption.normalised,
        "images_without_row": matched.n_fresh - matched.n_matched,
    }


def _part(receipt: Receipt, config_id: str, since: int) -> PartRef:
    return PartRef(
        key=receipt.key,
        config=config_id,
        rows=receipt.counts["rows"],
        rejected={},
        embeddings=receipt.files[PART],
        rejects=None,
        since=since,
    )


def _norm_error(receipt: Receipt) -> float:
    return max(abs(float(receipt.facts[name]) - 1) for name in ("norm_min", "norm_max"))
