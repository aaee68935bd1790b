"""What must not leave this machine: secrets, whatever they are part of."""

import json
import os
import re

from curation.teacher.address import MASK, masked

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSW(OR)?D|CREDENTIALS?)(_|$)", re.IGNORECASE)
SHORTEST = 8
"""Characters of a secret at least: a shorter value of such a variable may be an ordinary word."""


def secrets() -> list[str]:
    """The values of environment variables whose names say that they hold a secret, the longest first."""
    found = {value.strip() for name, value in os.environ.items() if _SECRET.search(name)}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def without_secrets(text: str) -> str:
    """The text, which may be JSON, without secrets of the environment and without those of URLs."""
    for secret in secrets():
        for form in {secret, json.dumps(secret)[1:-1]}:
            text = text.replace(form, MASK)
    return masked(text)
