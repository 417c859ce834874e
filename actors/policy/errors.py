"""How a policy fails, for those who call it from other processes."""

from __future__ import annotations

from envs.errors import UserError


class PolicyError(UserError):
    """The engine does not start, or refused new weights; the message says which and what to do."""


class PolicyDead(PolicyError):
    """The engine has died or hangs: its actor must be replaced; the message names the actor."""
