"""Prompts with every arm's answers, and which of them are right, from records."""

from collections.abc import Iterator
from typing import Final

from analysis.findings import Findings
from analysis.printing import arm_name, is_trained, percent
from analysis.records.study import RunRecord, StudyRecords
from paper.blocks import Answers, Said
from paper.cells import Column, Table, one_group, row

MOST_PROMPTS: Final = 200
"""Of one recipe; a page of more is slow to open."""
CHOSEN: Final = "Chosen answer"


def prompts_of(records: StudyRecords) -> tuple[Answers, ...]:
    """Put the answers of every arm's first seed side by side, prompt by prompt."""
    return tuple(found for recipe in records.recipes for found in _of_recipe(records, recipe))


def samples_of(findings: Findings) -> tuple[Answers, ...]:
    """Do the same for the few prompts in findings, of which nobody knows who is right."""
    return tuple(
        Answers(
            place=f"{sample.recipe}, test pair {sample.example_id}",
            prompt=sample.prompt,
            answers=(
                Said(who=CHOSEN, text=sample.reference),
                *(Said(who=arm_name(arm), text=text) for arm, text in sample.answers.items()),
            ),
        )
        for sample in findings.samples
    )


def agreement(prompts: tuple[Answers, ...], signature: str) -> Table | None:
    """Count who is right where, or None where nothing says what is right."""
    recipes = list(dict.fromkeys(found.place.partition(", test pair ")[0] for found in prompts))
    groups = sorted({found.group for found in prompts} - {""})
    if not groups:
        return None
    rows = []
    for group in groups:
        cells = []
        for recipe in recipes:
            own = [found for found in prompts if found.place.startswith(f"{recipe}, test pair ")]
            hits = sum(found.group == group for found in own)
            cells.append(f"{hits} ({percent(hits / len(own))})")
        rows.append(row(group, *cells))
    return Table(
        name="agreement",
        columns=(
            Column(head="Answers of one seed", width=0.4),
            *(
                Column(head=recipe, width=round(0.6 / len(recipes), 3), number=True)
                for recipe in recipes
            ),
        ),
        groups=one_group(rows),
        caption="Who is right where: prompts by the arms whose answer is exactly the chosen one.",
        note=f"Nothing is tested here; {len(prompts)} prompts, first seed of every trained arm.",
        signature=signature,
    )


def _of_recipe(records: StudyRecords, recipe: str) -> Iterator[Answers]:
    runs = {
        arm: records.ok(recipe, arm)[0] for arm in records.arms(recipe) if records.ok(recipe, arm)
    }
    answered = {
        arm: {row["example_id"]: row for row in run.generations} for arm, run in runs.items()
    }
    right = {arm: _right(run) for arm, run in runs.items() if is_trained(arm)}
    shared = sorted(set.intersection(*map(set, answered.values()))) if answered else []
    for example_id in shared[:MOST_PROMPTS]:
        first = next(iter(answered.values()))[example_id]
        yield Answers(
            place=f"{recipe}, test pair {example_id}",
            prompt=first["prompt"],
            answers=(
                Said(who=CHOSEN, text=first["reference"]),
                *(
                    Said(
                        who=arm_name(arm),
                        text=rows[example_id]["text"],
                        is_right=right.get(arm, {}).get(example_id),
                    )
                    for arm, rows in answered.items()
                ),
            ),
        )


def _right(run: RunRecord) -> dict[str, bool]:
    """Return example -> whether its answer is the chosen one, where that was scored."""
    if run.examples is None or "exact_match" not in run.examples:
        return {}
    scored = run.examples[run.examples["exact_match"].notna()]
    return {
        str(example): bool(score == 1)
        for example, score in zip(scored["example_id"], scored["exact_match"], strict=True)
    }
