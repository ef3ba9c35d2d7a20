"""Makes the Catalog of a source whose images are listed in a file: our own listing, or an S3 Inventory."""

from pathlib import Path

from pipeline.catalog.container import container_file
from pipeline.catalog.inventory import inventory_batches
from pipeline.catalog.listed_keys import KeyedCatalog
from pipeline.catalog.listing_file import read_listing
from pipeline.catalog.settle import open_listing
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.catalog.table import Catalog, refuse_duplicates
from pipeline.errors import SourceError
from pipeline.storage.store import ObjectStore


def list_from_file(images: ObjectStore, spec: SourceSpec, cache: Path) -> Catalog:
    """The catalog that ``spec.listing`` lists, in key order, whatever the order of the file.

    Args:
        images: the store that ``spec.uri`` names, asked only about objects that the file gives no version of.
        spec: how to read it; format and listing are settled.
        cache: a folder for downloads.

    Raises:
        SourceError: the file cannot be read, or lists nothing.
        DataCorrupt: a file of an inventory is not the one that its manifest speaks of.
    """
    source = spec.listing or ""
    store, key = open_listing(source)
    if spec.format is SourceFormat.INVENTORY:
        catalog = KeyedCatalog(root=images, spec=spec, literal=True)
        table = catalog.table(inventory_batches(store, key, catalog, cache))
    else:
        with container_file(store, key, cache) as path:
            file = read_listing(path, source, spec.id_column)
            catalog = KeyedCatalog(root=images, spec=spec, has_ids=file.has_ids)
            table = catalog.table(file.batches)
    if table.num_rows == 0:
        raise SourceError(
            f"{source} lists no images ({catalog.skipped or 'it has no rows'})",
            fix="check the file, --root, --include and --exclude",
        )
    kind = SourceFormat.LISTING if spec.format is None else spec.format
    return Catalog(table=refuse_duplicates(table), format=kind.value, skipped=catalog.skipped)
