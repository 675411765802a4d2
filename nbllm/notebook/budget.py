"""`%llm budget`: limits the spending of all calls of the notebook."""

from __future__ import annotations

import os

from ..core.errors import ConfigError
from ..store.budgets import Budget, DailyBudget, SharedBudget
from .session import Session
from .syntax.options import OPTIONS, InvalidValue, parse_value


def budget_command(session: Session, rest: str) -> str:
    """Sets a limit, shows what is left of it, or removes it. A notebook with a name shares its limit with its
    other kernels, also across restarts."""
    words = rest.split()
    if words == ["off"]:
        return _remove_budget(session)
    name = next((w.removeprefix("name=") for w in words if w.startswith("name=")), "")
    limits = [w for w in words if not w.startswith("name=")]
    if limits:
        amounts, name = _parse_limits(limits), name or session.notebook_file
        session.client.budget = SharedBudget(name, **amounts) if name else Budget(**amounts)
    elif name:
        raise ConfigError("No limit was given.", hint=f"For example: %llm budget $5 name={name[:40]}")
    current = session.client.budget
    if current is None:
        return "No budget is set. For example: %llm budget $5, or %llm budget tokens:100000"
    return f"{current.label[0].upper()}{current.label[1:]} is {current.state()}."


def install_daily_budget(session: Session) -> None:
    """Applies NBLLM_BUDGET, the daily limit of all notebooks together, if the notebook has no limit of its
    own."""
    words = os.environ.get("NBLLM_BUDGET", "").replace(",", " ").split()
    if words and session.client.budget is None:
        try:
            session.client.budget = DailyBudget(**_parse_limits(words))
        except ConfigError as error:
            session.print_text(f"nbllm ignores NBLLM_BUDGET: {error.message} {error.hint}")


def _parse_limits(words: list[str]) -> dict[str, float]:
    try:
        found = parse_value(OPTIONS["budget"], ",".join(words))
    except InvalidValue as error:
        raise ConfigError(f"A budget {error}.", hint="For example: %llm budget $5 tokens:100000") from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{found} has no unit.",
            hint=f"%llm budget ${found} is dollars, %llm budget tokens:{found} tokens.",
        )
    return found


def _remove_budget(session: Session) -> str:
    removed, session.client.budget = session.client.budget, None
    if isinstance(removed, DailyBudget):
        return (
            "Calls of this notebook are no longer limited by NBLLM_BUDGET; today's spending stays recorded."
        )
    if isinstance(removed, SharedBudget):
        removed.delete()
    return "The budget was removed: calls are limited only by their own budget=."
