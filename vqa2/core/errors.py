"""Errors a user can cause: each is one readable line (what, where, nearest fix); the entry points exit with code 2."""


class UserError(ValueError):
    """Base of every error that is the user's to mend. The message is a single line."""


class ConfigError(UserError):
    """A configuration key or value is unknown, missing, of the wrong type or out of range."""


class DataError(UserError):
    """An annotation, instruction set or benchmark file is missing or malformed."""


class MediaError(UserError):
    """A video or image cannot be read. Carries the file so that it can be put on the quarantine list."""

    def __init__(self, path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        # Raised in decoding workers, it must survive the way to the parent process with both its parts.
        return type(self), (self.path, self.reason)
