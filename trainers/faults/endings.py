"""How a run ends before its last step, in one line: what the commands of `scripts/` show in place of a traceback."""

STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later


class RunError(RuntimeError):
    """A run cannot go on. The message is one line: what happened, what was saved, how to go on.

    Args:
        message: that line.
        shared: every rank raises it, and one need say it.
    """

    def __init__(self, message: str, shared: bool = False):
        super().__init__(message)
        self.shared = shared


class RunStopped(SystemExit):
    """The run was asked to stop, saved, and exits with `STATUS`; ``message`` says how to go on."""

    def __init__(self, message: str):
        super().__init__(STATUS)
        self.message = message
