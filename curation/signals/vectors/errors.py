"""What goes wrong when vectors are clustered; apart from `kmeans`, so that naming an error imports no torch."""

from curation.signals.core.table import SignalError


class ClusterError(SignalError):
    """Vectors that cannot be clustered as asked."""


class TooFewVectorsError(ClusterError):
    """More clusters asked than there are distinct vectors."""


class CollapsedVectorsError(ClusterError):
    """All vectors point the same way, so that clusters would follow rounding errors."""


class OtherFitError(ClusterError):
    """The directory holds a finished fit of other data, settings or library versions."""
