"""Dummy stage `select`, whose notes are those of its selector in the environment's DUMMY_NOTES."""

import json
import os

from dummy_stages import body


def run(config, inputs, out, progress):
    """Returns notes as a real selection does."""
    notes = json.loads(os.environ.get("DUMMY_NOTES", "{}")).get(config["selector"], {})
    return {**body.run(config, inputs, out, progress), "notes": notes}
