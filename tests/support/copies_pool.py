"""Pools for tests of copies: records with pictures that are drawn on the spot."""

import json

from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool


class CopiesPool:
    """Records are added, then built into a pool of their own folder, audited in full."""

    def __init__(self, folder):
        self.folder, self.records = folder, []

    def image(self, name, image, **options):
        """Store a picture; returns its name, as records give it."""
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
        return name

    def add(self, id, question, answer, *images, source="web"):
        """A record of one turn."""
        asked = "<image>\n" * len(images) + question
        record = (
            {"id": id, "source": source, "image": list(images)} if images else {"id": id, "source": source}
        )
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        self.records.append(record | {"conversations": turns})

    def build(self, name="pool", audit="full", records=None):
        """The pool of the records so far, or of `records`."""
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        source = self.folder / f"{name}.json"
        source.write_text(json.dumps(self.records if records is None else records))
        options = Options(audit=audit)
        build_pool(source, self.folder / "images", self.folder / name, options=options, workers=0)
        return Pool.open(self.folder / name)
