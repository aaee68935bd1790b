"""Samples as chat messages: text and images (as data URLs) in their original order."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from curation.pool.images import is_plain, rgb, strict_decoding
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample

_SENT_UNCHANGED = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}


class Unsendable(ValueError):
    """A sample that cannot be sent; `reason` is missing_image, broken_image or image_count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def data_url(picture: Path | str | Image.Image) -> str:
    """An image as a data URL: a complete JPEG, PNG, WebP or GIF file unchanged, anything else as PNG.

    A file that readers decode differently (one that is to be turned upright, is transparent or has 16 bits a
    pixel) goes as PNG too, decoded by the rule of `curation.pool.images.rgb`. Raises Unsendable for a missing
    or broken file.
    """
    try:
        data: bytes | None = None
        if isinstance(picture, Image.Image):
            image = picture
        else:
            data = Path(picture).read_bytes()
            image = Image.open(io.BytesIO(data))
        with strict_decoding():
            image.load()
            kind = _SENT_UNCHANGED.get(image.format or "")
            if data is None or kind is None or not is_plain(image):
                data, kind = _png(image), "image/png"
    except FileNotFoundError as error:
        raise Unsendable("missing_image", str(picture)) from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Unsendable("broken_image", f"{picture} ({error})") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(picture: Path | str | Image.Image, detail: str | None = None) -> dict[str, Any]:
    """One image part; `detail` is the protocol's low, high or auto (None leaves it out)."""
    return {
        "type": "image_url",
        "image_url": {"url": data_url(picture), **({"detail": detail} if detail else {})},
    }


def conversation(sample: Sample, detail: str | None = None) -> list[dict[str, Any]]:
    """The messages of a sample (its system prompt, if it has one, then user and assistant), each image in the
    place of its placeholder. Raises Unsendable.

    detail: as for `image_part`.
    """
    pictures = iter(sample.images)
    messages: list[dict[str, Any]] = []
    if (count := sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in sample.turns)) != len(sample.images):
        raise Unsendable(
            "image_count", f"sample {sample.id}: {count} placeholders, {len(sample.images)} images"
        )
    if sample.system is not None:
        messages.append({"role": "system", "content": sample.system})
    for turn in sample.turns:
        messages.append({"role": "user", "content": _parts(turn.question, pictures, detail)})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def _parts(text: str, pictures: Iterator[Any], detail: str | None) -> str | list[dict[str, Any]]:
    pieces = text.split(IMAGE_PLACEHOLDER)
    if len(pieces) == 1:
        return text
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        if index:
            parts.append(image_part(next(pictures), detail))
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    rgb(image).save(out, "PNG")
    return out.getvalue()
