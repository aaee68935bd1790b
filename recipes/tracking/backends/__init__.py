"""The trackers that there are, a module each, with a class `Backend` (see `recipes.tracking.contract`)."""
