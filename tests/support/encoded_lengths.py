"""Lengths of rendered examples, to hold the estimates of a training against what is trained."""

from collections.abc import Sequence

import numpy as np

from training.estimate.lengths import Lengths
from training.render import Encoded


def of_encoded(examples: Sequence[Encoded], image_id: int) -> Lengths:
    """Of rendered examples; `image_id`: the image token."""
    tokens = np.array([len(example) for example in examples])
    labels = np.array([int((example.labels[1:] >= 0).sum()) for example in examples])
    image_tokens = np.array([int((example.input_ids == image_id).sum()) for example in examples])
    images = np.array([len(example.images) for example in examples])
    return Lengths(tokens, labels, image_tokens, images, "counted: rendered examples")
