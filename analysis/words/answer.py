"""The answer in words: chosen by decisions and records alone."""

from collections.abc import Sequence
from typing import Final

from analysis.judge.comparisons import POOLED
from analysis.judge.decisions import NOT_TESTED
from analysis.judged_rows import BestSetRow, CoPrimaryRow, DecisionRow
from analysis.printing import (
    arm_name,
    capital,
    in_unit,
    number,
    p_value,
    plain,
    settings,
    signed,
)
from analysis.records.metrics import METRICS
from analysis.rows import ArmRow
from analysis.statistics import Outcome
from analysis.words import several
from study.arms import BASELINE
from study.config.judging import ANSWERS

WEAK: Final = "ROUGE-L counts words shared with the chosen answer, not right answers."


def answer(
    decisions: Sequence[DecisionRow],
    arms: Sequence[ArmRow],
    treatments: Sequence[str],
    *,
    planned: Sequence[str] = (),
    best_sets: Sequence[BestSetRow] = (),
) -> str:
    """Answer the study's question, SFT or another arm: what to do, how sure, at what cost.

    With several treatments, single models are left to the tables.

    Args:
        decisions: per treatment over all models, where there are several, then on each.
        arms: settings and numbers of runs.
        treatments: arms that are judged against the baseline.
        planned: metrics that the plan rests the verdict on, where they are others.
        best_sets: arms that none is shown to beat, where there are three or more.
    """
    if not treatments:
        return f"No arm can be compared with {arm_name(BASELINE)}: no other was planned."
    brief = len(treatments) > 1
    sentences = [_answer(decisions, arms, treatment, brief=brief) for treatment in treatments]
    sentences += filter(None, [several.matched(best_sets, treatments)])
    metrics = decisions[0].metrics if decisions else ()
    if late := [METRICS[one.metric].label for one in metrics if one.late]:
        named = " and ".join(METRICS[name].label for name in planned)
        sentences.append(
            f"That {' and '.join(late)} {'counts' if len(late) == 1 else 'count'}, or from what "
            "effect on, was decided after the results had been seen"
            f"{f'; the plan names {named}' if named else ''}."
        )
    if any(one.metric == "rougeL" for one in metrics):
        sentences.append(WEAK)
    return " ".join(sentences)


def headline(
    decisions: Sequence[DecisionRow],
    treatments: Sequence[str],
    best_sets: Sequence[BestSetRow] = (),
) -> str:
    """Answer in at most 40 words: the verdict, its effects and what to do.

    Args:
        decisions: per treatment over all models, where there are several, then on each.
        treatments: arms that are judged against the baseline.
        best_sets: arms that none is shown to beat, where there are three or more.
    """
    over_all = [row for row in decisions if row.recipe == POOLED] or list(decisions)
    if not over_all:
        return f"No arm can be compared with {arm_name(BASELINE)} yet: finished runs are missing."
    if len(treatments) == 1 and len(over_all) == 1:
        return _one_headline(over_all[0])
    if best_sets:
        return several.headline(over_all, best_sets)
    return _several_headlines(over_all)


def _one_headline(row: DecisionRow) -> str:
    """Say what one decision is and what to do, without intervals and settings."""
    treatment, baseline = arm_name(row.treatment), arm_name(row.baseline)
    where = f"over {row.n_models} models" if row.n_models > 1 else f"on {row.recipe}"
    if row.outcome == NOT_TESTED:
        todo = "train two seeds or more" if min(row.n_seeds) < 2 else "the reason is given below"
        return f"{treatment} and {baseline} are not tested {where}: {todo}."
    leads: dict[str, str] = {
        Outcome.BETTER: "Better",
        Outcome.WORSE: "Worse",
        Outcome.TRADE_OFF: "Mixed",
        Outcome.EQUIVALENT: "Equal within the margins",
        Outcome.INCONCLUSIVE: "No difference shown",
        Outcome.DEPENDS: "Depends on the model",
    }
    converged = "when it converges, " if sum(row.n_diverged) else ""
    clauses = (" but " if _turns(row) else " and ").join(_brief(one) for one in row.metrics)
    lead = f"{leads[row.outcome]}: {converged}{where} {treatment} {clauses}"
    return f"{lead}; {_what_to_do(row)}."


def _brief(one: CoPrimaryRow) -> str:
    """Say in a few words what one metric shows, with its effect."""
    metric = METRICS[one.metric]
    effect = in_unit(signed(one.estimate, metric.digits), metric)
    state = "untested" if one.low is None else _state(one)
    if one.metric in ANSWERS:
        shown, not_shown, alike = "its answers are", "its answers are not shown to be", "as good"
    elif one.metric == "nll":
        shown, not_shown = "expects chosen answers", "is not shown to expect chosen answers"
        alike = "as well"
    else:
        shown, not_shown = "ranks given pairs", "is not shown to rank given pairs"
        alike = "as well"
    degree = state if state in ("better", "worse") else alike
    verb = not_shown if state in ("open", "untested") else shown
    within = f" within {plain(one.sesoi)}" if state in ("equivalent", "not inferior") else ""
    return f"{verb} {degree}{within} ({effect} {metric.label})"


