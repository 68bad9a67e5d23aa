"""What a run and the start of a run have in common: how each begins and tells its progress."""

from collections.abc import Callable, Mapping, Sequence

from study.model.jobs import Report
from study.records.folders import set_aside
from study.run.planned import PlannedRun


def begin(
    run: PlannedRun,
    *,
    faults: Sequence[str],
    warn: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Claim a run's folder, free of damaged records; False where it is finished.

    Args:
        run: the run to be made.
        faults: what of its folder is damaged; then it is set aside.
        warn: told what was set aside, and where it is.
        check: called before the folder is claimed; it may refuse to.
    """
    folder = run.folder
    if faults:
        kept = set_aside(folder.path, "damaged")
        warn(f"{folder.path}: {faults[0]}; it is kept as {kept.name} and made again")
    if folder.record() is not None:
        return False
    check()
    folder.claim(run.config)
    return True


def progress_of(
    report: Report, last: int, *, what: str = "", counted: bool = True
) -> Callable[[int, Mapping[str, float]], bool]:
    """Return what reports each scoring of a training, and never stops it.

    Args:
        report: where it goes.
        last: the training's last step.
        what: named before the step.
        counted: the steps are the job's progress; else it stands still meanwhile.
    """

    def follow(step: int, scores: Mapping[str, float]) -> bool:
        note = f"{what}step {step}/{last}, validation NLL {scores['nll']:.3f}"
        report(*((step, last) if counted else (0, 1)), note)
        return False

    return follow
