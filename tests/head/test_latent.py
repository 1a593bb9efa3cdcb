"""Persons' latents: they are standard normal, and give the persons back."""

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest

from headjax.errors import UserError
from headjax.head.procedural import (
    latent_size,
    person_from_latent,
    person_latent,
    sample_person,
)
from headjax.head.procedural.person import HAIR_KINDS

SEEDS = range(400)


@pytest.fixture(scope="module")
def latents():
    return np.stack([person_latent(seed) for seed in SEEDS])


def test_a_seeds_latent_gives_the_seeds_person(latents):
    for seed in SEEDS:
        person, again = sample_person(seed), person_from_latent(latents[seed])
        for field in dataclasses.fields(person):
            one, other = getattr(person, field.name), getattr(again, field.name)
            if isinstance(one, str):
                assert one == other, (seed, field.name)
            else:
                np.testing.assert_allclose(one, other, atol=2e-5, err_msg=f"{seed} {field.name}")


def test_latents_over_seeds_are_standard_normal_and_uncorrelated(latents):
    count, size = latents.shape
    assert size == latent_size()
    ordered = np.sort(latents, axis=0)
    # Kolmogorov–Smirnov of every number against the normal distribution, at about 1e-4 each.
    cdf = np.vectorize(NormalDist().cdf)(ordered)
    steps = np.arange(1, count + 1)[:, None] / count
    distance = np.maximum(np.abs(cdf - steps), np.abs(cdf - steps + 1 / count)).max(0)
    assert distance.max() < 2.3 / np.sqrt(count)
    correlation = np.corrcoef(latents.T) - np.eye(size)
    assert np.abs(correlation).max() < 5 / np.sqrt(count)


def test_fresh_latents_give_the_same_population():
    rng = np.random.default_rng(0)
    fresh = [person_from_latent(rng.standard_normal(latent_size())) for _ in range(1500)]
    drawn = [sample_person(seed) for seed in range(1500)]
    for kind in HAIR_KINDS:
        one, other = (np.mean([p.hair == kind for p in people]) for people in (fresh, drawn))
        assert abs(one - other) < 4 * np.sqrt(2 * max(other, 0.01) / 1500), kind
    skins = [np.mean([p.skin for p in people], axis=0) for people in (fresh, drawn)]
    np.testing.assert_allclose(*skins, atol=0.02)


def test_a_small_step_in_a_latent_rarely_changes_a_kind():
    rng = np.random.default_rng(1)
    changed = 0
    for _ in range(200):
        latent = rng.standard_normal(latent_size())
        near = latent + 0.01 * rng.standard_normal(latent_size())
        changed += person_from_latent(latent).hair != person_from_latent(near).hair
    assert changed <= 8


@pytest.mark.parametrize("change", [-1, 1])
def test_a_latent_of_another_length_is_refused(change):
    with pytest.raises(UserError, match=f"has {latent_size()} numbers, not"):
        person_from_latent(np.zeros(latent_size() + change))
