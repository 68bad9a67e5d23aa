"""What the searches tell beyond their winners, as rows and in one sentence each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from analysis.printing import (
    arm_name,
    count,
    number,
    percent,
    plain,
    setting_name,
)
from analysis.printing import settings as settings_words
from analysis.records.study import SearchRecord, StudyRecords
from analysis.records.study import in_order as ordered
from analysis.search_rows import BestOf, EarlyRow, FrontRow, TuningRow, WeightRow
from analysis.statistics import trials as tuning

SCORES: Final = ("nll", "ranking", "lor", "accuracy", "margin")
"""Columns of the validations that are followed beside the objective."""


LABELS: Final = {
    "nll+ranking": "NLL + ranking loss",
    "ranking": "ranking loss",
    "nll+lor": "NLL + odds-ratio loss",
    "nll": "NLL",
    "lor": "odds-ratio loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "rougeL": "ROUGE-L",
}


BAND_SEED: Final = 0
"""Seed of the simulation that calibrates the band of the expected best."""


FORETOLD: Final = 0.8
"""Rank correlation from which on a step is said to foretell the end."""


def tuning_rows(records: StudyRecords) -> tuple[TuningRow, ...]:
    """Say what every finished search spent and what its trials tell."""
    return tuple(_tuning_row(search) for search in records.searches if search.best is not None)


def budget_remarks(records: StudyRecords, rows: Sequence[TuningRow]) -> tuple[str, ...]:
    """Say what the searches of a recipe's arms spent, beside each other."""
    sentences = []
    for recipe in records.recipes:
        spent = [row for row in rows if row.recipe == recipe]
        parts = [
            f"{arm_name(row.arm)} {count(row.updates)} updates and {count(row.seconds)} s for "
            f"{row.n_hyperparameters} hyperparameter{'s' if row.n_hyperparameters > 1 else ''}"
            for row in spent
        ]
        if len(spent) > 1:
            sentences.append(
                f"{recipe}: trials that were stopped early count as trials, so equal numbers of "
                f"trials need not be equal training: the search spent on {' and on '.join(parts)}."
            )
    return tuple(sentences)


def score_label(score: str) -> str:
    """Print the name of a score of the validations."""
    return LABELS.get(score, score)


def _tuning_row(search: SearchRecord) -> TuningRow:
    best, trials = search.best, search.trials
    assert best is not None
    objective, direction = best["objective"], best["direction"]
    values = tuning.random_values(trials, direction=direction)
    expected = tuning.expected_best(values or (), direction=direction, seed=BAND_SEED)
    importance = tuning.importance(trials, search.space, direction=direction)
    second = objective.partition("+")[2] or "lor"
    weights = _weights(search, best, second)
    scores = dict.fromkeys((objective, *SCORES))
    early = tuple(
        EarlyRow(score=score, n_trials=tuning.count_states(trials)["complete"], steps=steps)
        for score in scores
        if (steps := tuning.early_correlations(trials, score))
    )
    row = TuningRow(
        recipe=search.recipe,
        arm=search.arm,
        objective=objective,
        direction=direction,
        n_complete=tuning.count_states(trials)["complete"],
        sampled=_sampled(trials),
        n_hyperparameters=len(search.space),
        updates=tuning.updates(trials),
        seconds=sum(float(trial["seconds"]) for trial in trials),
        expected_best=expected,
        importance=importance,
        second=second,
        weights=weights,
        front=_front(search, best),
        early=early,
        last_step=max((int(trial["intermediate"][-1]["step"]) for trial in trials
                       if trial["intermediate"]), default=0),
        leader_from=tuning.leader_known_from(trials, objective, direction=direction),
        meaning={},
    )  # fmt: skip
    meaning = {
        "expected": _expected_in_words(row, values),
        "importance": _importance_in_words(row),
        "weights": _weights_in_words(row),
        "front": _front_in_words(row),
        "early": _early_in_words(row),
    }
    return _with_meaning(row, meaning)


def _with_meaning(row: TuningRow, meaning: Mapping[str, str]) -> TuningRow:
    who = f"{row.recipe}, {arm_name(row.arm)}"
    return replace(row, meaning={part: f"{who}: {words}" for part, words in meaning.items()})


def _sampled(trials: Sequence[tuning.Trial]) -> dict[str, int] | None:
    kinds = [trial.get("sampled") for trial in trials]
    if None in kinds:
        return None
    return {kind: kinds.count(kind) for kind in ("published", "random", "tpe")}


def _weights(search: SearchRecord, best: Mapping[str, Any], second: str) -> tuple[WeightRow, ...]:
    return tuple(
        WeightRow(
            weight=weight,
            trial=trial["number"],
            settings=ordered(search.arm, trial["settings"]),
            nll=trial["nll"],
            second=trial[second],
            chosen=dict(trial["settings"]) == dict(best["settings"]),
        )
        for weight, trial in tuning.winners_by_weight(search.trials, second)
    )


