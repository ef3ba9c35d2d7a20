"""``bitsieve evaluate compare``: may the new snapshot, collection or model replace the old one?"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jobs.evaluate.benchmark import (
    Common,
    benchmark_of,
    common_images,
    labels_for,
    narrowed_to,
    sampled,
)
from jobs.evaluate.change_cost import ChangeCost, cost_of_model, cost_of_snapshot
from jobs.evaluate.compare_queries import AskingSides, Draw, asking_sides
from jobs.evaluate.compare_words import comparison_in_words
from jobs.evaluate.embedded_sample import EmbeddedSample, embed_sample
from jobs.evaluate.page import Page, write_page
from jobs.evaluate.pictures import query_thumbnails
from jobs.evaluate.sheet_files import write_sheet
from jobs.evaluate.subject import label_column, named_snapshot
from jobs.output import AsJson, print_result
from jobs.place import Config, Place, Store, find_place
from jobs.run import software_versions
from pipeline.errors import GateRefused, UsageError
from pipeline.evaluate.comparison import Comparison, Options, compare
from pipeline.evaluate.labelling_sheet import labelling_sheet
from pipeline.evaluate.report.comparison_page import comparison_document, shown_queries
from pipeline.snapshot.open import OpenSnapshot

_DECLARED = Options()


def command(
    store: Store,
    old: Annotated[str, typer.Option(help="What is in use: COLLECTION or COLLECTION@SEQUENCE.")] = "main",
    new: Annotated[str | None, typer.Option(help="What may replace it, written in the same way.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead of --new: an ONNX file; a sample is embedded with it.")
    ] = None,
    old_queries: Annotated[
        str | None, typer.Option(help="Who asks --old: a COLLECTION of its model; its own images if absent.")
    ] = None,
    new_queries: Annotated[
        str | None, typer.Option(help="The same images of the model of --new, who asks that.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    metric: Annotated[str, typer.Option(help="The measure that decides.")] = _DECLARED.metric,
    margin: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The loss of it that would be accepted, chosen before.")
    ] = _DECLARED.margin,
    sample: Annotated[
        int | None,
        typer.Option(min=2, help="About so many images (or queries), labels kept together; all if absent."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Attribute of what stands or falls together; group_id or the label.")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", help="Attribute to look into; may be repeated.")
    ] = None,
    allow_worse_slices: Annotated[
        bool, typer.Option("--allow-worse-slices", help="The mean alone decides; slices are only named.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Folder for a blind labelling sheet and its key.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample, the permutations and the sheet.")] = 0,
    config: Config = None,
    output: Page = None,
    as_json: AsJson = False,
) -> int:
    """Judges new against old on the images both have; exit code 3 unless new is better or not worse.

    A slice that loses the margin counts, even if the mean wins.

    Example: bitsieve evaluate compare --store index/ --old main --new canary --label identity --margin 0.01
    """
    if (new is None) == (model is None):
        raise UsageError("expected one of --new and --model", fix="pass --new COLLECTION or --model FILE")
    if (old_queries is None) != (new_queries is None) or (old_queries is not None and new is None):
        raise UsageError(
            "a query set asks both sides, and is embedded by the model of each",
            fix="pass --new with both --old-queries and --new-queries, or none of the two",
        )
    if model is not None and sample is None:
        raise UsageError("--model embeds a sample, and its size is not given", fix="add --sample 2000")
    place = find_place(store, None, config)
    options = Options(metric=metric, margin=margin, allow_worse_slices=allow_worse_slices, seed=seed)
    asking = None if old_queries is None or new_queries is None else (old_queries, new_queries)
    sides = _sides(
        place, old, new, model, asking, label, None if sample is None else Draw(n=sample, seed=seed)
    )
    found = compare(
        benchmark_of(
            sides.attributes,
            sides.common.ids,
            sides.column,
            (sides.old.vectors[sides.common.old_N], sides.new_vectors),
            group=group,
            slices=slices or (),
            asked_by=None if sides.asking is None else (sides.asking.new, sides.asking.queries),
        ),
        options,
    )
    result = _result(sides, found)
    asker = None if sides.asking is None else sides.asking.new
    if output is not None:
        document = comparison_document(found, result)
        asked = {} if asker is None else query_thumbnails(asker, shown_queries(found))
        write_page(output, document, result, sides.attributes, others=asked)
    if sheet is not None:
        write_sheet(sheet, *labelling_sheet(found.changed, seed=seed), sides.attributes, asker)
    print_result(result, comparison_in_words(result), as_json=as_json)
    return 0 if found.verdict.passes else GateRefused.exit_code


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sides:
    """What is compared: images of both, the new vectors of them, and where their attributes are."""

    old: OpenSnapshot
    new: OpenSnapshot | None
    column: str
    common: Common
    new_vectors: Any
    embedded: EmbeddedSample | None
    asking: AskingSides | None
    new_name: str

    @property
    def attributes(self) -> OpenSnapshot:
        """The snapshot whose attributes and source are used."""
        return self.new or self.old


def _sides(
    place: Place,
    old: str,
    new: str | None,
    model: str | None,
    asking: tuple[str, str] | None,
    label: str | None,
    draw: Draw | None,
) -> _Sides:
    old_one = named_snapshot(place, old)
    new_one = None if new is None else named_snapshot(place, new)
    attributes = new_one or old_one
    column = label_column(attributes, label)
    common = common_images(old_one, attributes)
    asked = None
    if asking is not None:
        sets = (named_snapshot(place, asking[0]), named_snapshot(place, asking[1]))
        asked = asking_sides(sets, (old_one, attributes), column, draw)
    elif draw is not None:
        common = sampled(common, labels_for(attributes, common.ids, column), draw.n, draw.seed)
    embedded = None
    if model is not None:
        embedded = embed_sample(old_one, common.ids, model)
        known = set(embedded.ids)
        common = narrowed_to(common, np.array([r for r, one in enumerate(common.ids) if one in known]))
    return _Sides(
        old=old_one,
        new=new_one,
        column=column,
        common=common,
        new_vectors=attributes.vectors[common.new_N] if embedded is None else embedded.x_ND,
        embedded=embedded,
        asking=asked,
        new_name=new or Path(model or "").name,
    )


def _result(sides: _Sides, found: Comparison) -> dict[str, Any]:
    excluded = asdict(sides.common.excluded)
    cost: ChangeCost
    if sides.new is None:
        embedded = sides.embedded
        cost = cost_of_model(sides.old, embedded.images_per_s if embedded else None)
        excluded |= {"gone": embedded.n_gone, "rejected": embedded.n_rejected} if embedded else {}
    else:
        cost = cost_of_snapshot(sides.old, sides.new, sides.common.excluded.only_old)
    return {
        "verdict": found.verdict.value,
        "passed": found.verdict.passes,
        "label": sides.column,
        "old": _about(sides.old),
        "new": {"name": sides.new_name} if sides.new is None else _about(sides.new),
        "excluded": excluded,
        "asked_by": None if sides.asking is None else _about_asking(sides.asking),
        **{name: value for name, value in found.to_json().items() if name != "verdict"},
        "cost": cost.to_json(),
        "software": software_versions(),
    }


def _about_asking(asking: AskingSides) -> dict[str, Any]:
    return {"old": _about(asking.old), "new": _about(asking.new), "excluded": asking.excluded()}


def _about(snapshot: OpenSnapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "name": f"{manifest.collection}@{manifest.sequence}",
        "collection": manifest.collection,
        "snapshot": manifest.sequence,
        "digest": manifest.digest,
        "model": manifest.content.model.name,
        "model_id": manifest.content.model.id,
    }
