"""Score every sample of the pool for the 14 capabilities by vLLM or a server, in place of the scorer's own forward passes."""

from pathlib import Path
from typing import Any

from recipes.stages.serving import produce_by_engine

CODE = ("curation/signals/engines.py", "curation/signals/engine_base.py", "curation/signals/engine_server.py", "curation/signals/engine_vllm.py",
        "curation/signals/capability.py", "curation/signals/style.py", "curation/signals/official.py", "curation/signals/prompts",
        "curation/signals/queries.py", "curation/signals/shared.py", "curation/signals/trie.py", "curation/signals/batches.py",
        "curation/signals/table.py", "curation/signals/vectors.py", "curation/signals/vlm.py", "curation/teacher/chat.py",
        "curation/teacher/messages.py", "curation/teacher/parallel.py", "curation/teacher/rubric.py", "curation/pool/images.py",
        "curation/pool/read.py", "curation/pool/record.py", "training/collate.py", "training/images.py", "training/models.py",
        "training/render.py", "training/templates", "curation/taxonomy.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the capability signal."""
    from curation.signals.engines import score_capabilities_by_engine

    return produce_by_engine(score_capabilities_by_engine, "scorer", config, inputs, out, progress)