def _front(search: SearchRecord, best: Mapping[str, Any]) -> tuple[FrontRow, ...]:
    return tuple(
        FrontRow(
            trial=trial["number"],
            settings=ordered(search.arm, trial["settings"]),
            nll=trial["nll"],
            ranking=trial["ranking"],
            chosen=dict(trial["settings"]) == dict(best["settings"]),
        )
        for trial in tuning.pareto_front(search.trials)
    )


def _expected_in_words(row: TuningRow, values: Sequence[float] | None) -> str:
    if values is None:
        return (
            "no expected best is computed, because these records do not say which settings were "
            "drawn at random."
        )
    if not row.expected_best:
        return (
            f"no expected best is computed, because {len(values)} trials were drawn at random and "
            f"it takes {tuning.FEWEST_RANDOM}; the others follow published settings or earlier "
            "trials and are not independent."
        )
    half, full = row.expected_best[(len(row.expected_best) - 1) // 2], row.expected_best[-1]
    return (
        f"the best of {half.n} random trials is expected at {number(half.expected, 3)}, the best "
        f"of {full.n} at {number(full.expected, 3)} ({percent(tuning.BAND)} band of the median "
        f"best of {full.n}: {_band(full)}); trials with published settings, and those that earlier "
        "trials guided, are left out."
    )


def _importance_in_words(row: TuningRow) -> str:
    if row.n_hyperparameters < 2:
        return "only one hyperparameter was searched, so importance cannot be divided."
    if not row.importance:
        return (
            f"not computed from {row.n_complete} complete trials; it takes "
            f"{tuning.FEWEST_FINISHED}."
        )
    first = max(row.importance, key=lambda name: row.importance[name])
    shares = ", ".join(f"{setting_name(name)} {percent(row.importance[name])}"
                       for name in row.importance)  # fmt: skip
    n = row.n_complete
    return (
        f"{setting_name(first)} explains the largest share of what separates the best "
        f"{tuning.n_best(n)} of {n} complete trials from all of them ({shares})."
    )


def _weights_in_words(row: TuningRow) -> str:
    if not row.weights:
        return "no trial finished."
    trials = list(dict.fromkeys(weight.trial for weight in row.weights))
    if len(trials) == 1:
        return (
            f"the same trial, {trials[0]}, wins under every weight from "
            f"{plain(row.weights[0].weight)} to {plain(row.weights[-1].weight)}: "
            "the choice does not depend on the weight."
        )
    first, last = row.weights[0], row.weights[-1]
    return (
        f"the winner depends on the weight: {len(trials)} trials win somewhere, with "
        f"{settings_words(first.settings)} at weight {plain(first.weight)} and "
        f"{settings_words(last.settings)} at weight {plain(last.weight)}."
    )


def _front_in_words(row: TuningRow) -> str:
    if not row.front:
        return "the ranking loss is not on record, so there is no front of NLL and ranking loss."
    first, last = row.front[0], row.front[-1]
    chosen = "is among them" if any(one.chosen for one in row.front) else "is not among them"
    return (
        f"{len(row.front)} of {row.n_complete} complete trials are beaten by no other in both NLL "
        f"and ranking loss, from NLL {number(first.nll, 3)} with ranking loss "
        f"{number(first.ranking, 3)} to {number(last.nll, 3)} with {number(last.ranking, 3)}; "
        f"the chosen one {chosen}."
    )


def _early_in_words(row: TuningRow) -> str:
    found = next((early for early in row.early if early.score == row.objective), None)
    if found is None:
        return (
            f"not computed: it takes {tuning.FEWEST_FINISHED} complete trials whose objective was "
            f"followed over the steps, and {row.n_complete} were complete."
        )
    known = next(
        (
            early
            for place, early in enumerate(found.steps)
            if all(later.correlation >= FORETOLD for later in found.steps[place:])
        ),
        None,
    )
    leader = (
        "the best trial could only be identified at the last step."
        if row.leader_from == row.last_step
        else f"the trial that ended best led from step {row.leader_from} of {row.last_step}."
    )
    if known is None:
        return (
            f"at no step before the end does the rank of a trial's objective stay correlated with "
            f"its final rank by {FORETOLD} or more (n = {found.n_trials}); {leader}"
        )
    return (
        f"from step {known.step} of {row.last_step} on the ranks of the objective correlate with "
        f"the final ones by at least {FORETOLD} ({number(known.correlation, 2)} at that step, 95 % "
        f"interval {number(known.low, 2)} to {number(known.high, 2)}, n = {found.n_trials} "
        f"complete trials); {leader}"
    )


def _band(point: BestOf) -> str:
    if point.low is None or point.high is None:
        bounds = [f"from {number(point.low, 3)}" if point.low is not None else "",
                  f"up to {number(point.high, 3)}" if point.high is not None else ""]  # fmt: skip
        return "".join(bounds) or "without bounds"
    return f"{number(point.low, 3)} to {number(point.high, 3)}"
