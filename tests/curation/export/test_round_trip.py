"""An export is an input again: a pool that is built of it holds the same samples in rank order."""

import pytest
from export_world import CHOSEN, choose

from curation.pool.ingest import build_pool
from curation.pool.read import Pool

FORMS = {
    "llava": "out.json",
    "jsonl": "out.jsonl",
    "llamafactory": "out/out.json",
    "swift": "out.jsonl",
    "datasets": "out",
    "parquet": "out/data",
    "webdataset": "out/out-000000.tar",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_pool_of_an_export_holds_the_same_samples(world, export, form):
    paths = form in ("llamafactory", "swift")
    out = FORMS[form]
    images = world / "source" / "images"
    export(out.split("/")[0], "--format", form, *(["--images-root", images] if paths else []))
    build_pool(world / out, images if paths or form in ("llava", "jsonl") else None, world / "again")
    again, pool = Pool.open(world / "again"), Pool.open(world / "pool")
    for new, row in zip(again.samples(), CHOSEN, strict=True):
        old = pool[row]
        assert (new.id, new.turns, new.system, new.source) == (old.id, old.turns, old.system, old.source)
        assert [path.read_bytes() for path in new.images] == [path.read_bytes() for path in old.images]


def test_the_whole_pool_exported_in_its_order_is_the_same_pool(world, export):
    pool = Pool.open(world / "pool")
    choose(world / "pool", list(range(len(pool))), world / "all")
    for name in ("all.json", "all.jsonl"):
        build_pool(export(name, subset="all"), world / "source" / "images", world / f"pool_of_{name}")
        assert Pool.open(world / f"pool_of_{name}").hash == pool.hash
