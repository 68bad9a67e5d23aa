"""The table and the figure of costs, from a benchmark's file worked by hand."""

import copy

import matplotlib as mpl
import pytest

from analysis.figures.bench import GROWTH, draw_growth, growth_info
from analysis.figures.draw import _figures
from analysis.figures.scale import scale_alt, scale_info
from analysis.figures.style import STYLE, save
from analysis.findings import build_findings
from analysis.records.load import load_study
from analysis.tables.bench import bench_table
from study.errors import RecordError
from study.records.files import write_json
from study.records.layout import BENCH


@pytest.fixture
def report(bench_report):
    return copy.deepcopy(bench_report)


def row_of(table, subject, reference):
    (row,) = [r for r in table.rows if (r.subject, r.reference) == (subject, reference)]
    return row


def test_ratios_say_how_many_times_cheaper_this_study_is(report):
    table = bench_table(report)
    step = row_of(table, "training step, HH-RLHF, float32", "TRL")
    default = row_of(
        table, "training step, HH-RLHF, bf16 autocast", "TRL with checkpointing, its default"
    )
    memory = row_of(
        table, "peak memory of a step, vocabulary of 128,256, without checkpointing", "TRL"
    )
    answers = row_of(table, "greedy answers, after SFT (short answers)", "one prompt at a time")
    search = row_of(
        table, "search of 40 trials, with pruning", "a process with TRL for each setting"
    )

    assert (step.ours, step.theirs, step.ratio) == (6.0, 2.0, 3.0)
    assert default.ratio == 10.0 / 2.5
    assert (memory.ours, memory.theirs, memory.ratio) == (1e9, 4e9, 4.0)
    assert (answers.ours, answers.theirs, answers.ratio) == (96.0, 12.0, 8.0)
    assert (search.ours, search.theirs, search.ratio) == (150.0, 900.0, 6.0)


def test_remarks_tell_padding_differing_answers_and_what_was_worked_out(report):
    text = " ".join(bench_table(report).remarks).replace("\N{NO-BREAK SPACE}", " ")

    assert "24 pairs (real), eight a step; 45 % of the tokens" in text
    assert "1 % differ from those made one at a time" in text
    assert "from 8 that were run with TRL's default checkpointing" in text
    assert "ours without pruning from 8" in text
    assert "from 2 trials, ours with pruning is 5.2× cheaper" in text
    assert "with pruning 40 were run, 16 of them pruned" in text
    assert "a trial costs 1.5 %" in text
    assert "--quick" not in text


def test_other_losses_have_rows_where_they_were_measured(report):
    n_rows = len(bench_table(report).rows)
    report["steps"]["sources"]["hh"]["arms"] |= {
        "trl dpo": {"pairs_per_s": 2.0},
        "ours dpo": {"pairs_per_s": 5.0},
    }
    report["memory"]["peak_bytes"] |= {"trl sft": 3e9, "ours sft": 1e9}
    table = bench_table(report)
    step = row_of(
        table,
        "training step, HH-RLHF, DPO in float32, both in random batches",
        "TRL with precomputed references",
    )
    memory = row_of(
        table, "peak memory of a step, vocabulary of 128,256, SFT without checkpointing", "TRL"
    )

    assert step.ratio == 2.5
    assert memory.ratio == 3.0
    assert len(table.rows) == n_rows + 3  # the report's two sources are one object


def test_parts_measured_with_quick_are_named(report):
    report["growth"]["quick"] = True

    assert bench_table(report).remarks[0].endswith("not how fast: growth.")


def test_parts_that_were_not_measured_have_no_rows(report):
    table = bench_table({"memory": report["memory"]})

    assert {row.unit for row in table.rows} == {"bytes"}
    assert not any("quick" in remark or "padding" in remark for remark in table.remarks)
    assert bench_table(None) is None
    assert bench_table({}) is None


def test_the_signature_names_what_parts_were_measured_on(report):
    report["memory"]["git"] = "fedcba"

    assert bench_table(report).signature == (
        "processor:A processor|torch:2.13.0|transformers:5.0.0|trl:1.16.0|git:abc123+fedcba"
        "|measured:2026-11-21"
    )


def test_growth_has_a_panel_for_each_measure_and_axis(report):
    speed, memory = growth_info(report)

    assert (speed.x_label, speed.y_label) == ("tokens of a sequence", "pairs per second")
    assert speed.lines["ours"] == ((128, 20.0), (256, 10.0))
    assert speed.lines["trl"] == ((128, 8.0),)  # the other did not fit
    assert (speed.in_bytes, memory.in_bytes) == (False, True)
    assert memory.lines["ours"] == ((128, 1e8), (256, 2e8))
    assert growth_info(None) == ()
    assert growth_info({"memory": report["memory"]}) == ()


