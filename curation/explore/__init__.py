"""A page to look at a subset: what was picked, what was dropped, and why."""
