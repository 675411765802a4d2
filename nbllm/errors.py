"""The errors that public functions raise; core.errors is where they are made."""

from .core.errors import *  # noqa: F403
