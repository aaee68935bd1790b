"""The recipe for a pool of one's own in the README is valid and plans the stages that the README names."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from recipes.load import load
from recipes.plan import make_plan

README = Path(__file__).parents[2] / "recipes" / "README.md"


def test_the_recipe_for_ones_own_pool(tmp_path):
    text = README.read_text().partition("## Your own pool")[2]
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    for folder in ("more", "images"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "So."}]
    record = {"id": "a", "image": "a.png", "conversations": turns}
    (tmp_path / "llava_v1_5_mix665k.json").write_text(json.dumps([record]))
    pq.write_table(pa.table({"id": ["b"], "conversations": [turns]}), tmp_path / "more" / "train.parquet")
    loaded = load(str(tmp_path / "mine.yaml"), ["evaluation.data=null"])  # no mirror is at hand here
    assert loaded.modified == ("pool.decontaminate", "pool.dedup", "pool.over_length")
    plan = make_plan(loaded)
    nodes = {node.name: node for node in plan.nodes}
    assert {"pool", "leaks", "clean"} <= nodes.keys() and nodes["clean"].inputs["leaks"] is nodes["leaks"]
    assert nodes["clean"].config["measured"]["policy"] == "truncate"
    assert "evaluation.data.mirror: missing" in plan.refusals["leaks"]
