"""Samples tokenised once, in memory-mapped shards that all arms, seeds and ranks of a training share.

from training.token_store import PoolSource, TokenStore, write

store = write(PoolSource(Pool.open("pools/a")), RendererOf("checkpoints/base"), "stores/a", workers=16)
examples = store.examples(rows, max_length=4096, too_long="drop")     # a Sequence[Encoded]
"""

from training.token_store.layout import StoreError, StoreMismatch
from training.token_store.read import StoredExamples, TokenStore
from training.token_store.source import ListSource, PoolSource
from training.token_store.write import RendererOf, write

__all__ = [
    "ListSource",
    "PoolSource",
    "RendererOf",
    "StoreError",
    "StoreMismatch",
    "StoredExamples",
    "TokenStore",
    "write",
]
