"""What the commands of this package share: the errors that a user sees, and the exit status."""

import sys
from collections.abc import Callable

from recipes.errors import RecipeError, StageError, StoreError
from recipes.stop import Stopped, end_descendants, stoppable
from training.interrupt import Interrupted


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and print the errors that are meant for the user.

    Returns the command's own status, 2 for a wrong recipe, 1 for a failed stage or store, or 128 + the number
    of the signal that stopped it.
    """
    with stoppable():
        try:
            return command()
        except RecipeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except StageError as error:
            print(f"{error.details}\nerror: {error}", file=sys.stderr)
            return 1
        except StoreError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except (Stopped, Interrupted) as stopped:
            end_descendants()
            print(stopped, file=sys.stderr)
            return stopped.status
