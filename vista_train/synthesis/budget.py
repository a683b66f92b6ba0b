"""What requests cost: the most that each can, before it is sent, and what it did when it is answered."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tokens:
    """Tokens that go in and come out."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent - other.sent, self.received - other.received)


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens; `ValueError` unless they are amounts."""

    sent: float = 0.0
    received: float = 0.0

    def __post_init__(self) -> None:
        for name, price in (("price-in", self.sent), ("price-out", self.received)):
            if not (math.isfinite(price) and price >= 0):
                raise ValueError(f"{name} is {price}; it must be dollars for a million tokens, 0 or more")

    def of(self, tokens: Tokens) -> float:
        """Dollars."""
        return (tokens.sent * self.sent + tokens.received * self.received) / 1e6


class BudgetReached(Exception):
    """The next request might cost more than what is left."""


class Budget:
    """Tokens spent and tokens that may be: what is asked for is held back until it is known what it cost.

    `note` keeps a record before anything is sent and after it is answered; `recall` takes such records back, in their
    order, so that requests whose end was never seen count with the most that they can have cost. Any number of threads
    may use it.
    """

    def __init__(self, prices: Prices, dollars: float | None, note: Callable[[dict[str, Any]], object]) -> None:
        if dollars is not None and not (math.isfinite(dollars) and dollars > 0):
            raise ValueError(f"budget is {dollars}; it must be dollars, above 0")
        if dollars is not None and prices == Prices():
            raise ValueError("a budget needs prices: give --price-in and --price-out, dollars for a million tokens")
        self.prices, self.dollars, self._note = prices, dollars, note
        self._changed = threading.Condition()
        self._spent = Tokens()
        self._held: dict[int, Tokens] = {}
        self._next = 0

    def recall(self, record: dict[str, Any]) -> None:
        """Take over what an earlier run has noted."""
        if "asks" in record:
            self._held[record["asks"]] = Tokens(*record["most"])
            self._next = max(self._next, record["asks"] + 1)
        elif "settles" in record:
            self._held.pop(record["settles"], None)
            self._spent += Tokens(*record["tokens"])

    def forfeit(self) -> None:
        """What is open from before will not be answered any more, and counts as spent in full."""
        for number in list(self._held):
            self._settle(number, self._held[number])

    def hold(self, most: Tokens) -> int:
        """A number for a request that may cost `most`, when there is money for it: other requests may have to be
        answered first. `BudgetReached` if there is none and no answer can change that."""
        with self._changed:
            while not self._can_pay(most):
                if not self._held:
                    raise BudgetReached
                self._changed.wait()
            number, self._next = self._next, self._next + 1
            self._note({"asks": number, "most": [most.sent, most.received]})
            self._held[number] = most
        return number

    def settle(self, number: int, tokens: Tokens | None) -> None:
        """A request has cost so many tokens; None, where nobody knows, is the most that it can have cost."""
        with self._changed:
            self._settle(number, self._held[number] if tokens is None else tokens)
            self._changed.notify_all()

    @property
    def spent(self) -> Tokens:
        """By requests that are over, as far as is known; the most they can have cost where nobody knows."""
        with self._changed:
            return self._spent

    @property
    def cost(self) -> float:
        """Dollars spent."""
        return self.prices.of(self.spent)

    def _settle(self, number: int, tokens: Tokens) -> None:
        self._note({"settles": number, "tokens": [tokens.sent, tokens.received]})
        del self._held[number]
        self._spent += tokens

    def _can_pay(self, most: Tokens) -> bool:
        return self.dollars is None or self.prices.of(sum(self._held.values(), self._spent) + most) <= self.dollars
