"""What a night is not told, it takes from the newest snapshot: reading, label, index settings.

A collection therefore keeps its recall, its bits and its ids when a flag is forgotten. ``--replace-source``
begins anew with how the source is read; what is said always wins.
"""

from typing import Any

from pipeline.config import CatalogConfig, IndexConfig
from pipeline.snapshot.manifest import Manifest


def inherited(config: CatalogConfig, parent: Manifest | None) -> CatalogConfig:
    """``config`` with what was not said filled in from the parent snapshot."""
    if parent is None:
        return config
    changed: dict[str, Any] = {"index": _index(config, parent)}
    if "provider" not in config.embed.model_fields_set:
        provider = parent.content.model.provider
        changed["embed"] = config.embed.model_copy(update={"provider": provider})
    if not config.replace_source:
        source = parent.source.model_dump()
        said = config.read.model_fields_set
        own = {"root", "format"} if parent.source.listing is not None else {"root"}  # each night's own
        unsaid = {name: source[name] for name in type(config.read).model_fields.keys() - said - own}
        changed["read"] = config.read.model_copy(update=unsaid)
        if "label" not in config.model_fields_set:
            changed["label"] = parent.source.label
    return config.model_copy(update=changed)


def _index(config: CatalogConfig, parent: Manifest) -> IndexConfig:
    said = config.index.model_fields_set
    unsaid = {name: value for name, value in parent.content.settings.items() if name not in said}
    return config.index.model_copy(update=unsaid)
