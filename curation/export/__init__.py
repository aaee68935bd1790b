"""Chosen samples, written for what trains on them; `python -m curation.export --help`."""

from curation.export.errors import ExportError
from curation.export.llava import export_llava

__all__ = ["ExportError", "export_llava"]
