"""Defaults of the magics: `%config NbLLM.model = "gemini/flash"`, and the `use` tables of configuration
files.

They are the defaults that `%llm use` sets. An invalid value is reported and ignored, so that the extension
still loads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..core.options import LEDGERS
from ..routing.config_files import Places, may_be_configured
from .session import Session, session_of
from .syntax.options import OPTIONS, InvalidValue, parse_value

DEFAULT_NAMES = tuple(n for n, o in OPTIONS.items() if o.default)
_LEDGER_HELP = "where calls are recorded: disk, memory, or texts (on disk, with prompts and answers)"


@lru_cache(maxsize=1)
def _configurable_class() -> type[Any]:
    """The Configurable class, built from the table of options."""
    from traitlets import Any as AnyTrait
    from traitlets import Enum, TraitError, validate
    from traitlets.config import Configurable

    def checked(_self: Any, proposal: Mapping[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        try:
            return value if value is None else _parse_default(session_of(_self.parent), name, value)
        except InvalidValue as error:
            raise TraitError(f"NbLLM.{name} {error}") from None

    traits = {
        name: AnyTrait(None, allow_none=True, help=OPTIONS[name].help).tag(config=True)
        for name in DEFAULT_NAMES
    }
    return type(
        "NbLLM",
        (Configurable,),
        {
            "__doc__": "Defaults of the %%llm magics; None: no default.",
            **traits,
            "ledger": Enum(LEDGERS, None, allow_none=True, help=_LEDGER_HELP).tag(config=True),
            "_checked": validate(*DEFAULT_NAMES)(checked),
        },
    )


def _parse_default(session: Session, name: str, value: Any) -> Any:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    found = parse_value(OPTIONS[name], text, session.client.registry.dialects)
    return found[0] if name == "model" else found


def install(session: Session) -> None:
    """Applies the defaults of configuration files and registers NbLLM with the shell."""
    from traitlets import TraitError

    for name, value in (
        session.client.registry.defaults.items() if may_be_configured(Places.of(os.environ)) else ()
    ):
        try:
            if name not in DEFAULT_NAMES:
                raise InvalidValue("is not an option that can have a default")
            session.defaults.setdefault(name, _parse_default(session, name, value))
        except InvalidValue as error:
            session.print_text(f"nbllm ignores the default {name!r} of a configuration file: it {error}.")
    shell = session.shell
    try:
        settings = _configurable_class()(parent=shell)
    except TraitError as error:  # from an earlier %config, or a profile's file
        session.print_text(f"nbllm ignores its %config settings: {error}.")
        shell.config.pop("NbLLM", None)
        settings = _configurable_class()(parent=shell)
    session.defaults.update({n: v for n in DEFAULT_NAMES if (v := getattr(settings, n)) is not None})
    settings.observe(lambda change: _set_default(session, change["name"], change["new"]), list(DEFAULT_NAMES))
    settings.observe(lambda change: _set_ledger(session, change["new"]), "ledger")
    if settings.ledger is not None:
        _set_ledger(session, settings.ledger)
    session.settings = settings
    shell.configurables.append(settings)


def _set_ledger(session: Session, mode: str | None) -> None:
    """Sets where calls are recorded; None restores the configured value."""
    if session.client.ledger is not None:
        session.client.ledger.mode = mode or session.client.registry.ledger


def _set_default(session: Session, name: str, value: Any) -> None:
    if value is None:
        session.defaults.pop(name, None)
    else:
        session.defaults[name] = value


def remove(session: Session) -> None:
    """Unregisters NbLLM."""
    if session.settings in session.shell.configurables:
        session.shell.configurables.remove(session.settings)
