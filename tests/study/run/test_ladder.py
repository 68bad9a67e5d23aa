"""An article reproduced: runs made once, in order, and answered as its code answers."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from study.cli.status import status
from study.config.ladder import climb, load_ladder
from study.config.recipe import load_recipe
from study.data.pairs import Message, make_pair
from study.engine.forward import pair_logps
from study.engine.packing import pack
from study.errors import RecordError
from study.model.adapter import fresh_adapter, scaling_of
from study.model.workbench import open_workbench
from study.records.files import read_json, read_jsonl
from study.records.layout import ladder_path, recipes_in
from study.records.publish import publish
from study.records.runs import run_folder, set_up_folder
from study.run.checkpoints import save_adapter
from study.run.ladder import plan_ladder, reproduce
from study.run.make import make_run
from study.run.published import answer_as_published, bare_prompt, first_turns
from study.run.trained import load_adapter

LADDER = load_ladder("article-a")
N_SET_UPS = 9


@pytest.fixture
def recipe():
    return load_recipe("tiny-llama")


@pytest.fixture
def trained(monkeypatch):
    """Replace training and scoring by formulas; list the runs made."""
    from study.run.watch import Outcome

    made = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        made.append((folder.parent.name, seed, None if start is None else start.scale))
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        return Outcome()

    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr(
        "study.run.evaluate.evaluate_run", lambda workbench, folder: {"rougeL": 0.5}
    )
    monkeypatch.setattr("study.run.published.answer_as_published", lambda *_, **__: None)
    return made


def here(jobs):
    base = SimpleNamespace(resolved={}, checked=None)

    def bench(recipe):
        tokens = {"template": recipe.model.chat_template}
        data = {"tokens": tokens}
        return SimpleNamespace(recipe=recipe, device="cpu", data_summary=data, base=base)

    return [job.work(bench(job.recipe), lambda *_: None) for job in jobs]


def climbed(recipes, runs, *, seeds=2, run_jobs=here):
    return reproduce(
        "article-a",
        recipes,
        runs=runs,
        seeds=seeds,
        seed=0,
        run_jobs=run_jobs,
        say=lambda line: None,
    )


@pytest.mark.usefixtures("small_seeds")
def test_runs_that_continue_others_come_last_and_know_their_scaling(recipe, trained, tmp_path):
    records = climbed([recipe], tmp_path, seeds=1)

    assert trained[-1] == ("orpo-published", 1, pytest.approx(recipe.adapter.rank**0.5))
    assert {scale for _, _, scale in trained[:-1]} == {None}
    assert {record["set_up"] for record in records} == {name for name, _, _ in trained}
    assert len(records) == len(trained) == N_SET_UPS


@pytest.mark.usefixtures("small_seeds")
def test_only_missing_runs_are_made(recipe, trained, tmp_path):
    climbed([recipe], tmp_path)
    for name, seed in (("sft-batch", 2), ("orpo-published", 1)):
        (set_up_folder(tmp_path, recipe.name, name, seed).path / "record.json").unlink()
    trained.clear()
    records = climbed([recipe], tmp_path)

    assert [(name, seed) for name, seed, _ in trained] == [("sft-batch", 2), ("orpo-published", 1)]
    assert len(records) == 2 * N_SET_UPS


@pytest.mark.usefixtures("small_seeds")
def test_a_run_whose_start_has_lost_its_weights_says_so(recipe, trained, tmp_path):
    climbed([recipe], tmp_path, seeds=1)
    start, run = (
        set_up_folder(tmp_path, recipe.name, name, 1).path
        for name in ("sft-published", "orpo-published")
    )
    (start / "adapter").rmdir()
    (run / "record.json").unlink()

    with pytest.raises(RecordError, match=r"continues tiny-llama/sft-published/seed-1, whose we"):
        climbed([recipe], tmp_path, seeds=1)


@pytest.mark.usefixtures("small_seeds")
def test_the_ladder_and_its_claim_stand_beside_the_records_before_the_first_run(recipe, tmp_path):
    seen = []

    def run_jobs(jobs):
        seen.append(read_json(ladder_path(tmp_path, recipe.name)))
        seen.append(read_json(tmp_path / recipe.name / "claims" / "config.json"))

    climbed([recipe], tmp_path, seeds=1, run_jobs=run_jobs)
    plan, claims = seen[:2]

    assert [step["rung"] for step in plan["steps"]] == [
        "published",
        *(rung.id for rung in LADDER.rungs),
    ]
    assert (plan["seeds"], plan["amended"]) == ([1], [])
    assert len(plan["set_ups"]) == N_SET_UPS
    assert "6c" in [claim["id"] for claim in claims["claims"]]


@pytest.mark.usefixtures("small_seeds", "trained")
def test_runs_of_another_configuration_are_refused_before_any_is_made(recipe, trained, tmp_path):
    climbed([recipe], tmp_path, seeds=1)
    trained.clear()

    with pytest.raises(RecordError, match=r"training\.max_grad_norm: 1\.0 in the records, 2\.0"):
        climbed([recipe.override(["training.max_grad_norm=2.0"])], tmp_path, seeds=1)
    assert trained == []


@pytest.mark.usefixtures("small_seeds", "trained")
def test_status_and_publication_know_the_runs(recipe, tmp_path):
    runs, target = tmp_path / "runs", tmp_path / "published"
    climbed([recipe], runs)
    (set_up_folder(runs, recipe.name, "orpo-rate", 1).path / "record.json").unlink()
    rows = [row for row in status(runs) if row["part"] == "reproduce"]
    states = {(row["arm"], row["seed"]): row["state"] for row in rows}
    publish(runs, target)

    assert recipes_in(runs) == [recipe.name]
    assert states["orpo-rate", 1] == "interrupted"
    assert states["orpo-published", 2] == "finished"
    assert len(rows) == 2 * N_SET_UPS
    assert ladder_path(target, recipe.name).exists()
    assert (target / recipe.name / "reproduce" / "sft-scaling" / "resolved.json").exists()
    assert len([*target.glob("*/reproduce/*/seed-*")]) == 2 * N_SET_UPS - 1


@pytest.mark.usefixtures("trained")
def test_a_comparison_beside_a_ladder_keeps_its_own_configuration(recipe, tmp_path):
    climbed([recipe], tmp_path, seeds=1)

    assert not run_folder(tmp_path, recipe.name, "sft", 1).path.exists()
    assert not (tmp_path / recipe.name / "reproduce" / "resolved.json").exists()


def test_of_a_dialogue_the_first_turns_are_taken():
    turns = ("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")
    pair = make_pair(
        prompt=tuple(Message(*turn) for turn in turns),
        chosen=(Message("assistant", "Four."),),
        rejected=(Message("assistant", "Five."),),
        source="test",
    )
    first = first_turns(pair)

    assert first.prompt == (Message("user", "One?"),)
    assert first.chosen == (Message("assistant", "Two."),)
    assert first_turns(first).chosen == first.chosen


def test_a_bare_prompt_is_its_text_behind_the_beginning_that_the_tokenizer_writes(toy_tokenizer):
    tokenizer = toy_tokenizer.tokenizer
    ids = bare_prompt((Message("user", "What is a cod?"),), tokenizer)

    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "What is a cod?"


def test_answers_are_drawn_from_the_seed_and_greedy_ones_are_not(workbench, tmp_path):
    fresh_adapter(workbench.base, workbench.recipe.adapter, seed=1)
    drawn = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 0.9}
    ways = {
        "drawn": {**drawn, "flaws": ["sampling", "template-of-prompts"]},
        "greedy": {**drawn, "flaws": ["template-of-prompts"]},
        "templated": {**drawn, "flaws": ["first-turns"]},
    }

    def texts(seed, name):
        folder = tmp_path / f"{seed}"
        answer_as_published(workbench, ways, seed=seed, folder=folder)
        return [row["text"] for row in read_jsonl(folder / f"answers-{name}.jsonl")]

    assert texts(1, "drawn") == texts(1, "drawn") != texts(2, "drawn")
    assert texts(1, "greedy") == texts(2, "greedy") != texts(1, "templated")


def test_a_continued_adapter_means_the_same_under_another_scaling(small_recipe, tmp_path):
    """ORPO continues a rank-stabilised adapter; its own has LoRA's scaling."""
    stabilised = replace(small_recipe, adapter=replace(small_recipe.adapter, kind="rslora"))

    def logps(workbench):
        batch = pack(workbench.test[:4], rejected=True, prompt_nll=False)
        with torch.inference_mode():
            return pair_logps(workbench.base.model.eval(), batch).chosen_sum

    first = open_workbench(stabilised, device="cpu")
    model = fresh_adapter(first.base, stabilised.adapter, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    save_adapter(model, tmp_path / "adapter")
    second = open_workbench(small_recipe, device="cpu")
    scale = scaling_of(stabilised.adapter) / scaling_of(small_recipe.adapter)
    load_adapter(second, tmp_path, seed=2, scale=scale)
    moved = logps(first)

    assert torch.allclose(logps(second), moved, atol=1e-4)
    load_adapter(second, tmp_path, seed=2)
    assert not torch.allclose(logps(second), moved, atol=1e-2)


def test_a_small_ladder_is_trained_from_its_foot(small_recipe, tmp_path):
    """ORPO continues SFT under another template, whose tokens the start does not have."""
    stages = climb(LADDER, small_recipe)
    plan = plan_ladder(LADDER, small_recipe, stages, runs=tmp_path, n=1, seed=0)
    named = {run.part: run for run in plan}
    for name in ("sft-published", "orpo-published"):
        run = named[name]
        make_run(open_workbench(run.recipe, device="cpu"), lambda *_: None, run=run)
    sft, orpo = (named[name].folder.record() for name in ("sft-published", "orpo-published"))

    assert (sft["status"], orpo["status"]) == ("ok", "ok")
    assert orpo["start"]["digest"] == sft["digest"]
    assert orpo["cost"]["steps"] > sft["cost"]["steps"]
    assert sft["data"]["tokens"]["template"] != orpo["data"]["tokens"]["template"]
    assert {f"answers-{rung}.jsonl" for rung in stages[0].flaws[2:]} < set(orpo["files"])
    assert named["orpo-published"].folder.faults() == []
