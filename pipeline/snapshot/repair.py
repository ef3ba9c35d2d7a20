"""What to do about findings: build again what follows from parts, do without what only a night can make."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.index.reduce import REDUCE_STAGE
from pipeline.snapshot.findings import Finding, Flaw
from pipeline.snapshot.manifest import Content
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """What of a snapshot is not to be used any more.

    Index shards (keys) and the encoder are made again from the parts. Parts, attribute layers (keys) and the
    listing's rejects are left out: the next night finds their images new and makes them again. Receipts and
    models (keys of objects) are deleted. ``hopeless`` is what nobody but a copy of the store can mend.
    """

    shards: frozenset[str]
    parts: frozenset[str]
    layers: frozenset[str]
    listing_rejects: bool
    encoder: bool
    receipts: frozenset[str]
    models: frozenset[str]
    damaged: frozenset[str]
    hopeless: tuple[Finding, ...]

    @property
    def leaves_out(self) -> bool:
        """Whether anything is missing until the next night."""
        return bool(self.parts or self.layers or self.listing_rejects)


def prescribe(content: Content, findings: Iterable[Finding]) -> Prescription:
    """What to do about ``findings``, as far as ``content`` is concerned."""
    parts, shards = _parts_of_files(content), _shards_of_files(content)
    shard_receipts = {layout.receipt(REDUCE_STAGE, shard.key): shard.key for shard in content.index_shards}
    layers = {ref.file.key: ref.key for ref in content.attributes}
    listing = content.listing_rejects
    bad_parts, bad_shards, bad_layers = set(), set(), set()
    receipts, models, damaged, hopeless = set(), set(), set(), []
    bad_listing = bad_encoder = False
    for finding in findings:
        key = finding.key
        damaged.add(key)
        if key in parts and finding.flaw is Flaw.ROWS:  # the part is whole, its index shards are not
            bad_shards |= {shard.key for shard in content.index_shards if parts[key] in shard.parts}
        elif key in parts:
            bad_parts.add(parts[key])
        elif key in shards:
            bad_shards.add(shards[key])
        elif key in layers:
            bad_layers.add(layers[key])
        elif listing is not None and key == listing.key:
            bad_listing = True
        elif key == content.encoder.file.key:
            bad_encoder = True
        elif key.startswith(layout.RECEIPTS):
            receipts.add(key)
            bad_shards |= {shard_receipts[key]} if key in shard_receipts else set()
        elif key == layout.model(content.model.id):
            models.add(key)
        else:
            hopeless.append(finding)
    rest = {one.key for one in content.index_shards if bad_encoder or bad_parts & set(one.parts)}
    receipts |= {layout.receipt(REDUCE_STAGE, key) for key in bad_shards}
    return Prescription(
        shards=frozenset(bad_shards | rest),
        parts=frozenset(bad_parts),
        layers=frozenset(bad_layers),
        listing_rejects=bad_listing,
        encoder=bad_encoder,
        receipts=frozenset(receipts),
        models=frozenset(models),
        damaged=frozenset(damaged),
        hopeless=tuple(hopeless),
    )


def without(content: Content, prescription: Prescription) -> Content:
    """The content less what is not to be used; its index and live rows are to be made again."""
    return content.model_copy(
        update={
            "parts": [part for part in content.parts if part.key not in prescription.parts],
            "index_shards": [one for one in content.index_shards if one.key not in prescription.shards],
            "dead_rows": [ref for ref in content.dead_rows if ref.part not in prescription.parts],
            "attributes": [ref for ref in content.attributes if ref.key not in prescription.layers],
            "listing_rejects": None if prescription.listing_rejects else content.listing_rejects,
        }
    )


def remade(before: Content, after: Content, damaged: frozenset[str]) -> dict[str, DataFile]:
    """For the keys of damaged files those files of ``after`` that have the bytes they should have."""
    made = {file.sha256: file for file in _made(after) if file.key not in damaged}
    return {
        file.key: made[file.sha256] for file in _made(before) if file.key in damaged and file.sha256 in made
    }


def _made(content: Content) -> Iterable[DataFile]:
    """The files that are made from the parts."""
    yield content.encoder.file
    for shard in content.index_shards:
        yield from (value for _, value in shard if isinstance(value, DataFile))


def _parts_of_files(content: Content) -> dict[str, str]:
    found = {ref.file.key: ref.part for ref in content.dead_rows}
    for part in content.parts:
        found |= {file.key: part.key for file in (part.embeddings, part.rejects) if file is not None}
    return found


def _shards_of_files(content: Content) -> dict[str, str]:
    return {
        value.key: shard.key
        for shard in content.index_shards
        for _, value in shard
        if isinstance(value, DataFile)
    }
