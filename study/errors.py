"""Errors that a user can mend: what was found, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class StudyError(Exception):
    """Base of every error that the command line prints without a traceback."""


class ConfigError(StudyError):
    """A recipe, an override or an option is wrong."""


class DataError(StudyError):
    """Preference data cannot be read, recognised or trusted."""


class RowError(DataError):
    """One pair cannot be used; the others can."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A few words under which such pairs are counted."""


class ModelError(StudyError):
    """A model, tokenizer or adapter cannot be used as asked."""


class RecordError(StudyError):
    """Records of runs are missing, damaged or belong to another study."""


class StoppedError(StudyError):
    """A command was told that its time runs out; it saved what it had and ended."""


class UnreadableError(RecordError):
    """A record that this user may not read, and which may be sound."""


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word near a mistyped one, if any."""
    words = list(known)
    close = [] if word in words else difflib.get_close_matches(word, words, n=1, cutoff=0.55)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Iterable[str]) -> str:
    """Join names as ``a, b and c``."""
    *others, last = [*names] or [""]
    return " and ".join(filter(None, [", ".join(others), last]))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its type."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
