"""Samples as chat messages: text with images as data URLs, in the order in which they stand."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from curation.pool.images import strict_decoding
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample

_SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}


class Unsendable(ValueError):
    """A sample that cannot be sent; `reason` is missing_image, broken_image or image_count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def data_url(picture: Path | str | Image.Image) -> str:
    """An image as a data URL: the file's own bytes if it is a whole JPEG, PNG, WebP or GIF, else a PNG of its pixels.

    Raises Unsendable for a missing or broken file.
    """
    try:
        data = None if isinstance(picture, Image.Image) else Path(picture).read_bytes()
        image = picture if data is None else Image.open(io.BytesIO(data))
        with strict_decoding():
            image.load()
        kind = _SENT_AS_THEY_ARE.get(image.format or "")
        if data is None or kind is None:
            data, kind = _png(image), "image/png"
    except FileNotFoundError as error:
        raise Unsendable("missing_image", str(picture)) from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Unsendable("broken_image", f"{picture} ({error})") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(picture: Path | str | Image.Image, detail: str | None = None) -> dict[str, Any]:
    """One content part; `detail` is the protocol's low, high or auto (None: not said)."""
    return {
        "type": "image_url",
        "image_url": {"url": data_url(picture), **({"detail": detail} if detail else {})},
    }


def conversation(sample: Sample, detail: str | None = None) -> list[dict[str, Any]]:
    """User and assistant messages of a sample, each image where its placeholder stands. Raises Unsendable.

    detail: as for `image_part`.
    """
    pictures = iter(sample.images)
    messages: list[dict[str, Any]] = []
    if (count := sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in sample.turns)) != len(sample.images):
        raise Unsendable(
            "image_count", f"sample {sample.id}: {count} placeholders, {len(sample.images)} images"
        )
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
    image.convert("RGB").save(out, "PNG")
    return out.getvalue()