def test_what_becomes_many_has_a_panel_for_trials_and_one_for_runs(report):
    trials, runs = scale_info(report)

    assert trials.lines == {
        "1 worker": ((40, pytest.approx(4e-4)), (2_000, pytest.approx(0.02))),
        "4 workers": ((40, pytest.approx(1.6e-3)), (2_000, pytest.approx(0.08))),
    }
    assert runs.lines["study status"] == ((10, 0.01), (1_000, 1.0))
    assert scale_alt((runs,)) == (
        "study status at 1,000 runs in a folder: 1 core seconds; "
        "study report at 1,000 runs in a folder: 40 core seconds."
    )
    assert scale_info(None) == scale_info({"memory": report["memory"]}) == ()


def test_what_many_pairs_cost_stands_beside_datasets_and_the_tokenizer(report):
    found = bench_table({"scale": report["scale"]})

    assert [(row.unit, row.ratio) for row in found.rows] == [("s", 1.5), ("bytes", 2.0)]
    trials, pairs = found.remarks[-2:]
    assert "costs 20 ms of a core in a search of 2,000" in trials
    assert "`study status` of 1,000 runs costs 1.0 s, `study report` 40 s" in trials
    assert "(100 MB) costs 90 s of a core, the tokenizer's own part of it 60 s" in pairs
    assert "2.5 times the file's size" in pairs


def test_what_the_engine_adds_is_told_beside_the_table(report):
    found = bench_table({"engine": report["engine"]})

    assert found.rows == ()
    (engine,) = (remark for remark in found.remarks if "in slots" in remark)
    assert "answers of 110 tokens to 96 prompts come 3.4× as fast in slots" in engine
    assert "1\N{NO-BREAK SPACE}% differ" in engine
    assert "Dropout of 0.05 makes a step take 1.07× the time and 0.96× the memory" in engine
    assert "8,800 tokens are laid out in 1.1 ms" in engine


def test_growth_is_drawn_the_same_twice(report, tmp_path):
    with mpl.rc_context(STYLE):
        for name in ("one", "two"):
            save(draw_growth(growth_info(report)), tmp_path / name)

    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize(
    "found",
    [
        {"steps": 1},
        {"steps": []},
        {"steps": {}},
        {"memory": {"peak_bytes": 7}},
        {"search": {"arm": "sft"}},
        {"evaluation": {"log_probabilities": None}},
        {"growth": {"points": [1]}},
    ],
)
def test_a_file_of_another_shape_is_one_message(small_runs, found):
    write_json(small_runs / BENCH, found)

    with pytest.raises(RecordError, match=rf"{BENCH} .*(shape|is damaged).*; "):
        _figures(records := load_study(small_runs), build_findings(records, origin="local"))


def test_a_file_beside_the_records_is_found(small_runs, report):
    without = load_study(small_runs)
    write_json(small_runs / BENCH, report)
    records = load_study(small_runs)
    findings = build_findings(records, origin="local")
    shown = {file.name: info for file, _, _, info in _figures(records, findings)}

    assert without.bench is None
    assert findings.bench == bench_table(report)
    assert shown["growth"] == growth_info(report)
    assert GROWTH.section == "cost"


def test_steps_on_a_gpu_stand_beside_trls_where_there_was_one(report):
    assert "there was no GPU" in " ".join(bench_table(report).remarks)

    ways = {
        name: {"pairs_per_s": speed, "ceiling_share": 0.25}
        for name, speed in (("trl checkpointing", 20.0), ("trl", 30.0), ("ours segments", 90.0))
    }
    names = ("processor", "versions", "git", "measured_at", "quick")
    around = {name: report["memory"][name] for name in names}
    report["gpu"] = {**around, "device_name": "a GPU", "steps": {"llama, nf4, hh": ways}}
    table = bench_table(report)

    assert "there was no GPU" not in " ".join(table.remarks)
    found = [row for row in table.rows if row.subject == "step on a GPU, llama, nf4, hh"]
    assert [(row.ours, row.theirs, row.ratio) for row in found] == [(90, 20, 4.5), (90, 30, 3)]
    assert "25\N{NO-BREAK SPACE}% of the device" in found[0].reference
