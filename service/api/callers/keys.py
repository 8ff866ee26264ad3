"""Bearer keys: which there are, and what each may."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

KEY = "heatlens.key"  # in a scope: the key that it was let in by
# What stands beside keys, and would open if it were taken for one: a comment's sign, a key's own priority, and the word
# before it in a request.
_BESIDE = re.compile(r"#.*|priority=.*|bearer", re.IGNORECASE | re.DOTALL)
_LONGEST = 16_000  # bytes: no request's head has room for more


@dataclass(frozen=True)
class Key:
    """A key that opens.

    number: from 1 on; what the key itself says is told nowhere.
    secret: the key.
    priority: the highest that its requests may have; None: that of all callers.
    """

    number: int
    secret: str = field(repr=False)
    priority: int | None = None


def of_file(text: str) -> list[tuple[str, int | None]]:
    """Return the keys of a file, one a line, `KEY` or `KEY priority=N`, each with its priority.

    Raises:
        ValueError: a line that is something else, or that was meant for a comment: there are none, and it would be a
            key that opens. It is named by its number, and not shown.
    """
    found: list[tuple[str, int | None]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if words[0].startswith("#"):
            raise ValueError(
                f"line {number} begins with #: there are no comments, and it would be a key; take it out, and choose "
                "keys that begin otherwise"
            )
        priority = None
        if (wrong := no_key(words[0])) is not None:
            raise ValueError(f"line {number}: {wrong}")
        if len(words) > 1:
            name, _, value = words[1].partition("=")
            if len(words) > 2 or name != "priority" or not value.removeprefix("-").isdecimal():
                raise ValueError(f"line {number}: write one key a line, as KEY or as KEY priority=5")
            priority = int(value)
            if not -10 <= priority <= 10:
                raise ValueError(f"line {number}: a priority is -10 to 10")
        found.append((words[0], priority))
    return found


def no_key(secret: str) -> str | None:
    """Return why a word is no key, though it would be taken for one; None where it may be. It is not shown."""
    if _BESIDE.fullmatch(secret):
        return (
            "a word of it begins with # or priority=, or is Bearer, and would be a key that opens; write the keys "
            "alone, and a key's priority behind it in the file of HEATLENS_API_KEYS_FILE"
        )
    if len(secret.encode()) > _LONGEST:
        return f"a key has more than {_LONGEST:,} bytes, and no request can send it; choose a shorter one"
    return None


def numbered(keys: Sequence[tuple[str, int | None]]) -> tuple[Key, ...]:
    """Return keys with their numbers; one that is there twice is one, with the priority that is named last."""
    known: dict[str, int | None] = {}
    for secret, priority in keys:
        known[secret] = priority if priority is not None else known.get(secret)
    return tuple(Key(i, secret, priority) for i, (secret, priority) in enumerate(known.items(), 1))


def key_of(scope: Scope) -> Key | None:
    """Return the key that a request was let in by; None where none is needed."""
    found: Key | None = scope.get(KEY)
    return found
