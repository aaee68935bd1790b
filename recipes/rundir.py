"""runs/<recipe>/: resolved recipe (itself runnable), plan, lineage, timings, links to the store, report."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from curation import atomic
from curation.closure import REPOSITORY
from recipes import store
from recipes.anchors import anchored
from recipes.code import versions
from recipes.external import External
from recipes.graph import Node, Plan, as_json, store_path
from recipes.load import Loaded
from training.hub import HubModel

ENVIRONMENT = ("versions", "commit", "dirty", "machine", "device")
"""Keys of a stage's record that describe the machine and the versions it ran with."""


def open_run(loaded: Loaded, plan: Plan, root: Path) -> Path:
    """Create the run directory with the resolved recipe and the plan."""
    run = root / "runs" / loaded.recipe.name
    with store.explained(run):
        (run / "stages").mkdir(parents=True, exist_ok=True)
    store.write_text(run / "recipe.yaml", resolved_yaml(loaded))
    store.write_json(run / "plan.json", as_json(plan))
    return run


def resolved_yaml(loaded: Loaded) -> str:
    """The recipe with all values from its scale, parents, overrides and defaults, and with absolute paths."""
    head = f"# Resolved recipe; can be run as it is. protocol: {loaded.protocol}"
    if loaded.modified:
        head += f" ({', '.join(loaded.modified)})"
    for key, preset in loaded.presets().items():
        changed = f", changed: {', '.join(preset['changed'])}" if preset["changed"] else ""
        head += f"\n# {key}: preset {preset['name']}{changed}"
    recipe = anchored(loaded.recipe, lambda path: Path.cwd())
    values = recipe.model_dump(mode="json")  # with nulls, which may override values of the scale
    order = ["name", "description", "goal", "scale"]
    values = {
        k: values[k] for k in sorted(values, key=lambda k: order.index(k) if k in order else len(order))
    }
    return f"{head}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)}"


def link(run: Path, root: Path, node: Node) -> None:
    """runs/<recipe>/stages/<stage name> -> the artefact, as a relative link."""
    target = os.path.relpath(store_path(root, node.kind, node.hash), run / "stages")
    place = run / "stages" / node.name
    if place.is_symlink() and os.readlink(place) == target:
        return
    with store.explained(place), atomic.replacing(place) as temporary:
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)


def remove_old_links(run: Path, plan: Plan) -> None:
    """Remove the links of stages that only an earlier version of the recipe had."""
    names = {node.name for node in plan.nodes}
    for place in (run / "stages").iterdir():
        if place.is_symlink() and place.name not in names:
            with contextlib.suppress(FileNotFoundError):  # another run of this recipe may have removed it
                place.unlink()


def publish_report(run: Path, root: Path, plan: Plan) -> None:
    """Copy the files of the last stage (report.md, tables, plots) into the run directory."""
    out = store_path(root, plan.nodes[-1].kind, plan.nodes[-1].hash)
    for file in sorted(p for p in out.rglob("*") if p.is_file() and p.name not in store.OWN_FILES):
        place = run / file.relative_to(out)
        with store.explained(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic.replacing(place) as temporary:
                shutil.copyfile(file, temporary)


def write_lineage(run: Path, loaded: Loaded, plan: Plan, root: Path) -> None:
    """Write lineage.json: hash, inputs, seconds and environment of every stage.

    A stage of an earlier run keeps the commit and library versions of that run. `environments` lists the
    distinct environments; `environment` of a stage is an index into that list.
    """
    stages, environments = stages_of(plan), []
    for node in plan.nodes:
        artefact = store_path(root, node.kind, node.hash)
        if store.check(artefact, node.hash) != "done":
            continue  # not needed by this run, and deleted
        record = store.read_record(artefact)
        environment = {key: record.get(key) for key in ENVIRONMENT}
        if environment not in environments:
            environments.append(environment)
        about = {"root": store.read_done(artefact).root, "seconds": record["seconds"]}
        stages[node.name] |= {**about, "environment": environments.index(environment)}
    store.write_json(
        run / "lineage.json",
        {
            "recipe": loaded.recipe.name,
            "scale": loaded.recipe.scale,
            "protocol": loaded.protocol,
            "modified": list(loaded.modified),
            "presets": loaded.presets(),
            "controls": plan.settled,
            "environments": environments,
            "stages": stages,
        },
    )


def stages_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """Kind, hash and inputs of every stage by name. Paths in this repository are relative to its root."""

    def place(path: Path | HubModel) -> str:
        if isinstance(path, Path) and path.is_relative_to(REPOSITORY):
            return str(path.relative_to(REPOSITORY))
        return str(path)

    def hashes(node: Node) -> dict[str, Any]:
        return {
            k: (
                {"path": place(v.path), "hash": v.hash} if isinstance(v, External) else node.input_hashes()[k]
            )
            for k, v in node.inputs.items()
        }

    return {n.name: {"kind": n.kind, "hash": n.hash, "inputs": hashes(n)} for n in plan.nodes}


def provenance() -> dict[str, Any]:
    """Library versions, commit, whether the checkout has uncommitted changes, and the kind of machine.

    It becomes part of the record of every stage that this process runs; the stage adds its device.
    """
    import platform

    commit = _git("rev-parse", "HEAD")
    return {
        "versions": versions(),
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def _git(*arguments: str) -> str | None:
    """Output of git in the repository; None without git or a repository (an installed package)."""
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
