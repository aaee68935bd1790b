"""Vectors of samples' images, from an encoder that takes decoded images in batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from curation.pool.sample import Sample
from training.images import ImageError, Picture, decode

if TYPE_CHECKING:
    import torch

    from curation.signals.core.vlm import PassStats


class ImageEncoder(Protocol):
    """What turns decoded images uint8 RGB [3, H, W] into vectors float32 [n, dims]."""

    dims: int

    def images(self, images: Sequence["torch.Tensor"]) -> np.ndarray: ...


def decoded(pictures: Sequence[Picture]) -> tuple[list["torch.Tensor"], dict[int, str]]:
    """(decoded images uint8 RGB [3, H, W], reason by index of the images that cannot be decoded)."""
    images, errors = [], {}
    for number, picture in enumerate(pictures):
        try:
            images.append(decode(picture))
        except ImageError as error:
            errors[number] = error.reason
    return images, errors


def image_vectors(
    encoder: ImageEncoder,
    samples: Sequence[Sample],
    batch_size: int,
    stats: "PassStats",
    *,
    most: int | None = None,
) -> list[np.ndarray | None]:
    """Vectors float32 [k, dims] of each sample's images, of its first `most` ones if given.

    None where a sample has no image (`no_image`) or one of these cannot be decoded (its reason); both are
    counted in `stats.missing`.
    """
    own = [list(sample.images[:most]) for sample in samples]
    owners = np.repeat(np.arange(len(own)), [len(images) for images in own])
    pictures = [picture for images in own for picture in images]
    broken: dict[int, str] = {}
    vectors = np.zeros((len(pictures), encoder.dims), np.float32)
    for start in range(0, len(pictures), batch_size):
        at = range(start, min(start + batch_size, len(pictures)))
        images, errors = decoded([pictures[i] for i in at])
        broken |= {int(owners[at[k]]): reason for k, reason in errors.items()}
        if good := [i for k, i in enumerate(at) if k not in errors]:
            vectors[good] = encoder.images(images)
    stats.missing.update(broken.values())
    stats.missing.update("no_image" for images in own if not images)
    return [vectors[owners == n] if own[n] and n not in broken else None for n in range(len(own))]