def _what_to_do(row: DecisionRow) -> str:
    treatment, baseline = arm_name(row.treatment), arm_name(row.baseline)
    ratio = row.costs.get("train_s", 1.0)
    if row.outcome == Outcome.TRADE_OFF:
        good = [one for one in row.metrics if one.better]
        if not good:
            return f"stay with {baseline}"
        matters = "ranking" if any(one.metric in ANSWERS for one in good) else "answers"
        return f"if {matters} matter{'s' * (matters == 'ranking')}, stay with {baseline}"
    if row.outcome == Outcome.BETTER:
        dearer = f" if {number(ratio, 2)} times the training time is acceptable"
        return f"use {treatment}{dearer * (ratio > 1)}"
    if row.outcome == Outcome.EQUIVALENT:
        return f"take the cheaper, {baseline if ratio > 1 else treatment}"
    if row.outcome == Outcome.DEPENDS:
        return "go by the model nearest to yours"
    return f"stay with {baseline}"


def _several_headlines(rows: Sequence[DecisionRow]) -> str:
    """Name every outcome with its arms, or models, and what to do."""
    several_arms = len({row.treatment for row in rows}) > 1
    by_outcome: dict[str, list[str]] = {}
    for row in rows:
        name = arm_name(row.treatment) if several_arms else row.recipe
        names = by_outcome.setdefault(row.outcome, [])
        if name not in names:
            names.append(name)
    listed = "; ".join(f"{outcome}: {', '.join(names)}" for outcome, names in by_outcome.items())
    better = [row for row in rows if row.outcome == Outcome.BETTER]
    todo = "take one that is better" if better else f"stay with {arm_name(BASELINE)}"
    who = "" if several_arms else f"{arm_name(rows[0].treatment)} "
    return f"{who or 'Arms '}compared with {arm_name(BASELINE)}: {listed}; {todo}."


def _answer(
    decisions: Sequence[DecisionRow], arms: Sequence[ArmRow], treatment: str, *, brief: bool
) -> str:
    """Answer whether to take one treatment instead of the baseline."""
    mine = {row.recipe: row for row in decisions if row.treatment == treatment}
    main = mine.get(POOLED)
    recipes = list(dict.fromkeys(arm.recipe for arm in arms))
    said = [_sentence(main)] if main else []
    for recipe in recipes:
        if recipe not in mine:
            names = f"{arm_name(treatment)} and {arm_name(BASELINE)}"
            said.append(f"On {recipe} {names} cannot be compared: finished runs are missing.")
        elif main:
            said += [] if brief else [_on_one(mine[recipe], arms)]
        else:
            said += [_sentence(mine[recipe]), f"Settings: {_settings(mine[recipe], arms)}."]
    return " ".join(said)


def _sentence(row: DecisionRow) -> str:
    """Say what a decision is, with effects, intervals, cost and n, and what follows."""
    treatment, baseline = arm_name(row.treatment), arm_name(row.baseline)
    first = capital(treatment)
    where = f"on average of these {row.n_models} models" if row.n_models > 1 else f"on {row.recipe}"
    leads: dict[str, str] = {
        Outcome.BETTER: f"{first} is better than {baseline} {where}: it ",
        Outcome.WORSE: f"{first} is worse than {baseline} {where}: it ",
        Outcome.TRADE_OFF: f"Mixed: {where} {treatment} ",
        Outcome.EQUIVALENT: (
            f"{first} equals {baseline} {where}, within the smallest effects of interest: it "
        ),
        Outcome.INCONCLUSIVE: (
            f"No difference between {treatment} and {baseline} is shown {where}: {treatment} "
        ),
        Outcome.DEPENDS: f"It depends on the model: {where} {treatment} ",
        NOT_TESTED: f"{first} and {baseline} are not tested {where}, because {row.reason}: it ",
    }
    lead = leads[row.outcome]
    converged = "When it converges, " if sum(row.n_diverged) else ""
    if converged and lead.startswith(("Mixed", "No ", "It ")):
        lead = f"{lead[0].lower()}{lead[1:]}"
    clauses = [_clause(one, tested=row.outcome != NOT_TESTED) for one in row.metrics]
    listed = (", but " if _turns(row) else ", and ").join(clauses)
    body = f"{converged}{lead}{listed}{_cost(row)} ({_size(row)}{_diverged(row)})."
    return f"{body} {_consequence(row)}".strip()


