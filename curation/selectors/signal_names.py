"""The signal of a column, by its name: for selectors with a column parameter, and for error messages."""

import re

_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"(cap|exp|ent|mass)_\w+", "capability"),
    (r"styles|style_logp_\w+", "style"),
    (r"nll|el2n|margin|answer_tokens", "necessity"),
    (r"nll_(noimg|noq|a)", "necessity_ablated"),
    (r"base_(nll|el2n|margin|answer_tokens)", "base_losses"),
    (r"base_nll_(noimg|noq|a)", "base_losses_ablated"),
    (r"emb_(image|text)", "embedding"),
    (r"clip_(score|image|text)", "clip"),
    (r"reward|judge|complexity|quality", "quality"),
    (r"grad|grad_norm|influence_\w+", "gradient"),
    (r"adam_(grad|grad_norm|influence_\w+)", "gradient_adam"),
    (r"value", "value"),
    (r"in_reference", "reference"),
    (r"in_seed", "seed_rows"),
)


def signal_of(column: str) -> str | None:
    """The signal that holds `column`; None for a column of the pool itself, or a user's own.

    cluster_<name> and similarity_<name> belong to the signal cluster_<name>.
    """
    if clustering := re.fullmatch(r"(?:cluster|similarity)_(\w+)", column):
        return f"cluster_{clustering[1]}"
    return next((signal for pattern, signal in _PATTERNS if re.fullmatch(pattern, column)), None)
