"""Import of a function that a user names, `my_module:my_function`."""

import importlib
import traceback
from typing import Any


def import_function(address: str) -> Any:
    """The attribute that `module:attribute` names.

    Raises ImportError, in one line, whatever the module raises: with kind, file and line if that is not an
    import that failed.
    """
    module, _, attribute = address.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(" ".join(str(error).split())) from error
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImportError(f"{text} ({place.filename}, line {place.lineno})") from error
