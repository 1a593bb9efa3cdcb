"""Persons as points of a standard normal distribution.

`sample_person` draws a person from a generator of random numbers. Here the same draws are made
from independent standard normal numbers, the person's latent, and the latent of a seed's person is
found: a generator of pictures can be shown heads together with the latents that it is to make
them from, and every other latent stands for a person of the same population.

An amount takes one number, by the inverse of its distribution. A choice among more than two kinds
takes one number a kind: the kind with the largest log p + Gumbel number is chosen, so that every
kind has a direction of its own. A choice between two takes one number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from headjax.errors import UserError
from headjax.head.procedural.person import Person, draw_person

_NORMAL = NormalDist()
_EDGE = 1e-12


def _quantile(share: float) -> float:
    """The normal number below which this share of the distribution lies."""
    return _NORMAL.inv_cdf(min(max(share, _EDGE), 1 - _EDGE))


def _share(number: float) -> float:
    return _NORMAL.cdf(number)


def _gumbel(number: float) -> float:
    """A standard Gumbel number from a standard normal one; it rises with it."""
    return -math.log(-math.log(min(max(_share(number), _EDGE), 1 - _EDGE)))


def _from_gumbel(value: float) -> float:
    return _quantile(math.exp(-math.exp(-value)))


def _odds(choices: int | Sequence[Any], p: Iterable[float] | None) -> tuple[list[Any], list[float]]:
    values = list(range(choices)) if isinstance(choices, int) else list(choices)
    return values, [1 / len(values)] * len(values) if p is None else [float(x) for x in p]


class _Replay:
    """The methods of a NumPy generator that `draw_person` calls, fed from a latent."""

    def __init__(self, latent: Float[np.ndarray, "k"]):
        self._numbers = [float(number) for number in latent]
        self.used = 0

    def _next(self) -> float:
        if self.used == len(self._numbers):
            raise UserError(
                f"a person's latent has {latent_size()} numbers, not {len(self._numbers)}."
            )
        self.used += 1
        return self._numbers[self.used - 1]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * _share(self._next())

    def standard_normal(self, size: int) -> np.ndarray:
        return np.array([self._next() for _ in range(size)])

    def normal(self, mean: float, spread: float, size: int | None = None) -> Any:
        drawn = self.standard_normal(1 if size is None else size)
        return mean + spread * (drawn if size is not None else float(drawn[0]))

    def integers(self, count: int) -> int:
        return self.choice(count)

    def choice(self, choices: int | Sequence[Any], p: Iterable[float] | None = None) -> Any:
        values, odds = _odds(choices, p)
        if len(values) == 2:
            return values[int(_share(self._next()) >= odds[0])]
        scores = [
            math.log(odd) + _gumbel(number) if odd else -math.inf
            for odd, number in [(odd, self._next()) for odd in odds]
        ]
        return values[int(np.argmax(scores))]


class _Record:
    """A NumPy generator that writes down the normal numbers which its draws stand for."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        # What a choice leaves open is drawn from a stream of its own, so the person stays as it is.
        self._open = np.random.default_rng([seed, 1])
        self.numbers: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        value = self._rng.uniform(low, high)
        self.numbers.append(_quantile((value - low) / (high - low)))
        return value

    def standard_normal(self, size: int) -> np.ndarray:
        drawn = self._rng.standard_normal(size)
        self.numbers.extend(drawn.tolist())
        return drawn

    def normal(self, mean: float, spread: float, size: int | None = None) -> Any:
        drawn = self._rng.normal(mean, spread, size)
        self.numbers.extend(((np.atleast_1d(drawn) - mean) / spread).tolist())
        return drawn

    def integers(self, count: int) -> int:
        value = int(self._rng.integers(count))
        self._chosen(value, _odds(count, None)[1])
        return value

    def choice(self, choices: int | Sequence[Any], p: Iterable[float] | None = None) -> Any:
        values, odds = _odds(choices, p)
        value = self._rng.choice(choices, p=p)
        self._chosen(values.index(value), odds)
        return value

    def _chosen(self, index: int, odds: list[float]) -> None:
        """Numbers under which `_Replay.choice` chooses `index`, as they are distributed."""
        if len(odds) == 2:
            low = 0.0 if index == 0 else odds[0]
            self.numbers.append(_quantile(low + odds[index] * self._open.random()))
            return
        # The largest of all is a Gumbel number; the others are Gumbel numbers cut off below it.
        largest = _gumbel(self._open.standard_normal())
        for other, odd in enumerate(odds):
            number = self._open.standard_normal()
            if odd and other == index:
                number = _from_gumbel(largest - math.log(odd))
            elif odd:
                free = math.log(odd) + _gumbel(number)
                below = -math.log(math.exp(-largest) + math.exp(-free))
                number = _from_gumbel(below - math.log(odd))
            self.numbers.append(float(number))


def person_latent(seed: int) -> Float[np.ndarray, "k"]:
    """The latent of `sample_person(seed)`, [latent_size()] float32, standard normal over seeds."""
    record = _Record(seed)
    draw_person(record)
    return np.array(record.numbers, np.float32)


def person_from_latent(latent: Float[np.ndarray, "k"]) -> Person:
    """The person that a latent stands for; of `person_latent(seed)` it is the seed's person.

    Args:
        latent: [latent_size()] numbers; standard normal ones give the population of
            `sample_person`.
    Raises:
        UserError: it has another length.
    """
    replay = _Replay(latent)
    person = draw_person(replay)
    if replay.used != len(latent):
        raise UserError(f"a person's latent has {replay.used} numbers, not {len(latent)}.")
    return person


def latent_size() -> int:
    """How many numbers a person's latent has."""
    return len(person_latent(0))
