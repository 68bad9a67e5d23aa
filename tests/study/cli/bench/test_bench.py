"""The benchmark compares like with like before it tells a time."""

import contextlib
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from study.cli.bench import (
    engine,
    evaluation,
    gpu,
    growth,
    memory,
    pairs,
    scale,
    search,
    steps,
    worker,
)
from study.cli.bench import parts as bench
from study.cli.bench.pairs import (
    chunks,
    cut_pair,
    draw_pairs,
    draw_sample,
    generate_pairs,
    lengths_of,
    padded_batch,
    padded_tokens,
    padding_share,
    pairs_of,
)
from study.cli.bench.sides import Side, as_trainers_call, build_sides, step
from study.cli.bench.steps import ARMS, BASELINE, arms_of, check_losses, side_processes, time_arms
from study.errors import ConfigError, DataError, StudyError

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def silent(_: str) -> None:
    pass


def short_pairs(n_pairs: int):
    lengths = [[7, 3 + n, 9 - n % 3] for n in range(n_pairs)]
    return pairs_of(lengths, vocabulary=pairs.VOCABULARY, seed=1)


@pytest.fixture(scope="module")
def sides():
    return build_sides(pairs.VOCABULARY, seed=0, shape=SMALL)


def test_every_arm_takes_the_same_step_and_is_timed(sides) -> None:
    def take(arm, some):
        return step(sides, arm, some), 1.0 + (arm == BASELINE)

    batches = chunks(short_pairs(16), 8)
    found = time_arms(take, {False: batches, True: batches}, repeats=1, say=silent)

    assert list(found) == [arm.name for arm in ARMS]
    assert found[BASELINE.name]["ratio"] == 1
    assert found["ours"]["processed_tokens_per_s"] == found["ours"]["useful_tokens_per_s"]
    assert found["trl"]["processed_tokens_per_s"] > found["trl"]["useful_tokens_per_s"]
    speeds = {name: row["pairs_per_s"] for name, row in found.items()}
    assert speeds == {arm.name: 4 if arm == BASELINE else 8 for arm in ARMS}
    assert found["ours"]["ratio"] == 2
    assert found["ours"]["loss"] == pytest.approx(found["trl"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_each_side_takes_its_steps_in_a_process_of_its_own() -> None:
    with side_processes(seed=0, shape=SMALL) as take:
        for _ in range(2):
            (theirs, _), (ours, seconds) = (
                take(arm, short_pairs(4)) for arm in (BASELINE, Side("ours"))
            )
            assert ours == pytest.approx(theirs, rel=1e-5)
            assert seconds > 0

    assert steps._side.cache_info().currsize == 0  # not in this one


def test_sides_are_asked_for_their_own_steps_alone(monkeypatch) -> None:
    asked = []

    @contextlib.contextmanager
    def process():
        mine: list[str] = []
        asked.append(mine)
        yield lambda _, *, arm, **order: mine.append(arm.side) or {"loss": 1.0, "seconds": 2.0}

    monkeypatch.setattr(steps, "process", process)
    with side_processes(seed=0) as take:
        found = [take(arm, short_pairs(1)) for arm in ARMS]

    assert found == [(1.0, 2.0)] * len(ARMS)
    assert [set(sides) for sides in asked] == [{"trl"}, {"ours"}]


def test_a_process_lasts_as_long_as_its_block() -> None:
    with worker.process() as first, worker.process() as second:
        numbers = [ask(os.getpid) for ask in (first, second, first)]

    assert numbers[0] == numbers[2]
    assert len({*numbers, os.getpid()}) == 3
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_what_a_function_prints_is_no_answer() -> None:
    with worker.process() as ask:
        assert ask(print, end="{}\n", flush=True) is None
        assert isinstance(ask(os.getpid), int)


def test_a_process_that_is_killed_is_reported_whenever_it_is_asked() -> None:
    with worker.process() as ask:
        os.kill(ask(os.getpid), signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(StudyError, match="getpid ended with exit status -9"):
                ask(os.getpid)


def test_an_error_is_told_after_what_was_printed() -> None:
    with worker.process() as ask:
        ask(print, end="nearly done\n")
        with pytest.raises(StudyError, match="TypeError"):
            ask(print, to="nowhere")


def test_ctrl_c_is_left_to_the_asking_process() -> None:
    with worker.process() as ask:
        number = ask(os.getpid)
        os.kill(number, signal.SIGINT)

        assert ask(os.getpid) == number


def test_both_sides_get_the_same_gradients(sides) -> None:
    gradients = {}
    for side, model in ((name, sides[name]) for name in ("trl", "ours")):
        step(sides, Side(side), short_pairs(8))
        gradients[side] = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    assert gradients["ours"].keys() == gradients["trl"].keys()
    for name, expected in gradients["trl"].items():
        error = (gradients["ours"][name] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


@pytest.mark.filterwarnings("ignore")  # TRL's own use of transformers' old names
@pytest.mark.parametrize("loss", steps.OTHER_LOSSES)
def test_both_sides_take_the_same_step_of_every_loss(loss) -> None:
    sides = build_sides(pairs.VOCABULARY, seed=0, shape=SMALL, loss=loss)
    found = {arm: step(sides, arm, short_pairs(8)) for arm in arms_of(loss)}
    trl, ours = (
        {n: p.grad for n, p in sides[side].named_parameters() if p.grad is not None}
        for side in ("trl", "ours")
    )

    check_losses(found)
    assert ours.keys() == trl.keys()
    for name, expected in trl.items():
        error = (ours[name] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


def test_a_loss_is_checked_against_trls_own() -> None:
    trl, ours, _ = arms_of("dpo")
    check_losses({trl: 2.0, ours: 2.0})

    with pytest.raises(DataError, match=r"ours dpo gives a loss of 1\.0, TRL 2\.0"):
        check_losses({trl: 2.0, ours: 1.0})


def test_in_bfloat16_a_model_is_called_as_accelerate_prepares_it() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model, ids = build_sides(64, seed=0, sides=["trl"], shape=SMALL)["trl"], torch.arange(9)[None]
    found = as_trainers_call(model, "cpu", bf16=True)(input_ids=ids).logits
    exact = as_trainers_call(model, "cpu", bf16=False)(input_ids=ids).logits
    AcceleratorState._reset_state(reset_partial_state=True)  # a trainer's before this
    try:
        prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
        expected = prepared(input_ids=ids).logits
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)

    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, exact)


def test_arms_that_compute_different_things_are_not_timed() -> None:
    with pytest.raises(DataError, match=r"ours gives a loss of 2\.5, TRL 2\.0"):
        check_losses({BASELINE: 2.0, Side("ours"): 2.5})


def test_a_grouped_arm_is_checked_against_the_grouped_reference() -> None:
    grouped = {Side("trl", grouped=True): 3.0, Side("ours", grouped=True): 3.0}
    check_losses({BASELINE: 2.0, **grouped})

    with pytest.raises(DataError, match="ours grouped"):
        check_losses({BASELINE: 2.0, **grouped, Side("ours", grouped=True): 2.0})


def test_padding_is_counted_as_the_padded_batch_has_it() -> None:
    sample = generate_pairs("hh", 8, seed=5)
    batch = padded_batch(sample)
    ids = [batch[f"{side}_input_ids"] for side in ("chosen", "rejected")]
    real = sum(int(batch[f"{side}_attention_mask"].sum()) for side in ("chosen", "rejected"))
    width = max(side.shape[1] for side in ids)

    assert padded_tokens([sample]) == 2 * 8 * width
    assert padded_tokens([sample], rejected=False) == batch["chosen_input_ids"].numel()
    assert padding_share([sample]) == pytest.approx(1 - real / (2 * 8 * width))


def test_the_sample_is_padded_like_all_that_was_drawn() -> None:
    sample = draw_sample("hh", Path("nowhere"), 3, seed=2)
    alone = draw_pairs("hh", Path("nowhere"), 24, seed=2)[0]

    assert sample == draw_sample("hh", Path("nowhere"), 3, seed=2)
    assert len(sample.pairs) == 24
    assert sample.origin.startswith("generated")
    assert sample.padding_share == pytest.approx(sample.padding_share_of_all, abs=0.1)
    assert sample.pairs != alone


def test_grouping_moves_pairs_between_batches_and_loses_none() -> None:
    sample = draw_sample("sharegpt", Path("nowhere"), 4, seed=2)
    grouped = sample.grouped()

    assert {p.example_id for b in grouped for p in b} == {p.example_id for p in sample.pairs}
    assert padded_tokens(grouped) < padded_tokens(sample.batches)


def test_pairs_are_cut_to_the_limits() -> None:
    pair = cut_pair(generate_pairs("sharegpt", 1, seed=0)[0], 5, 12)

    assert pair.n_prompt <= 5
    assert max(lengths_of([pair])[0][1:]) + pair.n_prompt <= 12


@pytest.mark.slow
@pytest.mark.parametrize("source", pairs.SOURCES)
def test_generated_pairs_have_the_real_ones_lengths(source, shared_data) -> None:
    real, origin = draw_pairs(source, shared_data, 200, seed=0)
    generated, note = draw_pairs(source, Path("nowhere"), 200, seed=0)

    assert (origin, note.partition(":")[0]) == ("real", "generated")
    for side in ("prompt_ids", "chosen_ids", "rejected_ids"):
        means = [
            sum(math.log(len(getattr(p, side))) for p in some) / len(some)
            for some in (real, generated)
        ]
        assert means[0] == pytest.approx(means[1], abs=0.3)


def test_seed_is_honoured_by_generated_pairs() -> None:
    assert generate_pairs("hh", 5, seed=1) == generate_pairs("hh", 5, seed=1)
    assert generate_pairs("hh", 5, seed=1) != generate_pairs("hh", 5, seed=2)


def test_each_arm_s_memory_is_asked_for_on_the_same_lengths(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        memory, "ask", lambda function, **order: asked.append(order) or {"peak_bytes": len(asked)}
    )
    found = memory.measure_memory(Path("nowhere"), quick=True, say=silent)

    assert [order["arm"] for order in asked] == list(memory.ARMS)
    assert len({json.dumps(order["lengths"]) for order in asked}) == 1
    assert max(p + max(c, r) for p, c, r in asked[0]["lengths"]) <= found["longest_row_tokens"]
    assert found["peak_bytes"]["ours checkpointing"] == 4


@pytest.mark.slow
def test_a_step_is_measured_in_a_process_of_its_own() -> None:
    cost = worker.ask(
        memory.step_cost,
        arm=Side("ours"),
        vocabulary=512,
        lengths=[[20, 30, 40]] * 4,
        repeats=1,
        shape=SMALL,
    )

    assert cost["seconds"] > 0
    assert cost["peak_bytes"] > 0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(StudyError, match=r"worker:ask ended with exit status 1 \(TypeError"):
        worker.ask(worker.ask)


def test_both_sides_give_the_same_log_probabilities(sides) -> None:
    sample = short_pairs(11)
    trl, ours = (
        scores(sides[side].eval(), sample)
        for side, scores in (("trl", evaluation.trl_logps), ("ours", evaluation.our_logps))
    )

    assert len(trl) == 11
    for expected, found in zip(trl, ours, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_calls_alternate_and_medians_are_taken(monkeypatch) -> None:
    clock = iter([0, 1, 1, 3, 10, 15, 15, 16, 20, 22, 22, 25])
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: next(clock))
    called = []
    found = evaluation.alternate(
        lambda: called.append("theirs") or [1], lambda: called.append("ours") or [2], repeats=3
    )

    assert found == (2, 2, [1], [2])
    assert called == ["theirs", "ours"] * 3


def test_batched_answers_are_those_made_one_at_a_time(workbench) -> None:
    row = evaluation._answers(workbench, workbench.test[:6], repeats=1)

    assert row["n_prompts"] == 6
    assert row["differing_share"] == 0
    assert row["ratio"] == row["one_at_a_time_s"] / row["ours_s"]


def search_of(*, cpu_s: float, trials_s: float, n: int, n_pruned: int = 0):
    return {
        "cpu_s": cpu_s,
        "trials_s": trials_s,
        "inside_s": 0.97 * trials_s,
        "n_pruned": n_pruned,
        "trials": [{"settings": {}, "state": "complete", "seconds": trials_s / n}] * n,
    }


def test_forty_trials_are_worked_out_from_those_that_were_run() -> None:
    found = search._summary(
        search_of(cpu_s=40, trials_s=40, n=8),
        search_of(cpu_s=130, trials_s=120, n=40, n_pruned=20),
        [{"cpu_s": 20.0}, {"cpu_s": 30.0}],
        [{"cpu_s": 19.0}],
        silent,
    )

    assert found["overhead_share"] == pytest.approx(0.03)
    assert found["loop_s_worked_out"] == 1000
    assert found["loop_fast_s_worked_out"] == 760
    assert found["ours_s_worked_out"] == 40 * 5
    assert found["ours_pruned_s"] == 130
    assert found["ratio_pruned"] == pytest.approx(1000 / 130)


@pytest.mark.slow
def test_the_search_is_timed_from_within(small_recipe, monkeypatch) -> None:
    monkeypatch.setattr(search, "_recipe", lambda quick, *more: small_recipe.override(more))
    found = search.search_here(trials=2, pruning="none", quick=True, seed=0)

    assert [row["state"] for row in found["trials"]] == ["complete", "complete"]
    assert 0 < found["validation_s"] < found["inside_s"] < found["trials_s"]


@pytest.mark.slow
def test_the_loop_trains_what_the_search_trains(small_recipe, tmp_path) -> None:
    from study.cli.bench.trl_loop import train_with_trl

    path = search._write_pairs(small_recipe, tmp_path / "pairs.json")
    task = search._trl_task(small_recipe, {"learning_rate": 1e-3, "beta": 0.1}, 0)
    found = train_with_trl(
        base=small_recipe.model.name, pairs=str(path), checkpointing=True, **task
    )

    assert found["steps"] == small_recipe.training.max_steps
    assert math.isfinite(found["validation_loss"])
    assert {f"{part}_s" for part in ("import", "load", "tokenise", "train", "evaluate")} <= set(
        found
    )


def test_the_engine_is_measured_against_its_simpler_ways(monkeypatch) -> None:
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6}
    tiny = {**engine.SMOLLM2_135M, **shape, "num_key_value_heads": 2}
    monkeypatch.setattr(engine, "SMOLLM2_135M", tiny)
    monkeypatch.setattr(engine, "VOCABULARY", 97)
    peaks = {0.0: 100, engine.DROPOUT: 103}
    monkeypatch.setattr(engine, "ask", lambda _, **order: {"peak_bytes": peaks[order["dropout"]]})
    found = engine.measure_engine(quick=True, say=silent)

    assert found["packing"]["n_tokens"] == 8800
    assert found["packing"]["seconds"] > 0
    assert found["dropout"]["memory_ratio"] == pytest.approx(1.03)
    assert found["dropout"]["time_ratio"] > 0
    assert found["generation"]["differing_share"] == 0
    assert 1 < found["generation"]["mean_tokens"] < 16


def test_growth_leaves_trl_out_where_its_logits_do_not_fit(monkeypatch) -> None:
    monkeypatch.setattr(growth, "longest_that_fits", lambda vocabulary, n: 200)
    monkeypatch.setattr(growth, "ask", lambda *_, **__: {"seconds": 2.0, "peak_bytes": 10})
    points = growth.measure_growth(quick=True, say=silent)["points"]
    first, second = (p for p in points if p["axis"] == "length" and p["side"] == "trl")

    assert (first["value"], first["pairs_per_s"]) == (128, first["n_pairs"] / 2)
    assert (second["value"], second["pairs_per_s"], second["peak_bytes"]) == (256, None, None)
    assert all(point["pairs_per_s"] for point in points if point["side"] == "ours")


def test_parts_are_merged_into_the_file(monkeypatch, tmp_path) -> None:
    out = tmp_path / "bench.json"
    measured = []

    def measure(name, data, quick, say):
        measured.append(name)
        return {"n": len(measured)}

    monkeypatch.setattr(bench, "_measure", measure)
    bench.bench(data=tmp_path, out=out, parts=("steps", "memory"), say=silent)
    bench.bench(data=tmp_path, out=out, parts=("steps",), quick=True, say=silent)
    written = json.loads(out.read_text())

    assert {name: (part["n"], part["quick"]) for name, part in written.items()} == {
        "steps": (3, True),
        "memory": (2, False),
    }
    assert written["steps"]["versions"]["trl"]


def test_an_unknown_part_is_refused_before_anything_is_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *_: pytest.fail("measured"))

    with pytest.raises(ConfigError, match="no part 'speed'; parts are steps, memory"):
        bench.bench(data=tmp_path, out=tmp_path / "b.json", parts=("steps", "speed"), say=silent)


@pytest.mark.parametrize("part", bench.PARTS)
def test_every_part_is_measured_by_its_own_module(part, monkeypatch) -> None:
    module = {
        "steps": steps,
        "memory": memory,
        "engine": engine,
        "evaluation": evaluation,
        "search": search,
        "growth": growth,
        "scale": scale,
        "gpu": gpu,
    }[part]
    monkeypatch.setattr(module, f"measure_{part}", lambda *_, **__: {"part": part})

    assert bench._measure(part, Path("nowhere"), True, silent) == {"part": part}
