"""What a search leaves behind: whether it is sound, how it is mended, and what it froze."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.arms import ARMS, UNTRAINED, Settings
from study.config.canonical import differences, digest
from study.config.recipe import Recipe
from study.errors import RecordError, UnreadableError
from study.records.digests import search_config
from study.records.files import unreadable
from study.records.folders import RESTORE, read_config, set_aside
from study.records.layout import BEST, CONFIG, CONFIRMATIONS, JOURNAL, TRIALS, search_folder
from study.records.schema import Best, Confirmation, Trial, read_as, rows_as


def search_faults(folder: Path) -> list[str]:
    """Say what is damaged in one arm's search; nothing where it is sound.

    ``best.json`` knows the trials and repetitions that it was chosen from; a
    search that goes on adds rows to them and changes none.
    """
    found = []
    rows: dict[str, Sequence[Any]] = {}
    best = None
    try:
        config = read_config(folder)
        best = read_as(folder / BEST, Best)
        found += _strayed(folder, config, best)
    except UnreadableError:
        raise
    except RecordError as error:
        found.append(str(error))
    for name, kind in ((TRIALS, Trial), (CONFIRMATIONS, Confirmation)):
        try:
            rows[name] = rows_as(folder / name, kind, growing=name == TRIALS)
        except RecordError as error:
            found.append(str(error))
    for name, (n_rows, expected) in (best["rows"] if best and "rows" in best else {}).items():
        if name in rows and digest(rows[name][:n_rows]) != expected:
            found.append(f"{folder / name} was changed after {BEST} was chosen from it")
    if best and "journal" in best and (folder / JOURNAL).exists():
        size, _ = best["journal"]
        if sealed_journal(folder, size) != best["journal"]:
            found.append(_journal_changed(folder))
    return found


def sealed_journal(folder: Path, size: int | None = None) -> list[Any]:
    """Return how many bytes a journal's whole lines have, and their SHA-256.

    Args:
        folder: of one arm's search.
        size: leave out what was appended beyond so many bytes.
    """
    try:
        content = (folder / JOURNAL).read_bytes()[:size]
    except PermissionError as error:
        raise unreadable(folder / JOURNAL) from error
    lines = content[: content.rfind(b"\n") + 1]
    return [len(lines), hashlib.sha256(lines).hexdigest()]


def _journal_changed(folder: Path) -> str:
    return f"{folder / JOURNAL} is damaged (changed after {BEST} was chosen from it)"


def _strayed(folder: Path, config: Mapping[str, Any] | None, best: Best | None) -> list[str]:
    """Say where a search's files are of another search than their folder."""
    if config is None or folder.parent.name != "search":
        return []
    recipe, arm = folder.parent.parent.name, folder.name
    place = [config["recipe"].get("name", recipe), config["arm"]]
    if place != [recipe, arm]:
        return [f"{folder / CONFIG} is of {' / '.join(place)}, not of {recipe} / {arm}"]
    if best is not None and best["digest"] != config["digest"]:
        return [f"{folder / BEST} and {CONFIG} beside it have different digests"]
    return []


def mend_search(folder: Path) -> list[Trial]:
    """Set damaged files of a search aside, which it makes again; return the known trials.

    Raises:
        RecordError: the journal is damaged, which nothing can make again.
    """
    from study.records.locks import hold

    with hold(folder / ".mend.lock", wait=True):
        faults = "\n".join(search_faults(folder))
        if _journal_changed(folder) in faults:
            raise RecordError(f"{_journal_changed(folder)}; {RESTORE}")
        for name in (TRIALS, CONFIRMATIONS, BEST):
            if f"{folder / name}" in faults and (folder / name).exists():
                set_aside(folder / name, "damaged")
        return rows_as(folder / TRIALS, Trial, growing=True)


def check_journal(
    folder: Path, known: Iterable[Mapping[str, Any]], trials: Iterable[Mapping[str, Any]]
) -> None:
    """Check that a search's storage still has every trial that was once finished.

    Raises:
        RecordError: it lost or changed some.
    """
    found = {row["number"]: row for row in trials}
    lost = [
        str(row["number"])
        for row in known
        if row != {name: found.get(row["number"], {}).get(name) for name in row}
    ]
    if lost:
        raise RecordError(
            f"{folder / JOURNAL} or {TRIALS} beside it is damaged: they differ in trial "
            f"{', '.join(lost)}; restore them, or set the old search aside with --fresh"
        )


def arm_settings(recipe: Recipe, arm: str, *, runs: Path) -> tuple[Settings, bool]:
    """Return an arm's frozen settings and True, or else the recipe's and False.

    Raises:
        RecordError: the search was made with another model, data or budget.
    """
    searched = ARMS[arm].tuned_as or arm
    folder = search_folder(runs, recipe.name, searched)
    if arm != UNTRAINED and (faults := search_faults(folder)):
        raise RecordError(
            f"{faults[0]}; `study search` with the same options mends it, or says what to do"
        )
    best = read_as(folder / BEST, Best)
    if arm == UNTRAINED or best is None:
        return recipe.arms.get(arm, {}), False
    _check_same_study(recipe, searched, folder, start_settings(recipe, searched, runs=runs))
    return best["settings"], True


def start_settings(recipe: Recipe, arm: str, *, runs: Path) -> Settings | None:
    """Return what the start of an arm is trained with; None where it continues nothing."""
    start = ARMS[arm].starts_from
    return None if start is None else arm_settings(recipe, start, runs=runs)[0]


def _check_same_study(recipe: Recipe, arm: str, folder: Path, start: Settings | None) -> None:
    """Refuse settings that were tuned under another model, data or budget."""
    found = read_config(folder)
    if found is None:
        raise RecordError(f"{folder} has a {BEST} but no {CONFIG}; move it away and search again")
    wanted = search_config(recipe, arm=arm, seed=found["seed"], start=start)
    lines = [
        line
        for part, value in wanted["recipe"].items()
        if part != "search"
        for line in differences(found["recipe"][part], value, part)
    ]
    advice = (
        "give the same --set as that search, name another --runs, or begin again with "
        "`study search --fresh`"
    )
    if not lines:
        lines = differences(found.get("start", {}), wanted.get("start", {}), "start")
        advice = f"search it again from the new start: `study search --arm {arm} --fresh`"
    if lines:
        listed = "\n  ".join(lines)
        raise RecordError(
            f"{folder} was searched under another configuration:\n  {listed}\n{advice}; "
            "nothing was changed"
        )


def searched_arms(runs: Path, recipe: str) -> list[str]:
    """List the arms that a recipe has a search of, begun or finished."""
    return [arm for arm in ARMS if search_folder(runs, recipe, arm).is_dir()]
