"""The error of an export."""


class ExportError(ValueError):
    """An export that would damage data or cannot be written; the message says what to do."""
