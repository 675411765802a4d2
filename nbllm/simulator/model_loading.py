"""Tracks which simulated models are loaded. The first request after an idle period waits for loading, and so
do requests that arrive meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace

_MAX_MODELS = 10_000  # more are dropped, the least recently used first


@dataclass(frozen=True, slots=True)
class _Model:
    ready_at: float  # when loading ends or ended
    last_used: float  # when a request last arrived or an answer last ended
    keep_alive: float  # seconds of idling after which it is unloaded


class LoadedModels:
    """The loaded models by name. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def seconds_to_load(self, name: str, cold: float, keep_alive: float, now: float) -> float:
        """Seconds that a request at `now` waits for the model. cold: seconds of loading; keep_alive: seconds
        of idling until it is unloaded."""
        known = self._models.get(name)
        if known is None or now - max(known.last_used, known.ready_at) > known.keep_alive:
            known = _Model(now + cold, now, keep_alive)
        self._models.pop(name, None)
        self._models[name] = replace(known, last_used=now, keep_alive=keep_alive)
        if len(self._models) > _MAX_MODELS:
            del self._models[next(iter(self._models))]
        return max(0.0, known.ready_at - now)

    def mark_answered(self, name: str, now: float) -> None:
        """Records that an answer ended at `now`, when the idle period starts."""
        if name in self._models:
            self._models[name] = replace(self._models[name], last_used=now)
        if name in self._models and self._models[name].keep_alive == 0:
            self.unload(name)

    def unload(self, name: str) -> None:
        """Unloads a model, so that its next request waits."""
        self._models.pop(name, None)

    def loaded(self, now: float) -> dict[str, float]:
        """The loaded models, and the seconds until each is unloaded."""
        left = {name: max(m.last_used, m.ready_at) + m.keep_alive - now for name, m in self._models.items()}
        return {name: seconds for name, seconds in left.items() if seconds > 0}
