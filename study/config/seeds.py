"""Where every seed comes from: search, confirmation and comparison never share one.

Each ``--seed`` has a range of its own in each of the three, so that studies
with different seeds are independent of each other. Recipes of one study have a
stream each in a comparison: with a seed in common they would share the order of the
pairs, and their runs would be no independent replicates.
"""

import zlib

from study.errors import ConfigError

SEEDS = 3
"""Seeds of a comparison unless a command is told otherwise."""


PER_STUDY = 1_000
"""Seeds that one ``--seed`` has in each range."""


SEARCH_BASE = 100_000


CONFIRMATION_BASE = 200_000


N_STREAMS = 20_000
"""Two recipes have the same one by chance alone; every seed is below 2^31."""


def search_seed(seed: int) -> int:
    """Return the one seed of all trials: they differ in their settings alone."""
    return SEARCH_BASE + _first(seed, 0)


def confirmation_seeds(seed: int, n: int) -> list[int]:
    """Return the seeds that the best settings of a search are trained again with."""
    return [CONFIRMATION_BASE + _first(seed, n) + k for k in range(1, n + 1)]


def compare_seeds(seed: int, n: int, *, recipe: str) -> list[int]:
    """Return the seeds of a comparison, none of which a search ever used.

    Args:
        seed: the study's seed.
        n: seeds per arm.
        recipe: its name, from which its stream follows; empty is the stream that all
            recipes shared in older records.
    """
    first = _stream(recipe) * SEARCH_BASE + _first(seed, n)
    return [first + k for k in range(1, n + 1)]


def study_seed(seed: int) -> int:
    """Return the ``--seed`` that one of a comparison's seeds comes from."""
    return seed % SEARCH_BASE // PER_STUDY


def _stream(recipe: str) -> int:
    """Return the number of a recipe's range, beyond those of search and confirmation."""
    return 3 + zlib.crc32(recipe.encode()) % N_STREAMS if recipe else 0


def _first(seed: int, n: int) -> int:
    n_studies = SEARCH_BASE // PER_STUDY
    if not 0 <= seed < n_studies:
        raise ConfigError(f"--seed is {seed}; it must be 0 or more and below {n_studies}")
    if n >= PER_STUDY:
        raise ConfigError(f"{n} seeds were asked for; one study has fewer than {PER_STUDY:,}")
    return seed * PER_STUDY
