"""What the stages that ask a chat-completions server have in common: its settings, its cost in a line, errors that name the recipe's key."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recipes.errors import RecipeError


def client_options(server: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe's `server` section that are ChatClient's, by its names."""
    own = {
        name: value
        for name, value in server.items()
        if name not in ("url", "key_env", "concurrency", "max_failed")
    }
    return {"api_key_env": server["key_env"], **own}


@contextmanager
def naming(server: str, model: str) -> Iterator[None]:
    """Errors of a server become RecipeErrors that name the key to look at: in the section `server`, or the key `model`."""
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
    """What a run's requests have cost, in words: `cost` has requests, retried, input_tokens, output_tokens and usd."""
    money = f", ${cost['usd']:.4f}" if cost["usd"] else ""
    return (
        f"{cost['requests']:,} requests ({cost['retried']:,} attempts repeated), {cost['input_tokens']:,} tokens read, "
        f"{cost['output_tokens']:,} written{money}"
    )


def counted(reasons: dict[str, int]) -> str:
    """`; missing: timeout 2, refused 1`, or nothing."""
    return (
        f"; missing: {', '.join(f'{reason} {count:,}' for reason, count in reasons.items())}"
        if reasons
        else ""
    )
