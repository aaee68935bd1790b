"""The error of a page that cannot be made."""


class ExploreError(ValueError):
    """Files that do not belong together, or a place where the page must not be written."""
