"""What `evaluate retrieval` asks, as a value that a worker on another machine can ask as well."""

from dataclasses import dataclass, field
from pathlib import Path

from jobs.evaluate.subject import attribute_of, group_column, searched_vectors
from pipeline.evaluate.ranking import Contest, LabelledVectors
from pipeline.evaluate.relevance import Judgements
from pipeline.evaluate.retrieval import Asked, Options, contest_of
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage.open import open_store

_IDENTITY = ("image_id", "content_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """A snapshot to be opened anywhere that reaches its store."""

    store_uri: str
    manifest: Manifest
    cache: Path

    @classmethod
    def of(cls, snapshot: OpenSnapshot) -> "SnapshotRef":
        """Names an open one."""
        return cls(store_uri=snapshot.store.uri, manifest=snapshot.manifest, cache=snapshot.cache)

    def open(self) -> OpenSnapshot:
        """The snapshot, with nothing read yet."""
        return OpenSnapshot(store=open_store(self.store_uri), manifest=self.manifest, cache=self.cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalQuestion:
    """Who asks whom, and what is right.

    Attributes:
        base: The snapshot searched.
        label: Attribute that makes two images relevant; None where judgements do.
        queries: The snapshot that asks; ``base`` itself if absent.
        judgements: What is relevant, in place of the label.
        junk: Images that are neither right nor wrong.
        collapse: Attribute whose values are ranked in place of images.
        sliced_by: Attributes of the queries to look into.
        sample: How many queries are drawn; all if absent.
        options: Seed and sizes.
    """

    base: SnapshotRef
    label: str | None
    queries: SnapshotRef | None = None
    judgements: Judgements | None = None
    junk: frozenset[str] = frozenset()
    collapse: str | None = None
    sliced_by: tuple[str, ...] = ()
    sample: int | None = None
    options: Options = field(default_factory=Options)

    def posed(self) -> "Posed":
        """Reads what is needed to answer it.

        Raises:
            UsageError: a catalog has no such attribute.
        """
        base = self.base.open()
        asking = base if self.queries is None else self.queries.open()
        group = group_column(base, self.collapse)
        vectors = searched_vectors(base, self.label, group)
        queries = None if self.queries is None else _asking(asking, self.label, group)
        ids = (queries or vectors).ids
        asked = Asked(
            queries=queries,
            judgements=self.judgements,
            junk=self.junk,
            collapse=None if self.collapse is None else group,
            resampled_by=group,
            sliced_by={name: attribute_of(asking, ids, name) for name in self.sliced_by},
            sample=self.sample,
            namesakes=frozenset() if asking is base else namesakes(asking, base),
        )
        return Posed(base=vectors, asked=asked, label=self.label or "", options=self.options)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posed:
    """A question with all that is needed to answer it."""

    base: LabelledVectors
    asked: Asked
    label: str
    options: Options

    def contest(self) -> Contest:
        """Who is ranked against whom."""
        return contest_of(self.base, self.label, self.asked, self.options)


def _asking(snapshot: OpenSnapshot, label: str | None, group: str | None) -> LabelledVectors:
    """A query set may lack the group: user photos belong to no product."""
    has_group = group is not None and group in snapshot.attributes.schema.names
    return searched_vectors(snapshot, label, group if has_group else None)


def namesakes(asking: OpenSnapshot, base: OpenSnapshot) -> frozenset[str]:
    """Ids that both have, with other bytes as far as their digests are known."""
    digest_of = dict(zip(*(base.live[name].to_pylist() for name in _IDENTITY), strict=True))
    pairs = zip(*(asking.live[name].to_pylist() for name in _IDENTITY), strict=True)
    return frozenset(
        name for name, digest in pairs if digest and (other := digest_of.get(name)) and other != digest
    )
