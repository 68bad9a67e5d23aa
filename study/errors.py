"""Errors that a user can mend: what was found, what is allowed, what to do."""


class StudyError(Exception):
    """Base of every error that the command line prints without a traceback."""


class ConfigError(StudyError):
    """A recipe, an override or an option is wrong."""


class DataError(StudyError):
    """Preference data cannot be read, recognised or trusted."""


class ModelError(StudyError):
    """A model, tokenizer or adapter cannot be used as asked."""


class RecordError(StudyError):
    """Records of runs are missing, damaged or belong to another study."""
