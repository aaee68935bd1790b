"""Shared by tests of foreign files: one pool with scores, written in every format that the commands read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.signals.core.table import write_signal
from curation.taxonomy import CAPABILITIES, STYLES

KEYS = [capability.key for capability in CAPABILITIES]
PHRASES = {capability.key: capability.phrase for capability in CAPABILITIES}


class FileWorld:
    """`n` samples of four sources with scores, styles and a loss; writes them below `folder`."""

    def __init__(self, folder, n=40, seed=0):
        rng = np.random.default_rng(seed)
        self.folder, self.n = folder, n
        self.ids = [f"é{i:04d}" for i in rng.permutation(n)]
        self.sources = [f"src{int(i)}" for i in rng.integers(0, 4, n)]
        self.scores = {key: rng.integers(0, 6, n).tolist() for key in KEYS}
        self.styles = [
            [list(STYLES)[i] for i in sorted(set(rng.integers(0, 9, 2).tolist()))] for _ in range(n)
        ]
        self.nll = rng.random(n).astype(np.float32)
        self.tokens = rng.integers(5, 50, n).tolist()

    def pool(self, name="pool"):
        """A pool folder with what a selection reads: no source file, no images."""
        path = self.folder / name
        path.mkdir()
        table = self.pool_table().append_column("content_hash", pa.array(self.ids))
        pq.write_table(table, path / "pool.parquet")
        info = {"hash": "p" * 64, "n": self.n, "text_tokens": {"unit": "words", "total": sum(self.tokens)}}
        (path / "pool.json").write_text(json.dumps(info))
        return path

    def pool_table(self):
        columns = {"row": pa.array(range(self.n), pa.int32()), "id": self.ids, "source": self.sources}
        return pa.table(columns | {"text_tokens": self.tokens, "image_tokens": [9] * self.n})

    def columns(self):
        """Scores, styles and loss in the pool's order."""
        caps = {f"cap_{key}": pa.array(values, pa.int8()) for key, values in self.scores.items()}
        return pa.table(caps | {"styles": pa.array(self.styles, pa.list_(pa.string())), "nll": self.nll})

    def signals(self, name="signals", pool_hash="p" * 64):
        """A folder of two signal folders."""
        for part, columns in (
            ("scores", self.columns().drop_columns(["nll"])),
            ("losses", self.columns().select(["nll"])),
        ):
            table = columns.add_column(0, "row", pa.array(range(self.n), pa.int32()))
            write_signal(
                self.folder / name / part,
                {"producer": part, "pool_hash": pool_hash},
                self.n,
                lambda rows, advance, table=table: table.slice(rows.start, len(rows)),
                shard_rows=16,
            )
        return self.folder / name

    def records(self):
        """One dictionary per sample, id and columns, in another order than the pool's."""
        rows = [
            {"id": name, **values} for name, values in zip(self.ids, self.columns().to_pylist(), strict=True)
        ]
        return rows[::-1]

    def plain_pool(self, suffix):
        return self.write(f"plain{suffix}", self.pool_table().drop_columns(["row"]).to_pylist())

    def write(self, name, records, **options):
        """Write records as Parquet, JSON or JSONL, by the ending of the name."""
        path = self.folder / name
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(records))
        else:
            path.write_bytes(jsonl(records, **options))
        return path

    def official(self, name="official"):
        """A score folder: texts with spaces, styles in the paper's wording, each file in another order."""
        path = self.folder / name
        path.mkdir()
        for at, (key, values) in enumerate(self.scores.items()):
            lines = [
                {"idx": i, "text": f" {v} ", "prompt": "?"} for i, v in zip(self.ids, values, strict=True)
            ]
            (path / f"{PHRASES[key].replace(' ', '_')}.jsonl").write_bytes(jsonl(lines[at:] + lines[:at]))
        texts = [", ".join(STYLES[key] for key in styles) for styles in self.styles]
        (path / "style.jsonl").write_bytes(
            jsonl([{"idx": i, "text": t} for i, t in zip(self.ids, texts, strict=True)])
        )
        return path


def jsonl(records, end="\n", bom=False, ascii_only=False):
    text = "".join(json.dumps(record, ensure_ascii=ascii_only) + end for record in records)
    return (b"\xef\xbb\xbf" if bom else b"") + text.encode()
