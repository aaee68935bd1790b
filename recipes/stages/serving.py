"""Shared by the stages that use a chat-completions server: settings, cost summary, errors that name a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recipes.errors import RecipeError


def client_options(server: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe's `server` section as keyword arguments of ChatClient."""
    own = {
        name: value
        for name, value in server.items()
        if name not in ("url", "key_env", "concurrency", "max_failed")
    }
    return {"api_key_env": server["key_env"], **own}


@contextmanager
def naming(server: str, model: str) -> Iterator[None]:
    """Turns errors of a server into RecipeErrors that name the key to check."""
    from curation.teacher.chat import ChatSetupError, CostCapReached, TooManyFailures

    keys = {"address": f"{server}.url", "key": f"{server}.key_env", "model": model}
    try:
        yield
    except ChatSetupError as error:
        raise RecipeError(f"{keys[error.about]}: {error}") from error
    except CostCapReached as error:
        raise RecipeError(f"{server}.max_cost_usd: {error}") from error
    except TooManyFailures as error:
        raise RecipeError(f"{server}.max_failed: {error}") from error


def spent(cost: dict[str, Any]) -> str:
    """Requests, retries, tokens and dollars of a run in words."""
    money = f", ${cost['usd']:.4f}" if cost["usd"] else ""
    if cost.get("unanswered"):
        money += (
            f" (${cost['unanswered_usd']:.4f} of it for {cost['unanswered']:,} attempts without an answer)"
        )
    return (
        f"{cost['requests']:,} requests ({cost['retried']:,} retries), {cost['input_tokens']:,} input "
        f"tokens, {cost['output_tokens']:,} output tokens{money}"
    )


def counted(reasons: dict[str, int]) -> str:
    """`; missing: timeout 2, refused 1`, or empty without reasons."""
    if not reasons:
        return ""
    return f"; missing: {', '.join(f'{reason} {count:,}' for reason, count in reasons.items())}"
