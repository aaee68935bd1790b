"""Errors of clustering; in a file of their own, so that importing them does not import torch."""

from curation.signals.core.table import SignalError


class ClusterError(SignalError):
    """Vectors that cannot be clustered as requested."""


class TooFewVectorsError(ClusterError):
    """More clusters were requested than there are distinct vectors."""


class CollapsedVectorsError(ClusterError):
    """All vectors have the same direction, so that clusters would follow rounding errors."""


class OtherFitError(ClusterError):
    """The directory holds a finished fit of other data, settings or library versions."""
