"""Shares of the engine: who is let in next, and who gives way when there is no room.

Every client has the same claim to the places, pages and steps, and so has every call of one client
(a request for sixteen answers is one call). Who holds fewest places is next; among equals, whose
client was served fewest tokens; then who came first, so that without a contest the order of
arrival stands. Tokens served are those of the virtual token counter (Sheng et al., "Fairness in
Serving Large Language Models", 2024): a client that comes, or comes back, begins at what the least
served of the present ones has had, neither in debt nor with a claim saved up.

A sequence gives way to another only where its side still holds at least as much afterwards, so what
gave way has no claim to push back: each exchange makes the shares more equal, and there are only so
many.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import Protocol


class Holder(Protocol):
    """A sequence, as far as shares are concerned."""

    @property
    def client(self) -> str:
        """Who asks."""

    @property
    def call(self) -> str:
        """In which call."""

    @property
    def arrival(self) -> int:
        """Number in the order of arrival."""


class Shares:
    """What each client and each call has of the engine, as long as it is there."""

    def __init__(self) -> None:
        self._present: Counter[str] = Counter()  # sequences of a client, waiting ones too
        self._clients: Counter[str] = Counter()  # places of a client
        self._calls: Counter[tuple[str, str]] = Counter()  # places of a call
        self._served: dict[str, int] = {}  # tokens
        self._least = 0  # of the present ones, lately; never falls

    def arrive(self, holder: Holder) -> None:
        """Note a new sequence."""
        if not self._present[holder.client]:
            self._least = max(self._least, min(self._served.values(), default=0))
            self._served[holder.client] = self._least
        self._present[holder.client] += 1

    def leave(self, holder: Holder) -> None:
        """Forget a sequence that holds no place (any more)."""
        self._present[holder.client] -= 1
        if not self._present[holder.client]:
            del self._present[holder.client]
            self._least = max(self._least, min(self._served.values()))
            del self._served[holder.client]

    def take(self, holder: Holder) -> None:
        """Note that ``holder`` has a place."""
        self._clients[holder.client] += 1
        self._calls[holder.client, holder.call] += 1

    def give_back(self, holder: Holder) -> None:
        """Note that ``holder`` has its place no more."""
        self._clients[holder.client] -= 1
        self._calls[holder.client, holder.call] -= 1
        self._clients, self._calls = +self._clients, +self._calls  # without zeros

    def serve(self, holder: Holder, tokens: int) -> None:
        """Note that ``tokens`` were computed for ``holder``."""
        self._served[holder.client] += tokens

    def without_places(self) -> Shares:
        """A copy in which nobody has a place yet."""
        other = self.copy()
        other._clients.clear()
        other._calls.clear()
        return other

    def copy(self) -> Shares:
        """A copy whose places can be changed."""
        other = copy(self)
        other._clients, other._calls = Counter(self._clients), Counter(self._calls)
        return other

    def turn(self, holder: Holder) -> tuple[int, int, int, int]:
        """Smallest for who is next."""
        call = self._calls[holder.client, holder.call]
        return self._clients[holder.client], self._served[holder.client], call, holder.arrival

    def wealth(self, holder: Holder) -> tuple[int, int, int]:
        """Largest for who gives way first."""
        call = self._calls[holder.client, holder.call]
        return self._clients[holder.client], call, holder.arrival

    def yields(self, rich: Holder, poor: Holder) -> bool:
        """Whether ``rich``, which has a place, gives way to ``poor``, which has none."""
        if rich.client != poor.client:
            return self._clients[rich.client] >= self._clients[poor.client] + 2
        calls = self._calls[rich.client, rich.call], self._calls[poor.client, poor.call]
        return calls[0] >= calls[1] + 2
