"""Prompts with the answers of every arm and seed, and which are right, from records."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from analysis.findings import Findings
from analysis.printing import arm_name, count, is_trained, percent
from analysis.records.study import RunRecord, StudyRecords
from paper.blocks import Answers, Browser, Said, Told
from paper.cells import Column, Table, one_group, row

MOST_CHARACTERS: Final = 400_000
"""Of prompts and answers that a page holds; a page of more is slow to open and to search."""
MOST_GROUPS: Final = 9
"""Rows of the table of who is right where; of more combinations the rarest are added up."""
CHOSEN: Final = "Chosen answer"


def prompts_of(records: StudyRecords) -> tuple[Answers, ...]:
    """Put the answers of every arm and seed side by side, prompt by prompt."""
    return tuple(found for recipe in records.recipes for found in _of_recipe(records, recipe))


def samples_of(findings: Findings) -> tuple[Answers, ...]:
    """Do the same for the few prompts in findings, of which nobody knows who is right."""
    return tuple(
        Answers(
            recipe=sample.recipe,
            example=sample.example_id,
            source="",
            prompt=sample.prompt,
            answers=(
                Said(who=CHOSEN, told=(Told(text=sample.reference),)),
                *(
                    Said(who=arm_name(arm), told=(Told(text=text),))
                    for arm, text in sample.answers.items()
                ),
            ),
        )
        for sample in findings.samples
    )


def browser(prompts: Sequence[Answers], *, shown: int) -> Browser:
    """Take as many prompts as a page may hold, the models in turn.

    Args:
        prompts: all of them; at least ``shown`` are taken.
        shown: how many are read without scripts, and printed.
    """
    recipes = list(dict.fromkeys(found.recipe for found in prompts))
    most, taken = MOST_CHARACTERS / max(1, len(recipes)), list[Answers]()
    for recipe in recipes:
        held = 0
        for found in prompts:
            if found.recipe == recipe:
                held += _size(found)
                if held > most and len(taken) >= shown:
                    break
                taken.append(found)
    n_out = len(prompts) - len(taken)
    return Browser(
        prompts=tuple(taken),
        shown=shown,
        left_out=f"The page holds {count(len(taken))} of {count(len(prompts))} answered prompts, "
        f"at most {count(MOST_CHARACTERS)} characters; the records have all "
        "(generations.jsonl of every run)."
        if n_out
        else "",
    )


def agreement(prompts: Sequence[Answers], signature: str) -> Table | None:
    """Count who is right where, or None where nothing says what is right."""
    recipes = list(dict.fromkeys(found.recipe for found in prompts))
    sizes = Counter(found.group for found in prompts if found.group)
    if not sizes:
        return None
    groups: dict[str, tuple[str, ...]] = {group: (group,) for group in sorted(sizes)}
    if len(groups) > MOST_GROUPS:
        named = sorted(sizes, key=lambda group: (-sizes[group], group))[: MOST_GROUPS - 1]
        others = tuple(set(sizes) - set(named))
        groups = {group: (group,) for group in named}
        groups[f"{len(others)} other combinations of arms"] = others
    rows = []
    for name, members in groups.items():
        cells = []
        for recipe in recipes:
            own = [found for found in prompts if found.recipe == recipe]
            hits = sum(found.group in members for found in own)
            cells.append(f"{hits} ({percent(hits / len(own))})")
        rows.append(row(name, *cells))
    return Table(
        name="agreement",
        columns=(
            Column(head="Answers of most seeds", width=0.4),
            *(
                Column(head=recipe, width=round(0.6 / len(recipes), 3), number=True)
                for recipe in recipes
            ),
        ),
        groups=one_group(rows),
        caption="Who is right where: prompts by the arms whose answer is exactly the chosen one "
        "in more than half of their seeds.",
        note=f"Nothing is tested here; {len(prompts)} prompts, all seeds of every trained arm.",
        signature=signature,
    )


def _size(found: Answers) -> int:
    texts = (told.text for said in found.answers for told in said.told)
    return len(found.prompt) + sum(map(len, texts))


def _of_recipe(records: StudyRecords, recipe: str) -> Iterator[Answers]:
    runs = {arm: found for arm in records.arms(recipe) if (found := records.ok(recipe, arm))}
    answered = {
        arm: [{str(row["example_id"]): row for row in run.generations} for run in found]
        for arm, found in runs.items()
    }
    right = {arm: [_right(run) for run in found] for arm, found in runs.items()}
    each = [set(rows) for found in answered.values() for rows in found]
    sources = _sources([run for found in runs.values() for run in found])
    for example in sorted(set.intersection(*each)) if each else []:
        first = next(iter(answered.values()))[0][example]
        arms = (
            Said(
                who=arm_name(arm),
                told=tuple(
                    _told(example, runs[arm], answered[arm], right[arm] if is_trained(arm) else [])
                ),
            )
            for arm in runs
        )
        yield Answers(
            recipe=recipe,
            example=example,
            source=sources.get(example, ""),
            prompt=first["prompt"],
            answers=(Said(who=CHOSEN, told=(Told(text=first["reference"]),)), *arms),
        )


def _told(
    example: str,
    runs: Sequence[RunRecord],
    answered: Sequence[dict[str, Any]],
    right: Sequence[dict[str, bool]],
) -> Iterator[Told]:
    """Yield the answers that differ, those of most seeds first."""
    seeds: dict[tuple[str, bool | None], list[int]] = {}
    for place, run in enumerate(runs):
        is_right = right[place].get(example) if right else None
        seeds.setdefault((answered[place][example]["text"], is_right), []).append(run.seed)
    for (text, is_right), found in sorted(seeds.items(), key=lambda item: -len(item[1])):
        yield Told(text=text, seeds=tuple(found), is_right=is_right)


def _right(run: RunRecord) -> dict[str, bool]:
    """Return example -> whether its answer is the chosen one, where that was scored."""
    if run.examples is None or "exact_match" not in run.examples:
        return {}
    scored = run.examples[run.examples["exact_match"].notna()]
    return {
        str(example): bool(score == 1)
        for example, score in zip(scored["example_id"], scored["exact_match"], strict=True)
    }


def _sources(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return example -> where its pair comes from."""
    frame = next((run.examples for run in runs if run.examples is not None), None)
    if frame is None or "source" not in frame:
        return {}
    return {
        str(example): str(source)
        for example, source in zip(frame["example_id"], frame["source"], strict=True)
    }
