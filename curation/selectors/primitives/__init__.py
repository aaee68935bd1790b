"""What selectors share. Each name can be imported from here or from its own module.

A selector imports from the modules (`primitives.keys`), so that a cached selection goes stale only when code that it
uses has changed.
"""

from curation.selectors.primitives.keys import groups, rank_within, seeded_keys
from curation.selectors.primitives.quota import apportion, quota, quota_by_group, spread

__all__ = ["apportion", "groups", "quota", "quota_by_group", "rank_within", "seeded_keys", "spread"]
