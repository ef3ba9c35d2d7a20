"""The pages of `cluster-photos`: a contact sheet of the largest clusters, or of groups of near duplicates."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.report.document import (
    Bar,
    Bars,
    Block,
    Cell,
    Document,
    Fact,
    Facts,
    Finding,
    Gallery,
    Mark,
    Picture,
    PictureRow,
    Section,
    Table,
)
from pipeline.evaluate.report.methods import provenance
from pipeline.evaluate.report.words import attribute_name, count, percent

_SKEWED = 1.0


def clusters_document(result: Mapping[str, Any], snapshot: int, digest: str) -> Document:
    """The report of a clustering; ``result`` is the JSON of `cluster-photos`."""
    quality = result["quality"]
    findings = [_hub_finding(result["hubness"], result["n_images"])]
    if result["n_components_cut"]:
        findings.append(
            Finding(
                mark=Mark.NOTE,
                text=f"{count(result['n_components_cut'])} connected sets were too large to be merged.",
                detail="They were cut at a smaller distance first: some clusters may be split.",
            )
        )
    if result["n_crowded"]:
        findings.append(
            Finding(
                mark=Mark.NOTE,
                text=f"{count(result['n_crowded'])} images have as many neighbours below the threshold as "
                "were asked for.",
                detail="They may have more, which would join clusters: raise --neighbours, and compare.",
            )
        )
    blocks: list[Block] = [_facts(result), _sizes("clusters", result["sizes"])]
    if quality is not None:
        blocks.append(_quality_table(quality))
    sections = [
        Section(title="Agreement", blocks=tuple(blocks)),
        Section(
            title="The largest clusters",
            note="The first images of each.",
            blocks=(_sheet("cluster", result["clusters"]),) if result["clusters"] else (),
        ),
        Section(title="Returned most often", note=_HUB_NOTE, blocks=(_hub_table(result["hubness"]),)),
    ]
    return Document(
        kind="clusters",
        title=f"snapshot {snapshot}",
        subtitle=f"{count(result['n_images'])} images, threshold {result['threshold']:.4f}, "
        f"{result['linkage']} linkage",
        verdict=_verdict(result),
        findings=tuple(findings),
        sections=tuple(section for section in sections if section.blocks),
        methods=(*_CLUSTER_METHODS, *provenance("", snapshot, digest, {})),
    )


def near_duplicates_document(result: Mapping[str, Any], snapshot: int, digest: str) -> Document:
    """The report of a census; ``result`` is the JSON of `cluster-photos --near-duplicates`."""
    n_groups = result["n_groups"] - result["n_singletons"]
    by = result["by"]
    text = (
        f"{count(result['n_in_groups'])} of {count(result['n_images'])} images are near duplicates of "
        f"others, in {count(n_groups)} groups."
    )
    findings = []
    if by is not None and by["n_groups_with_several"]:
        name = attribute_name(by["attribute"])
        findings.append(
            Finding(
                mark=Mark.BAD,
                text=f"{count(by['n_groups_with_several'])} groups have different values of {name}.",
                detail="The same picture cannot be two things: look for wrong values among them.",
            )
        )
    blocks: list[Block] = [_sizes("groups", result["sizes"])]
    if by is not None and by["values"]:
        blocks.append(_values_table(by))
    if result["groups"]:
        blocks.append(_sheet("group", result["groups"]))
    return Document(
        kind="near duplicates",
        title=f"snapshot {snapshot}",
        subtitle=f"at most {result['radius']} of {result['bits']} bits differ",
        verdict=Finding(mark=Mark.NOTE, text=text),
        findings=tuple(findings),
        sections=(Section(title="Groups", blocks=tuple(blocks)),),
        methods=(*_CENSUS_METHODS, *provenance("", snapshot, digest, {})),
    )


_HUB_NOTE = (
    "How many other images have this one among their nearest. A hub crowds the answers of all of them."
)
_CLUSTER_METHODS = (
    Fact(
        term="Clusters",
        text="Images nearer than the threshold are connected with their nearest neighbours; within each "
        "connected set clusters are merged while their distance stays below the threshold.",
    ),
    Fact(
        term="BCubed",
        text="Precision is the mean share of an image's cluster that has its label, recall the mean share of "
        "its label that is in its cluster. Pairwise counts pairs of images instead.",
    ),
    Fact(
        term="ARI and NMI",
        text="The adjusted Rand index is 0 for chance and 1 for equal; normalised mutual information is "
        "divided by the mean of the two entropies.",
    ),
    Fact(
        term="k-occurrence",
        text="Of an image: how many others have it among their k nearest. Its skewness is the third "
        "standardised moment.",
    ),
)
_CENSUS_METHODS = (
    Fact(
        term="Groups",
        text="Two images are connected where their codes differ in at most so many bits; a group is what is "
        "connected, so that two of a group may differ in more.",
    ),
)


def _verdict(result: Mapping[str, Any]) -> Finding:
    made = f"{count(result['n_groups'])} clusters"
    quality = result["quality"]
    if quality is None:
        return Finding(
            mark=Mark.NOTE,
            text=f"{count(result['n_images'])} images make {made}; without labels nothing says whether they "
            "are right.",
        )
    bcubed = quality["bcubed"]
    return Finding(
        mark=Mark.NOTE,
        text=f"{made} for {count(quality['n_labels'])} labels: BCubed F is {percent(bcubed['f'])}.",
        detail=f"{percent(bcubed['precision'])} of an image's cluster have its label, "
        f"{percent(bcubed['recall'])} of its label are in its cluster.",
    )


def _hub_finding(hubness: Mapping[str, Any], n_images: int) -> Finding:
    skewed = hubness["skewness"] > _SKEWED
    return Finding(
        mark=Mark.BAD if skewed else Mark.GOOD,
        text=f"{count(hubness['n_never'])} of {count(n_images)} images are among the {hubness['k']} nearest "
        f"of no other image; the skewness is {hubness['skewness']:.2f}.",
        detail="Some images crowd the answers." if skewed else "No images crowd the answers.",
    )


def _facts(result: Mapping[str, Any]) -> Facts:
    items = [
        ("Clusters", count(result["n_groups"])),
        ("Of one image", count(result["n_singletons"])),
        ("Largest", count(result["largest"])),
        ("Threshold", f"{result['threshold']:.4f}"),
        ("Neighbours", count(result["neighbours"])),
    ]
    if result["quality"] is not None:
        items.append(("Images judged", count(result["quality"]["n_judged"])))
    return Facts(items=tuple(Fact(term=term, text=text) for term, text in items))


def _quality_table(quality: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *(f"{quality[key][part]:.4f}" for part in ("precision", "recall", "f")))
        for name, key in (("BCubed", "bcubed"), ("pairwise", "pairwise"))
    ]
    return Table(
        columns=("measure", "precision", "recall", "F"),
        rows=tuple(rows),
        note=f"Adjusted Rand index {quality['ari']:.4f}, normalised mutual information {quality['nmi']:.4f}.",
    )


def _hub_table(hubness: Mapping[str, Any]) -> Table:
    return Table(
        columns=("image", f"among the {hubness['k']} nearest of"),
        rows=tuple((hub["image_id"], count(hub["occurrences"])) for hub in hubness["hubs"]),
    )


def _values_table(by: Mapping[str, Any]) -> Table:
    return Table(
        columns=(attribute_name(by["attribute"]), "images", "groups"),
        rows=tuple((one["value"], count(one["images"]), count(one["groups"])) for one in by["values"]),
        note=f"{count(by['n_groups_with_one_value'])} groups have one value, "
        f"{count(by['n_groups_with_several'])} several.",
    )


def _sizes(word: str, sizes: Sequence[Mapping[str, int]]) -> Bars:
    """How many clusters there are of each size."""
    bars = []
    for one in sizes:
        images = (
            f"{one['from']}" if one["from"] == one["to"] else f"{count(one['from'])} to {count(one['to'])}"
        )
        bars.append(Bar(name=f"of {images}", value=one["groups"], text=count(one["groups"])))
    told = ", ".join(f"{bar.text} {bar.name}" for bar in bars)
    return Bars(
        title=f"{word.capitalize()} by their images", alt=f"Numbers of {word}: {told}.", bars=tuple(bars)
    )


def _sheet(word: str, groups: Sequence[Sequence[str]]) -> Gallery:
    return Gallery(
        rows=tuple(
            PictureRow(
                title=f"{word} {number}",
                pictures=tuple(
                    Picture(image_id=image_id, alt=f"{image_id}, of {word} {number}", caption=image_id)
                    for image_id in group
                ),
            )
            for number, group in enumerate(groups)
        )
    )
