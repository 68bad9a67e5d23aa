"""Where every seed comes from: search, confirmation and comparison never share one."""

from study.errors import ConfigError

SEARCH_BASE = 100_000
CONFIRMATION_BASE = 200_000
"""``--seed`` counts from these, so it must stay below the first of them."""


def search_seed(seed: int) -> int:
    """Return the one seed of all trials: they differ in their settings alone."""
    return SEARCH_BASE + _checked(seed, 0)


def confirmation_seeds(seed: int, n: int) -> list[int]:
    """Return the seeds that the best settings of a search are trained again with."""
    return [CONFIRMATION_BASE + _checked(seed, n) + k for k in range(1, n + 1)]


def compare_seeds(seed: int, n: int) -> list[int]:
    """Return the seeds of a comparison, none of which a search ever used."""
    return [_checked(seed, n) + k for k in range(1, n + 1)]


def _checked(seed: int, n: int) -> int:
    if not 0 <= seed < SEARCH_BASE - n:
        raise ConfigError(
            f"--seed is {seed}; it must be 0 or more and below {SEARCH_BASE - n:,}, "
            "because larger seeds belong to the search"
        )
    return seed
