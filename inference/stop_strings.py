"""Stop strings in a streamed text, also where they straddle two pieces of it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string.

    Text that could be the beginning of a stop string is held back until it is
    decided; so nothing of a stop string ever reaches the reader.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """The part of the text so far that is safe to show; after ``found`` always empty."""
        if self.found is not None:
            return ""
        self._held += text
        hits = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if hits:
            at, self.found = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            shown, self._held = self._held[:at], ""
            return shown
        return self._release(len(self._held) - self._undecided())

    def finish(self) -> str:
        """What was held back when the text ended by itself."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
