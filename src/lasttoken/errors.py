"""The errors a user can cause. Each says what is wrong, where, and what to do."""


class UserError(Exception):
    """Base of every error that is the user's to mend. The command line prints it without a traceback."""


class ConfigError(UserError):
    """The configuration cannot be used. Lists every problem found, not only the first."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(UserError):
    """A data file, a row or a label is not what it should be."""


class ModelError(UserError):
    """A model cannot be found, or is not of the kind that the method needs."""


class ArtifactError(UserError):
    """A saved run is missing, damaged, or from a format this version does not read."""


class Diverged(UserError):
    """Training produced a loss or a gradient that is not finite."""
