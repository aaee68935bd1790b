"""Why a record cannot be used: the reason codes of quarantine.parquet, and the error that carries one."""

from curation.printable import visible

MAX_DETAIL = 200
"""Characters of a detail; a record may hold an image as text, and a detail quotes it."""
_HEAD = 120

OF_RECORDS: dict[str, str] = {
    "broken_json": "the record is not valid JSON, is nested too deeply, or has an integer of too many digits",
    "repeated_key": "the record has a key twice, so that it says two things",
    "not_an_object": "the record is not a JSON object",
    "bad_conversations": "the conversation is missing, or is not a list of texts with their speakers",
    "odd_roles": "a speaker is none of human, gpt and, in the first place, system; human and gpt do not "
    "alternate; or there are two system prompts",
    "no_assistant_turn": "no question has an answer",
    "empty_question": "a question has neither an image nor text that a reader sees",
    "empty_answer": "an answer has no text that a reader sees",
    "bad_image_field": "the image is neither a path nor a list of paths in the image folder (but a URL, "
    "image data, a video, ...)",
    "unknown_media_key": "a key that is not read names pictures, and no key that is read does",
    "image_count_mismatch": "the questions hold more or fewer <image> placeholders than there are images, "
    "or a system prompt holds one",
    "placeholder_in_answer": "an answer holds an <image> placeholder",
    "bad_unicode": "the text holds a lone surrogate, which no tokenizer accepts",
    "image_outside": "the image path, or a link at its end, leaves the image folder",
    "image_missing": "the image file does not exist",
    "image_empty": "the image file is empty",
    "image_broken": "the image file cannot be read as an image",
    "image_truncated": "the image file is truncated",
    "image_too_large": "the image has more pixels than allowed, or its file more bytes",
    "image_crash": "the image file ended, or held up, the process that decoded it",
    "unsupported_mode": "the image's values have no known range (floating point, 32 bits, LAB)",
    "duplicate_record": "the same images and conversation as an earlier record, under the same id or none",
    "duplicate_id": "the id equals the content hash of another record",
}
"""Reason code -> meaning, of a record that no pool can be built with."""
OF_SAMPLES: dict[str, str] = {
    "copy": "the sample repeats another one, which stays (python -m curation.dedup --drop)",
    "leak": "the sample repeats an item of a benchmark (python -m curation.decontaminate --drop)",
    "too_long": "the sample has more tokens than a training reads (python -m curation.preflight)",
    "answer_cut": "cut to what a training reads, the sample has no answer (python -m curation.preflight)",
}
"""The same of a sample that a later step left out."""
REASONS = OF_RECORDS | OF_SAMPLES


class BadRecord(ValueError):
    """A record that goes to quarantine; `reason`: a code of `REASONS`, `detail`: one short printable line."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, short(detail)
        super().__init__(f"{reason}: {self.detail}")

    def __reduce__(self) -> tuple[type["BadRecord"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def short(text: str) -> str:
    """Foreign text as one printable line of at most `MAX_DETAIL` characters, cut in the middle."""
    if len(text) > 2 * MAX_DETAIL:  # an image as text; what follows it is said in any case
        text = text[:MAX_DETAIL] + text[-MAX_DETAIL:]
    shown = visible(text)
    return shown if len(shown) <= MAX_DETAIL else f"{shown[:_HEAD]}…{shown[_HEAD + 1 - MAX_DETAIL :]}"
