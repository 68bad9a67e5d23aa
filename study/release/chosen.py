"""Which run is meant, and the recipe that it was made with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.arms import ARMS, UNTRAINED
from study.config.canonical import to_dict
from study.config.recipe import Recipe, from_dict, load_recipe
from study.errors import RecordError, nearest
from study.records.layout import ADAPTER, plan_path
from study.records.runs import RunFolder, compare_folders
from study.records.schema import Plan, Record, RunConfig, read_as

OBJECTIVES = (("nll", "ranking"), ("nll",))
"""Validation scores that choose a seed, as a search chooses settings; older runs have the second
alone."""


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """One finished run of a comparison."""

    runs: Path
    """Folder of all records."""
    recipe: Recipe
    """What the run was made with, in the precision that its record names."""
    arm: str
    seed: int
    folder: RunFolder
    record: Record
    config: RunConfig
    plan: Plan | None
    why: str
    """How this seed was chosen."""

    @property
    def name(self) -> str:
        """Recipe, arm and seed."""
        return f"{self.recipe.name}/{self.arm}/seed-{self.seed}"

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter; None for the untrained base.

        Raises:
            RecordError: the records were published without weights.
        """
        if self.arm == UNTRAINED:
            return None
        path = self.folder.path / ADAPTER
        if not (path / "adapter_model.safetensors").is_file():
            raise RecordError(
                f"{self.name} has no adapter in {path}: records are published without weights; "
                "make the run again with `study compare`, or name another folder with --runs"
            )
        return path


def choose_run(
    folder: Path | None = None,
    *,
    runs: Path,
    recipe: str | None = None,
    arm: str | None = None,
    seed: int | None = None,
) -> ChosenRun:
    """Return a run by its folder, or the best by validation of an arm.

    Args:
        folder: of the run; nothing else is read then.
        runs: folder of all records.
        recipe: name of a recipe that has records.
        arm: name of an arm.
        seed: seed; None takes the one with the lowest NLL + ranking loss on
            validation pairs, which no test score decides.

    Raises:
        RecordError: there is no such finished run, or it is damaged.
    """
    if folder is not None:
        return _of_folder(folder)
    if recipe is None or arm is None:
        raise RecordError("name a run's folder, or --recipe and --arm")
    found = [one for one in compare_folders(runs, recipe) if one[0] == arm]
    if not found:
        arms = sorted({name for name, _, _ in compare_folders(runs, recipe)})
        raise RecordError(
            f"{runs} has no run of {arm!r} for recipe {recipe!r}{nearest(arm, {*ARMS, *arms})}; it "
            f"has {', '.join(arms) or 'none'}; make some with `study compare`"
        )
    finished = [(number, one) for _, number, one in found if one.status() == "ok"]
    if seed is not None:
        finished = [(number, one) for number, one in finished if number == seed]
    if not finished:
        states = ", ".join(f"seed {number}: {one.status()}" for _, number, one in found)
        raise RecordError(f"{recipe}, {arm}: no finished run to take ({states})")
    best = min(finished, key=lambda one: validation_loss(one[1]))[0]
    why = "as asked"
    if seed is None:
        why = f"best of {len(finished)} seeds by NLL + ranking loss on validation pairs"
    return _read(dict(finished)[best], runs, why)


def validation_loss(folder: RunFolder) -> float:
    """Return NLL + calibrated ranking loss of a run's last scoring of validation pairs."""
    rows = [row for row in folder.steps() if row["split"] == "validation"]
    for names in OBJECTIVES:
        if rows and all(rows[-1].get(name) is not None for name in names):
            return float(sum(rows[-1][name] for name in names))
    return float("inf")


def _of_folder(path: Path) -> ChosenRun:
    folder = RunFolder(path)
    state = folder.status()
    if state != "ok":
        why = "; ".join(folder.faults()) if state == "damaged" else f"it is {state}"
        raise RecordError(f"{path} is no folder of a finished run: {why}")
    if len(path.absolute().parents) < 4 or path.absolute().parents[1].name != "compare":
        raise RecordError(f"{path} is not below <runs>/<recipe>/compare/<arm>, where runs are")
    return _read(folder, path.absolute().parents[3], "named by its folder")


def _read(folder: RunFolder, runs: Path, why: str) -> ChosenRun:
    if faults := folder.faults():
        raise RecordError(f"{folder.path}: {'; '.join(faults)}; make the run again")
    record, config = folder.record(), folder.config()
    assert record is not None
    assert config is not None
    name = record["recipe"]
    plan = read_as(plan_path(runs, name), Plan)
    return ChosenRun(
        runs=runs,
        recipe=_recipe_of(record, config, plan),
        arm=record["arm"],
        seed=record["seed"],
        folder=folder,
        record=record,
        config=config,
        plan=plan,
        why=why,
    )


def _recipe_of(record: Record, config: RunConfig, plan: Plan | None) -> Recipe:
    """Complete what a run keeps of its recipe; its search plays no part any more."""
    tree = to_dict(load_recipe("tiny-llama"))
    kept = {"primary_metrics", "secondary_metrics", "sesoi"}
    analysis = {name: value for name, value in (plan or {}).items() if name in kept}
    if len(analysis) == len(kept):
        tree["analysis"] = analysis
    arms = {record["arm"]: record["settings"]} if record["settings"] else {}
    if "start" in record:  # an arm that continues another stands in no recipe without it
        arms[record["start"]["arm"]] = record["start"]["settings"]
    tree |= {**config["recipe"], "description": "", "arms": arms}
    tree["name"] = record["recipe"]
    tree["model"] = {**tree["model"], "dtype": record["model"].get("dtype", "auto")}
    return from_dict(tree)


def margins_of_interest(run: ChosenRun) -> dict[str, float]:
    """Return metric -> smallest effect of interest of the run's study."""
    return {**run.recipe.analysis.sesoi}


def choose_arms(
    arms: Sequence[str], *, runs: Path, recipe: str, seed: int | None
) -> list[ChosenRun]:
    """Return a run for every arm named, or for all that a recipe has finished runs of."""
    known = dict.fromkeys(
        name for name, _, one in compare_folders(runs, recipe) if one.status() == "ok"
    )
    if not known:
        raise RecordError(f"{runs} has no finished run for recipe {recipe!r}; see `study status`")
    wanted = arms or [name for name in ARMS if name in known]
    return [
        choose_run(runs=runs, recipe=recipe, arm=arm, seed=None if arm == UNTRAINED else seed)
        for arm in wanted
    ]


def all_runs(arms: Sequence[str], *, runs: Path, recipe: str) -> list[ChosenRun]:
    """Return every finished run of the arms named, or of all arms of a recipe."""
    found = [
        _read(folder, runs, "all seeds")
        for arm, _, folder in compare_folders(runs, recipe)
        if folder.status() == "ok" and (not arms or arm in arms)
    ]
    if not found:
        raise RecordError(
            f"{runs} has no finished run for recipe {recipe!r}"
            + (f" and {', '.join(arms)}" if arms else "")
            + "; see `study status`"
        )
    return sorted(found, key=lambda run: (list(ARMS).index(run.arm), run.seed))
