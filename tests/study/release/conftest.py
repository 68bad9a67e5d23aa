"""A finished run to release: trained in seconds, in a folder of its own."""

import dataclasses

import pytest

from study.compare import compare


@pytest.fixture(scope="session")
def finished(small_recipe, tmp_path_factory):
    """Folder of records of a comparison of two seeds on a random tiny Llama."""
    from study.model.workbench import open_workbench

    runs = tmp_path_factory.mktemp("released")
    arms = {name: small_recipe.arms[name] for name in ("sft", "orpo")}
    recipe = dataclasses.replace(small_recipe, arms=arms)
    workbench = open_workbench(recipe, device="cpu")

    def here(jobs):
        return [job.work(workbench, lambda *_: None) for job in jobs]

    compare([recipe], runs=runs, seeds=2, seed=0, run_jobs=here, say=lambda _: None)
    return runs
