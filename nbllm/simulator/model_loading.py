"""Which simulated models are loaded: the first request after a pause waits, and those that come meanwhile
wait with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

_MODELS = 10_000  # that are remembered; the one asked longest ago is forgotten first


@dataclass(frozen=True, slots=True)
class _Model:
    ready: float  # when it is, or was, loaded
    last: float  # when it was last asked, or answered
    keep: float  # seconds after which it is unloaded


class Loads:
    """The loaded models. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def ask(self, name: str, cold: float, keep: float, now: float) -> float:
        """Seconds that a request of now has to wait for the model."""
        known = self._models.get(name)
        if known is None or now - max(known.last, known.ready) > known.keep:
            known = _Model(now + cold, now, keep)
        self._models.pop(name, None)
        self._models[name] = replace(known, last=now, keep=keep)
        if len(self._models) > _MODELS:
            del self._models[next(iter(self._models))]
        return max(0.0, known.ready - now)

    def answered(self, name: str, now: float) -> None:
        """An answer ended: the pause begins now."""
        if name in self._models:
            self._models[name] = replace(self._models[name], last=now)
        if name in self._models and self._models[name].keep == 0:
            self.unload(name)

    def unload(self, name: str) -> None:
        """The next request is cold."""
        self._models.pop(name, None)

    def loaded(self, now: float) -> dict[str, float]:
        """Loaded models and the seconds until each is unloaded."""
        left = {name: max(m.last, m.ready) + m.keep - now for name, m in self._models.items()}
        return {name: seconds for name, seconds in left.items() if seconds > 0}
