"""The tables of embeddings and clusterings in curation/README.md say what the presets say."""

from pathlib import Path

import readme_tables

import curation
from curation.signals.vectors.presets import columns_of, embedding_settings, published

README = Path(curation.__path__[0]) / "README.md"


def settings_of(entry, left_out) -> str:
    """The keys of an entry, as YAML writes them on one line."""
    return ", ".join(f"{key}: {value}" for key, value in entry.items() if key not in left_out)


def embedding_row(name: str, entry: dict) -> str:
    columns = columns_of(name, embedding_settings({"preset": name}))
    return readme_tables.row(
        [
            f"`{name}`",
            ", ".join(f"`{column}`" for column in columns),
            entry["kind"],
            settings_of(entry, ("kind", "path", "model")) or "–",
            entry.get("path") or f"the {entry.get('model', 'base').replace('_', ' ')}",
        ]
    )


def cluster_row(name: str, entry: dict) -> str:
    columns = [entry["column"]] if isinstance(entry["column"], str) else entry["column"]
    shown = ", ".join(f"`{column}`" for column in columns)
    return readme_tables.row([f"`{name}`", shown, settings_of(entry, ("column",))])


def test_the_table_of_embeddings():
    rows = [embedding_row(*each) for each in published("embeddings").items()]
    readme_tables.check(README, "| embedding |", rows)


def test_the_table_of_clusterings():
    rows = [cluster_row(*each) for each in published("clusters").items()]
    readme_tables.check(README, "| clustering |", rows)