def _clause(one: CoPrimaryRow, *, tested: bool) -> str:
    """Say what one metric shows."""
    metric = METRICS[one.metric]
    effect = in_unit(signed(one.estimate, metric.digits), metric)
    bounds = ""
    if one.low is not None and one.high is not None:
        bounds = f", 95 % interval {signed(one.low, metric.digits)} to " + signed(
            one.high, metric.digits
        )
    margin = in_unit(plain(one.sesoi), metric)
    numbers = f"({metric.label} {effect}{bounds})"
    state = _state(one) if tested and one.low is not None else "untested"
    if one.metric in ANSWERS:
        words = {
            "better": "its own answers are better",
            "worse": "its own answers are worse",
            "equivalent": f"its own answers are as good within ±{margin}",
            "not inferior": f"its own answers lose less than {margin}",
            "open": "its own answers are not shown to be as good",
            "untested": "its own answers are not tested",
        }[state]
        return f"{words} {numbers}"
    what = "ranks given pairs" if one.metric != "nll" else "expects chosen answers"
    words = {
        "better": f"{what} better",
        "worse": f"{what} worse",
        "equivalent": f"{what} equally well within ±{margin}",
        "not inferior": f"{what} at most {margin} worse",
        "open": f"is not shown to {what.replace('ranks', 'rank').replace('expects', 'expect')} "
        "as well",
        "untested": f"{what} with a difference that is not tested",
    }[state]
    return f"{words} {numbers}"


def _state(one: CoPrimaryRow) -> str:
    for name, holds in (
        ("better", one.better),
        ("worse", one.worse),
        ("equivalent", one.equivalent),
        ("not inferior", one.not_inferior),
    ):
        if holds:
            return name
    return "open"


def _turns(row: DecisionRow) -> bool:
    """Tell whether the second metric speaks against the first."""
    good = [one.better or one.equivalent or one.not_inferior for one in row.metrics]
    return len(set(good)) > 1


def _cost(row: DecisionRow) -> str:
    ratio = row.costs.get("train_s")
    return "" if ratio is None else f", at {number(ratio, 2)} times the time"


def _consequence(row: DecisionRow) -> str:
    """Say what follows for a practitioner."""
    treatment, baseline = arm_name(row.treatment), arm_name(row.baseline)
    dearer = row.costs.get("train_s", 1.0) > 1
    if row.outcome == Outcome.TRADE_OFF:
        good = [one for one in row.metrics if one.better]
        if not good:
            return f"There is no reason here to leave {baseline}."
        if any(one.metric in ANSWERS for one in good):
            return f"If ranking matters, there is no reason here to leave {baseline}."
        return f"If answers matter, there is no reason here to leave {baseline}."
    follows: dict[str, str] = {
        Outcome.BETTER: f"These runs speak for {treatment}{' where its cost fits' * dearer}.",
        Outcome.WORSE: f"Stay with {baseline}.",
        Outcome.EQUIVALENT: f"Take the cheaper one, {baseline if dearer else treatment}.",
        Outcome.INCONCLUSIVE: f"There is no reason here to leave {baseline}.",
        Outcome.DEPENDS: f"{_models_differ(row)} Go by the model nearest to yours.",
    }
    return follows.get(row.outcome, "")


def _models_differ(row: DecisionRow) -> str:
    """Say in which metrics the models differ."""
    words = [
        f"{METRICS[one.metric].label}: "
        + ("signs conflict, " if one.signs_conflict else "")
        + f"equal effects {p_value(one.heterogeneity_p)}"
        for one in row.metrics
        if one.heterogeneity_p is not None
    ]
    return f"The models differ ({'; '.join(words)})."


def _on_one(row: DecisionRow, arms: Sequence[ArmRow]) -> str:
    """Say in a few words what one model shows; its settings are in the table."""
    effects = ", ".join(
        f"{METRICS[one.metric].label} {signed(one.estimate, METRICS[one.metric].digits)}"
        for one in row.metrics
    )
    untuned = [
        arm_name(arm.arm)
        for arm in arms
        if arm.recipe == row.recipe and arm.arm in (row.baseline, row.treatment) and not arm.tuned
    ]
    warning = f", with {' and '.join(untuned)} untuned" if untuned else ""
    return f"On {row.recipe}: {row.outcome} ({effects}){warning}."


def _settings(row: DecisionRow, arms: Sequence[ArmRow]) -> str:
    known = {(arm.recipe, arm.arm): arm for arm in arms}
    return " against ".join(
        f"{arm_name(name)} ({settings(found.settings)}{'' if found.tuned else ', untuned'})"
        for name in (row.treatment, row.baseline)
        for found in [known[row.recipe, name]]
    )


def _size(row: DecisionRow) -> str:
    a, b = row.n_seeds
    each = " of each model" if row.n_models > 1 else ""
    n = f"{b} and {a} seeds" if a != b else "1 seed" if a == 1 else f"{a} seeds{each}"
    return f"{n}, {row.n_examples} held-out pairs"


def _diverged(row: DecisionRow) -> str:
    """Say how many runs diverged, and whether the arms differ in that."""
    words = [
        f"{k} of {n} {arm_name(arm)} runs diverged"
        for arm, k, n in zip(
            (row.baseline, row.treatment), row.n_diverged, row.n_begun, strict=True
        )
        if k
    ]
    return f"; {', '.join(words)}; equal rates {p_value(row.divergence_p)}" if words else ""
