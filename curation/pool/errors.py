"""Errors about a pool as a whole. A problem with one record is a reason code in quarantine.parquet."""


class PoolError(ValueError):
    """The pool cannot be built or opened; the message says why and what to do."""


class PoolArgumentError(PoolError):
    """An argument is wrong whatever the data: a missing path, a file instead of a folder, a bad number."""


class BrokenJson(PoolError):
    """The source file is truncated or is not JSON. `byte_offset` is where the unreadable record starts."""

    def __init__(self, message: str, byte_offset: int) -> None:
        super().__init__(message)
        self.byte_offset = byte_offset


class TooManyBad(PoolError):
    """More records were quarantined than `max_bad_fraction` allows. `counts` holds them by reason code."""

    def __init__(self, message: str, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts
