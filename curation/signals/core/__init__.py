"""What all producers share: signals on disk (start with `table.py`), vectors, checkpoints, batches, progress.

Producers take the same compute arguments: `device` (default: CUDA if available, else the CPU), `dtype` of the
weights ("float32", "bfloat16", "float16"), `image_mode` ("base" or "anyres"; default: the checkpoint's own;
raters: `image`, "single" or "anyres", which a prompt set may say too),
`shard_rows` (rows computed between two part files, so at most this many are lost when a run is killed) and
`on_progress(done, total)`.
"""
