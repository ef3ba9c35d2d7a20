"""Which store and collection a command looks at: told by flags, or by the name of a catalog."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from jobs.session import absolute, checked_collection, open_snapshot, reach_s3_by
from pipeline.config import HooksConfig, load_catalog
from pipeline.errors import UsageError
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage.open import open_existing_store
from pipeline.storage.store import ObjectStore
from pipeline.values import SearchDevice

Source = Annotated[
    str | None,
    typer.Argument(help="Folder or s3:// prefix; with -c the name of a catalog.", show_default=False),
]
Store = Annotated[str, typer.Option(help="Folder or s3:// prefix; with -c the name of a catalog.")]
Collection = Annotated[str | None, typer.Option(help="Collection in the store; `main` if absent.")]
SnapshotNumber = Annotated[int | None, typer.Option("--snapshot", help="An earlier snapshot.")]
Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML file with named catalogs.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A collection of a store, who is told what happens to it, and where it is searched."""

    uri: str
    collection: str
    hooks: HooksConfig
    device: SearchDevice

    def open(self) -> ObjectStore:
        """The store, which must be one."""
        return open_existing_store(self.uri)

    def snapshot(self, sequence: int | None) -> OpenSnapshot:
        """The snapshot with this sequence, or the newest, for reading."""
        return open_snapshot(self.uri, self.collection, sequence, self.device)


def find_place(
    store: str | None, collection: str | None, config: Path | None, settings: list[str] | None = None
) -> Place:
    """The place that the flags name; with a configuration file ``store`` is the name of a catalog.

    Raises:
        UsageError: no store is named.
        ConfigError: the configuration has no such catalog, or is none.
    """
    if store is None and config is None:
        raise UsageError("--store is not given", fix="pass --store, with -c the name of a catalog")
    flags = {"collection": collection}
    if config is None:
        flags |= {"source": "none", "store": store}
    found = load_catalog(config, store, environ=os.environ, settings=settings or [], flags=flags)
    reach_s3_by(found)
    return Place(
        uri=absolute(found.store),
        collection=checked_collection(found.collection),
        hooks=found.hooks,
        device=found.index.device,
    )
