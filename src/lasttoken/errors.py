"""Errors a user can cause. Each message says what is wrong, where, and what to do."""

from collections.abc import Sequence


class UserError(Exception):
    """Base of every error that the user can fix. The command line prints it without a traceback."""


class ConfigError(UserError):
    """The configuration cannot be used. Lists every problem found, not only the first."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:  # so that another process can raise it
        return type(self), (self.problems,)


class DataError(UserError):
    """A data file, a row or a label is not what it should be."""


class ModelError(UserError):
    """A model cannot be found, or is not of the kind that the method needs."""


class ArtifactError(UserError):
    """A saved run is missing, damaged, or from a format this version does not read."""


class Claimed(ArtifactError):
    """Another process is writing what is to be written."""


class ExportRefused(UserError):
    """An exported model answers otherwise than its run, or there is nothing to check it on."""


class Diverged(UserError):
    """Training produced a loss or a gradient that is not finite."""


class Stopped(BaseException):
    """A signal ended the command. number: of the signal. told: a sentence on what is left; `stopping` fills it in."""

    def __init__(self, number: int, told: str = ""):
        super().__init__(told)
        self.number, self.told = number, told


class MissingColumn(DataError):
    """A column is missing from a table. column: its name. found: the columns of the table."""

    def __init__(self, told: str, column: str, found: Sequence[str]):
        super().__init__(told)
        self.column, self.found = column, tuple(found)

    def __reduce__(self) -> tuple[type, tuple[str, str, Sequence[str]]]:  # so that another process can raise it
        return type(self), (str(self), self.column, self.found)
