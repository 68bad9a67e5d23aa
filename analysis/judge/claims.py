"""Judge the claims of the sources by the records (METHODS.md, 8).

Family: every distinct prediction of the registered claims, tested over all
models where there are several, corrected by Holm. One that not every model can
test is in it by those that can, and one that none can with p = 1. A single model
is judged behind the gate of all, corrected by Holm over the models.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import statistics as stats
from analysis.judge import evidence
from analysis.judge.comparisons import POOLED
from analysis.judge.contrasts import LEVEL
from analysis.judge.evidence import Evidence
from analysis.judge.predictions import PlannedPart, prediction
from analysis.judged_rows import ClaimPart, ClaimRow
from analysis.printing import (
    parameters,
    percent,
    plain,
)
from analysis.records.metrics import METRICS
from analysis.records.study import StudyRecords
from analysis.statistics.verdicts import ClaimVerdict, claim_verdict

Key = tuple[str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """One prediction's evidence on one model or over all, after correction."""

    evidence: Evidence
    p_adjusted: float | None = None
    is_open: bool = True
    """False where the prediction is not shown over all models."""
    family_size: int = 0


def claim_rows(records: StudyRecords) -> tuple[ClaimRow, ...]:
    """Judge every registered claim, over all models first and then on each."""
    if not records.claims:
        return ()
    recipes = tuple(records.claims)
    claims = records.registered_claims
    parts = {_key(part): part for claim in claims for part in claim["parts"]}
    judged = {
        _key(part) for claim in claims if not claim["not_testable"] for part in claim["parts"]
    }
    tested = _tested(records, recipes, parts, judged)
    places = (*([POOLED] if len(recipes) > 1 else []), *recipes)
    own = {recipe: records.claims[recipe]["claims"] for recipe in recipes}
    return tuple(
        _row(records, own[place][number] if place in own else claim, place, tested)
        for number, claim in enumerate(claims)
        for place in places
    )


def claim_remarks(records: StudyRecords, rows: Sequence[ClaimRow]) -> tuple[str, ...]:
    """Say how the claims' runs were chosen and how their tests are corrected."""
    if not rows:
        return ()
    plans = records.claims
    n = max((part.family_size for row in rows for part in row.parts), default=0)
    first = (
        f"The family of the claims has {n} tests, corrected by Holm; those that could not run "
        "count as p = 1."
    )
    if len(plans) > 1:
        first += (
            " They are made over all models; a single model is judged only where that rejects, "
            "corrected by Holm for the number of models."
        )
    chosen = dict.fromkeys(plan["chosen"] for plan in plans.values())
    changed = [
        f"{recipe}: the registered claims were changed after {past['finished_runs']} runs had "
        "finished."
        for recipe, plan in plans.items()
        for past in plan["amended"]
        if past["finished_runs"]
        and any(
            dict(past).get(part) != dict(plan).get(part) for part in ("claims", "early", "costs")
        )
    ]
    return (first, *chosen, *changed)


def _key(part: PlannedPart) -> Key:
    return part["kind"], part["metric"], part["baseline"], part["treatment"]


def _testable(found: Mapping[str, Evidence]) -> list[str]:
    return [recipe for recipe, one in found.items() if one.contrast is not None]


def _tested(
    records: StudyRecords,
    recipes: Sequence[str],
    parts: Mapping[Key, PlannedPart],
    judged: AbstractSet[Key],
) -> dict[tuple[Key, str], Corrected]:
    """Measure every prediction everywhere and correct the family."""
    single = {
        key: {recipe: evidence.gather(records, recipe, part) for recipe in recipes}
        for key, part in parts.items()
    }
    pooled = {key: evidence.pool(found) for key, found in single.items() if len(found) > 1}
    gated = {key for key, found in pooled.items() if found.contrast is not None}
    exact = {key for key in parts if all(one.is_exact for one in single[key].values())}
    family = [
        (key, place)
        for key in parts
        if key in judged - exact
        for place in ([POOLED] if key in gated else _testable(single[key]) or recipes[:1])
    ]
    found = {(key, POOLED): one for key, one in pooled.items()}
    found |= {(key, recipe): one for key, rows in single.items() for recipe, one in rows.items()}
    corrected = stats.holm([_p(found[member]) for member in family])
    adjusted = dict(zip(family, corrected, strict=True))
    is_open = {key: adjusted.get((key, POOLED), 1.0) <= LEVEL for key in gated}
    for key in gated:
        within = stats.holm([_p(single[key][recipe]) for recipe in recipes])
        adjusted |= {(key, recipe): p for recipe, p in zip(recipes, within, strict=True)}
    return {
        (key, place): Corrected(
            evidence=one,
            p_adjusted=adjusted.get((key, place)),
            is_open=place == POOLED or is_open.get(key, True),
            family_size=len(family),
        )
        for (key, place), one in found.items()
    }


def _p(found: Evidence) -> float | None:
    return None if found.contrast is None else found.contrast.p_value


def _row(
    records: StudyRecords,
    claim: Mapping[str, Any],
    place: str,
    tested: Mapping[tuple[Key, str], Corrected],
) -> ClaimRow:
    """Judge one claim on one model or over all."""
    plan = _plan(records, place)
    bound = bool(claim["not_testable"])
    parts = tuple(
        _part(
            part,
            tested[_key(part), place],
            plan,
            smallest=_smallest(records, part),
            measured_only=bound,
        )
        for part in claim["parts"]
    )
    found = claim_verdict(ClaimVerdict(part.verdict) for part in parts)
    return ClaimRow(
        claim=claim["id"],
        source=claim["source"],
        sentence=claim["sentence"],
        made_at=f"{claim['model']}; {claim['data']}",
        here=_here(records, place),
        recipe=place,
        verdict=ClaimVerdict.NOT_TESTABLE if bound else found,
        parts=parts,
        remark=str(claim["not_testable"]),
    )


