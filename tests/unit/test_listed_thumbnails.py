"""Pictures of a catalog whose ids are not its keys are found under their ids."""

from pathlib import Path

from jobs.evaluate.pictures import thumbnails
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import jpeg, write_folder


def test_thumbnails_of_listed_images_have_the_ids_of_the_listing(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {f"{number}.jpg": jpeg(number) for number in range(20)})
    rows = [f"{number}.jpg,product {number},r1" for number in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["key,id,version", *rows]) + "\n")
    read = {"format": "listing", "root": str(shop.source)}
    night = shop.night(source=str(tmp_path / "list.csv"), read=read)
    assert "product 3" in live(shop, night)
    pictures = thumbnails(shop.open(night), ["product 3", "product 7", "nobody"])
    assert set(pictures) == {"product 3", "product 7"}
