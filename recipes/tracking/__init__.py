"""Experiment trackers: one run for the experiment and one for each training, in one or several backends.

Nothing here changes a result or stops a run. The parts, in the order in which they work:

describe    what the runs are called, and which stable id, group, job type and tags they have
follow      what a recipe's run tells its trackers, and when
tracker     passes that on to a process for each backend (process), without secrets (private)
worker      in that process: opens runs, reads the step logs of trainings while they are written (steps),
            remembers what was logged (ledger), and calls the backend
backends    wandb, tensorboard, trackio, jsonl
"""