def _plan(records: StudyRecords, place: str) -> Mapping[str, Any]:
    """Return a recipe's plan, or the one of all; without settings where they differ."""
    if place != POOLED:
        return records.claims[place]
    first, *others = records.claims.values()
    same = all(plan["settings"] == first["settings"] for plan in others)
    return first if same else {**first, "settings": {}}


def _part(
    part: PlannedPart,
    tested: Corrected,
    plan: Mapping[str, Any],
    *,
    smallest: float | None,
    measured_only: bool,
) -> ClaimPart:
    """Turn one prediction and its evidence into a row with its verdict."""
    found = tested.evidence
    contrast = found.contrast
    estimate = found.estimate
    low = high = detectable = None
    if contrast is not None:
        estimate = found.shown(contrast.estimate)
        low, high = map(found.shown, contrast.interval())
        if found.form in ("difference", "share"):
            detectable = contrast.minimum_detectable()
    elif estimate is not None and found.form == "ratio":
        estimate = found.shown(estimate)
    if found.is_exact:
        verdict, remark = _compared(part, found.estimate or 0.0, smallest or 0.0)
    else:
        verdict, remark = _judged(part, tested, smallest)
    in_metric = found.form == "difference" and part["metric"] in METRICS
    return ClaimPart(
        prediction=prediction(part, plan),
        estimate=estimate,
        low=low,
        high=high,
        digits=METRICS[part["metric"]].digits if in_metric else 2,
        unit=METRICS[part["metric"]].unit if in_metric else "",
        is_difference=found.form == "difference",
        detectable=detectable,
        p_value=None if measured_only else _p(found),
        family_size=tested.family_size,
        p_adjusted=None if measured_only or contrast is None else tested.p_adjusted,
        n=found.n,
        test=found.test or f"not tested: {found.reason}",
        null_hypothesis=found.null_hypothesis if contrast is not None else "",
        verdict=ClaimVerdict.NOT_TESTABLE if measured_only else verdict,
        remark="" if measured_only else remark,
    )


def _smallest(records: StudyRecords, part: PlannedPart) -> float | None:
    """Return from which effect on a prediction matters; of costs it is a share."""
    if part["kind"] == "cost":
        return records.smallest_cost_share
    return records.sesoi.get(part["metric"])


def _judged(
    part: PlannedPart, tested: Corrected, smallest: float | None
) -> tuple[ClaimVerdict, str]:
    """Judge one prediction by its corrected test; return the verdict and a remark."""
    contrast = tested.evidence.contrast
    if contrast is None:
        return ClaimVerdict.NOT_TESTABLE, ""
    within = smallest is not None and _is_within(tested.evidence, contrast, smallest)
    doubt = _doubt(tested, contrast, smallest if within else None)
    if doubt is not None:
        return ClaimVerdict.INCONCLUSIVE, doubt
    remark = f"below the smallest effect of interest, {plain(smallest)}" if within else ""
    return _direction(part, contrast.estimate), remark


def _is_within(found: Evidence, contrast: stats.Contrast, smallest: float) -> bool:
    """Tell whether an effect is shown to be below the smallest of interest."""
    low, high = contrast.interval(0.90)
    bound = float(np.log1p(smallest)) if found.form == "ratio" else smallest
    return found.form in ("difference", "ratio") and -bound < low and high < bound


def _doubt(tested: Corrected, contrast: stats.Contrast, below: float | None) -> str | None:
    """Say why a prediction is not decided; None where it is.

    Args:
        tested: its evidence and p-value.
        contrast: of the evidence.
        below: the smallest effect of interest, where the effect is shown to be below it.
    """
    if n := tested.evidence.n_diverged:
        return f"{n} {'run' if n == 1 else 'runs'} diverged"
    if below is not None and tested.evidence.form == "ratio":
        return _same_cost(below)
    if tested.p_adjusted is None or tested.p_adjusted > LEVEL:
        if below is not None:
            return f"any difference is below {plain(below)}"
        return "not after correction for the family" if contrast.p_value <= LEVEL else ""
    return None if tested.is_open else "not shown over all models"


def _compared(part: PlannedPart, estimate: float, smallest: float) -> tuple[ClaimVerdict, str]:
    """Judge costs that are the same in every run; ``estimate`` is the log of their ratio."""
    if estimate == 0:
        return ClaimVerdict.INCONCLUSIVE, "both cost the same"
    if abs(estimate) < np.log1p(smallest):
        return ClaimVerdict.INCONCLUSIVE, _same_cost(smallest)
    return _direction(part, estimate), "exact"


def _same_cost(smallest: float) -> str:
    return f"both cost the same to within {percent(smallest)}"


def _direction(part: PlannedPart, estimate: float) -> ClaimVerdict:
    as_claimed = (estimate > 0) == (part["direction"] == "higher")
    return ClaimVerdict.REPRODUCED if as_claimed else ClaimVerdict.CONTRADICTED


def _here(records: StudyRecords, place: str) -> str:
    """Say on what size of model and on which data a claim is judged here."""
    recipes = tuple(records.claims) if place == POOLED else (place,)
    first = [records.of(recipe)[0].record for recipe in recipes]
    sizes = dict.fromkeys(parameters(int(record["parameters"]["total"])) for record in first)
    sources = dict.fromkeys(
        "a toy language" if record["data"]["source"] == "toy" else str(record["data"]["source"])
        for record in first
    )
    return f"{' and '.join(sizes)} parameters; {' and '.join(sources)}"
