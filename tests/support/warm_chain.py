"""Imports everything that the real chain needs into the server process that its runs are forked from."""

import torch  # noqa: F401
import transformers  # noqa: F401

import training.fit
import training.token_store  # noqa: F401
from recipes.load import load
from recipes.plan import make_plan

make_plan(load("mmssr_30pct.yaml", ["scale=smoke"]))  # parses all source files once
