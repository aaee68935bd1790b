"""The perceptual hash by which near copies of an image are found."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def phash(image: "Image.Image") -> int:
    """The 64 bits of ImageHash's `phash` (DCT of 32 x 32 grey pixels, the 8 x 8 lowest frequencies beside
    their median), the first the highest.

    image: decoded by `curation.pool.images.rgb`, so that a copy that is turned by EXIF or lies on
    transparency hashes as what a viewer shows.

    A photograph that is stored again (JPEG quality 30, WebP), made smaller or grey, or given other contrast
    stays within 6 bits of itself; one that is cropped may not. Half of a hash's bits are 1, so two hashes
    drawn at random lie within 6 with probability sum over k <= 3 of C(32, k)^2 / C(64, 32) = 1.4e-11: 46
    pairs of a pool of 2.6 million by chance, against 2,400 within 8 and 77,000 within 10. Images of one
    layout (charts, forms, pages of text) lie closer than chance. So a match is a reason to look again; both
    searches do, and can afford more than 6 (`dedup.clusters.Rule`, `decontaminate.pictures.ImageRule`).
    """
    import imagehash
    import numpy as np

    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")
