"""Small pictures of images for a report, read again from the catalog's source."""

from collections.abc import Iterable, Iterator

from pipeline.catalog.listing import rows_at
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.errors import StorageError
from pipeline.evaluate.report.document import query_picture
from pipeline.images.decode import ImageRejected
from pipeline.images.thumbnail import thumbnail_data_uri
from pipeline.snapshot.manifest import SourceRef
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage.open import open_store

_THUMBNAIL_PX = 112


def thumbnails(snapshot: OpenSnapshot, ids: Iterable[str]) -> dict[str, str]:
    """Small pictures of images as data URIs; what is gone from the source or unreadable is left out."""
    pictures: dict[str, str] = {}
    try:
        for image_id, image in images_of(snapshot, ids):
            if image.reject is None:
                pictures |= _thumbnail(image_id, image.data)
    except StorageError:
        return pictures  # the page shows counted placeholders
    return pictures


def query_thumbnails(snapshot: OpenSnapshot, ids: Iterable[str]) -> dict[str, str]:
    """The same of queries of another collection, by the names that a page looks them up under."""
    return {query_picture(image_id): picture for image_id, picture in thumbnails(snapshot, ids).items()}


def images_of(snapshot: OpenSnapshot, ids: Iterable[str]) -> Iterator[tuple[str, FetchedImage]]:
    """Images of a snapshot, read again from its source, with their ids; what is gone is left out.

    Raises:
        StorageError: the source's store failed.
    """
    wanted = set(ids)
    table = snapshot.attributes.select(["image_id", "locator"])
    pairs = zip(*(table[name].to_pylist() for name in table.schema.names), strict=True)
    ids_at = {locator: image_id for image_id, locator in pairs if image_id in wanted}
    spec = source_spec(snapshot.manifest.source)
    source = open_store(spec.uri)
    rows = rows_at(source, spec, snapshot.store, list(ids_at), snapshot.cache)
    for image in read_images(source, spec, rows):
        yield ids_at[image.locator], image


def source_spec(source: SourceRef) -> SourceSpec:
    """How to read the source that a snapshot was made from."""
    return SourceSpec(
        uri=source.uri,
        listing=source.listing,
        format=SourceFormat(source.format),
        include=source.include,
        exclude=source.exclude,
        id_template=source.id_template,
        id_column=source.id_column,
        image_column=source.image_column,
    )


def _thumbnail(image_id: str, data: bytes) -> dict[str, str]:
    try:
        return {image_id: thumbnail_data_uri(data, _THUMBNAIL_PX)}
    except ImageRejected:
        return {}
