"""Detectable effects: the numbers of the specification, limits, and a simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.statistics import compare_arms, seeds_needed
from analysis.statistics.components import SeedPart
from analysis.statistics.power import detectable_effect, examples_needed, planned_detectable_effect

ROUGE_LIKE = {"prompt_sd": 0.04, "residual_sd": 0.08}


@pytest.mark.parametrize(
    ("n_seeds", "n_examples", "seed_sd", "paired", "unpaired"),
    [(3, 500, 0.01, 0.0491, 0.0377), (3, 200, 0.005, 0.0353, 0.0282),
     (5, 500, 0.01, 0.0261, 0.0232)],
)  # fmt: skip
def test_planned_effects_are_those_of_the_specification(
    n_seeds, n_examples, seed_sd, paired, unpaired
):
    def planned(*, pairing):
        return planned_detectable_effect(
            seed_sd=seed_sd, n_seeds=n_seeds, n_examples=n_examples, paired=pairing, **ROUGE_LIKE
        )

    assert planned(pairing=True) == pytest.approx(paired, abs=1e-4)
    assert planned(pairing=False) == pytest.approx(unpaired, abs=1e-4)


@pytest.mark.parametrize(
    ("n_seeds", "multiple"), [(2, 10.4), (3, 3.5), (4, 2.5), (5, 2.1), (6, 1.8), (10, 1.3)]
)
def test_where_seeds_dominate_the_effect_is_a_multiple_of_their_spread(n_seeds, multiple):
    found = planned_detectable_effect(seed_sd=1.0, n_seeds=n_seeds, n_examples=10**6, paired=False)

    assert found == pytest.approx(multiple, abs=0.05)


def test_one_group_of_runs_is_the_noncentral_t():
    part = SeedPart(variance=1.0, df=4.0, residual=0.0)
    effect = detectable_effect([part], 0.0, 99)
    critical = scipy_stats.t.isf(0.025, 4)
    power = scipy_stats.nct.sf(critical, 4, effect) + scipy_stats.nct.cdf(-critical, 4, effect)

    assert power == pytest.approx(0.8, abs=1e-3)


def test_more_seeds_and_more_power_move_it_the_right_way():
    def planned(n_seeds, power=0.8):
        return planned_detectable_effect(
            seed_sd=0.01, n_seeds=n_seeds, n_examples=200, paired=False, power=power
        )

    assert planned(6) < planned(4) < planned(4, power=0.9)
    with pytest.raises(ValueError, match="power"):
        planned(3, power=1.0)
    with pytest.raises(ValueError, match="two seeds"):
        planned(1)


def test_seeds_needed_is_the_smallest_number_that_suffices():
    design = {"seed_sd": 0.01, "n_examples": 500, "paired": False, **ROUGE_LIKE}
    needed = seeds_needed(0.02, **design)

    assert planned_detectable_effect(n_seeds=needed, **design) <= 0.02
    assert planned_detectable_effect(n_seeds=needed - 1, **design) > 0.02


def test_no_number_of_seeds_suffices_where_prompts_hide_the_effect():
    design = {"seed_sd": 0.01, "paired": False, **ROUGE_LIKE}
    enough = examples_needed(0.005, v_prompt=2 * 0.04**2 / 200, n_clusters=200)

    assert seeds_needed(0.005, n_examples=200, **design) is None
    assert seeds_needed(0.005, n_examples=round(0.9 * enough), **design) is None
    assert seeds_needed(0.005, n_examples=2 * enough, **design) is not None


def test_a_contrast_tells_what_it_could_have_found_whatever_it_found():
    rng = np.random.default_rng(5)
    a, b = (rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.1, (3, 60)) for _ in range(2))
    one, other = (
        compare_arms(a, b + shift, paired=False, scope="population") for shift in (0.0, 5.0)
    )
    low, high = one.minimum_detectable_range()

    assert one.minimum_detectable() == pytest.approx(other.minimum_detectable())
    assert low < one.minimum_detectable() < high
    needed = one.seeds_needed(0.03)
    assert one.rescaled(seeds=needed / 3).minimum_detectable() <= 0.03
    assert one.rescaled(seeds=(needed - 1) / 3).minimum_detectable() > 0.03


def test_rescaling_divides_the_variances_that_it_concerns():
    rng = np.random.default_rng(6)
    a, b = (rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.3, (4, 50)) for _ in range(2))
    b = b + rng.normal(0, 0.5, 50)
    one = compare_arms(a, b, paired=False, scope="population")
    seeds, prompts = one.rescaled(seeds=2), one.rescaled(prompts=2)

    assert seeds.v_seed == pytest.approx(one.v_seed / 2)
    assert seeds.v_prompt == one.v_prompt
    assert prompts.v_prompt == pytest.approx(one.v_prompt / 2)
    assert prompts.v_seed == pytest.approx(one.v_seed - one.v_residual / 2)
    assert (seeds.n_seeds, prompts.n_examples) == ((8, 8), 100)
