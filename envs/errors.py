"""How a failure that is no defect reaches the person who can mend it.

Every room may import this file, which imports nothing.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of the errors whose message is meant for the user: it names the key, file or process, and what to do."""


class TaskError(UserError):
    """A task that cannot be used; the message names the file and what to do."""


class SandboxFailure(UserError):
    """The sandbox, not the experiment, failed; the message names the backend and what to do."""


class LastingFailure(SandboxFailure):
    """Asking again for that sandbox would come to the same."""


FAILURES = (UserError, OSError)
"""What a command ends with one line for; anything else is a defect and shows its traceback."""
