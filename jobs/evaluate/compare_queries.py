"""Who asks both sides of a comparison: the images that two query sets have with the same bytes."""

from dataclasses import asdict, dataclass

from jobs.evaluate.benchmark import Common, common_images, labels_for, sampled
from jobs.evaluate.retrieval_question import namesakes
from jobs.evaluate.subject import check_one_model
from pipeline.evaluate.comparison import QuerySet
from pipeline.snapshot.open import OpenSnapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AskingSides:
    """The query sets of old and new, and what they have in common. Labels and pictures are those of new."""

    old: OpenSnapshot
    new: OpenSnapshot
    common: Common
    queries: QuerySet

    def excluded(self) -> dict[str, int]:
        """Queries that do not ask, by reason."""
        return asdict(self.common.excluded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """About so many queries, labels kept together."""

    n: int
    seed: int


def asking_sides(
    asking: tuple[OpenSnapshot, OpenSnapshot],
    images: tuple[OpenSnapshot, OpenSnapshot],
    column: str,
    draw: Draw | None,
) -> AskingSides:
    """The queries that old and new both have, each embedded by the model of its side.

    Args:
        asking: The query sets of old and new.
        images: What they ask.
        column: The attribute that makes an image relevant.
        draw: How many ask; all if absent.

    Raises:
        UsageError: the sets have no query in common, or one was embedded by another model than its images.
    """
    for queries, base in zip(asking, images, strict=True):
        check_one_model(queries.manifest, base.manifest)
    old, new = asking
    common = common_images(old, new)
    if draw is not None:
        common = sampled(common, labels_for(new, common.ids, column), draw.n, draw.seed)
    named_alike = namesakes(old, images[0]) | namesakes(new, images[1])
    return AskingSides(
        old=old,
        new=new,
        common=common,
        queries=QuerySet(
            ids=common.ids,
            labels=labels_for(new, common.ids, column),
            old_QD=old.vectors[common.old_N],
            new_QE=new.vectors[common.new_N],
            namesakes=named_alike & frozenset(common.ids),
        ),
    )
