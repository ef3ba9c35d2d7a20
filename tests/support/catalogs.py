"""Small catalogs cut from the shared data sets: faces as tars, photos as files."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A photo of a person of Labeled Faces in the Wild."""

    name: str
    identity: str
    jpeg: bytes


def lfw_faces(shared_data: Path, n_faces: int, first_tar: int = 0) -> list[Face]:
    """The first faces from a tar on."""
    return list(islice(_faces(sorted((shared_data / "lfw-aligned112").glob("*.tar"))[first_tar:]), n_faces))


def write_tar(path: Path, faces: Iterable[Face]) -> None:
    """A WebDataset tar whose bytes depend on the faces only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for face in faces:
            label = json.dumps({"identity": face.identity}).encode()
            for name, data in ((f"{face.name}.jpg", face.jpeg), (f"{face.name}.json", label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def grocery_photos(shared_data: Path, every: int) -> list[tuple[str, Path]]:
    """Each ``every``-th photo of the train split: its key below the split, and the file."""
    folder = shared_data / "grocery" / "train"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.relative_to(folder).as_posix(), file) for file in files[::every]]


def _faces(tars: Iterable[Path]) -> Iterator[Face]:
    for path in tars:
        with tarfile.open(path) as tar:
            contents = {
                member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None
            }
        for name, data in contents.items():
            if name.endswith(".jpg"):
                stem = name.removesuffix(".jpg")
                yield Face(name=stem, identity=json.loads(contents[f"{stem}.json"])["identity"], jpeg=data)
