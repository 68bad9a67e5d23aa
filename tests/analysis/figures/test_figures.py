"""Figures: what they show, worked by hand; that they draw, twice alike."""

import dataclasses
import re
import statistics

import matplotlib as mpl
import pytest
from scipy import stats

from analysis.figures.contrasts import contrast_info, draw_contrasts
from analysis.figures.curve_drawing import draw_curves
from analysis.figures.curves import (
    curve_info,
    curves_alt,
    leading_arms,
    quality_info,
)
from analysis.figures.draw import draw_all
from analysis.figures.front import front_info
from analysis.figures.lengths import draw_lengths, length_info
from analysis.figures.published import key_lines, published_key
from analysis.figures.search import (
    draw_space,
    history_info,
    space_info,
)
from analysis.figures.style import FORMATS, STYLE, padded, save, zoomed
from analysis.findings import build_findings
from analysis.records.load import load_study
from study.config.recipe import load_recipe
from study.records.runs import run_folder


@pytest.fixture(scope="module")
def records(study_runs):
    return load_study(study_runs)


@pytest.fixture(scope="module")
def findings(records):
    return build_findings(records, origin="local")


TRAINING = load_recipe("tiny-llama").training
END, EVERY = TRAINING.max_steps, TRAINING.validate_every_steps


def lines_of(panel, arm):
    return {line.seed: line for line in panel.lines if line.arm == arm}


def test_curves_show_each_seed_and_their_mean(records):
    panel = curve_info(records, split="validation", columns={"margin": ""})[0]
    lines = lines_of(panel, "orpo")

    assert set(lines) == {1, 2, 3, None}
    assert [x for x, _ in lines[None].points] == list(range(0, END + 1, EVERY))
    last = [lines[seed].points[-1][1] for seed in (1, 2, 3)]
    assert lines[None].points[-1][1] == pytest.approx(sum(last) / 3)
    assert panel.base is not None


def test_a_column_that_an_arm_lacks_gives_it_no_line(records):
    panel = curve_info(records, split="train", columns={"margin": ""})[0]

    assert lines_of(panel, "sft") == {}
    assert len(lines_of(panel, "orpo")) == 4


def test_a_diverged_run_is_drawn_but_not_averaged(small_runs, builders):
    builders["remove"](run_folder(small_runs, "tiny-llama", "orpo", 2).path)
    builders["run"](small_runs, builders["recipe"]("tiny-llama"), "orpo", 2, diverged=True)
    panel = curve_info(load_study(small_runs), split="validation", columns={"nll": ""})[0]
    lines = lines_of(panel, "orpo")

    assert lines[2].points[-1][0] == 40 // EVERY * EVERY
    assert lines[None].points[-1][0] == END
    first = [lines[seed].points[1][1] for seed in (1, 3)]
    assert lines[None].points[1][1] == pytest.approx(sum(first) / 2)


def test_the_band_is_the_t_interval_of_the_mean_over_seeds(records):
    panel = curve_info(records, split="validation", columns={"margin": ""})[0]
    lines = lines_of(panel, "sft")
    last = [lines[seed].points[-1][1] for seed in (1, 2, 3)]
    low, high = lines[None].band[-1]

    expected = stats.t.interval(0.95, 2, loc=statistics.mean(last), scale=stats.sem(last))
    assert (low, high) == pytest.approx(expected)


def test_a_single_seed_has_no_band(tmp_path, builders):
    builders["run"](tmp_path, builders["recipe"]("tiny-llama"), "sft", 1, tuned=False)
    panel = curve_info(load_study(tmp_path), split="validation", columns={"nll": ""})[0]

    assert [line.band for line in panel.lines] == [(), ()]
    assert f"after {END} updates." in curves_alt([panel], what="NLL")


def test_chosen_and_rejected_answers_have_panels_of_their_own(records):
    columns = {"chosen_logps": "chosen", "rejected_logps": "rejected"}
    panels = curve_info(records, split="validation", columns=columns)

    assert [(panel.recipe, panel.kind) for panel in panels] == [
        ("tiny-llama", "chosen"),
        ("tiny-llama", "rejected"),
        ("tiny-smollm2", "chosen"),
        ("tiny-smollm2", "rejected"),
    ]


def test_a_panel_starts_where_the_arms_differ_and_names_a_base_outside(small_runs):
    records = load_study(small_runs)
    base = records.of("tiny-llama", "base")[0]
    far = dataclasses.replace(base, steps=tuple({**row, "nll": 50.0} for row in base.steps))
    others = tuple(run for run in records.runs if run.arm != "base")
    records = dataclasses.replace(records, runs=(*others, far))
    panel = curve_info(records, split="validation", columns={"nll": ""})[0]

    assert 0 < panel.x_range[0] < EVERY < panel.x_range[1]
    assert panel.y_range[1] < 50.0
    assert not panel.shows_base
    assert "base 50.000" in curves_alt([panel], what="NLL")


def test_quality_runs_over_updates_tokens_and_seconds(small_runs):
    records = load_study(small_runs)
    logged = {"split": "train", "tokens": 30, "seconds": 0.5}
    runs = tuple(
        dataclasses.replace(
            run,
            steps=(
                *({**logged, "step": step} for step in range(1, END + 1)),
                *(row for row in run.steps if row["split"] == "validation"),
            ),
        )
        for run in records.runs
    )
    panels = quality_info(dataclasses.replace(records, runs=runs))
    ends = {panel.along: lines_of(panel, "orpo")[None].points[-1] for panel in panels}

    assert {along: x for along, (x, _) in ends.items()} == pytest.approx(
        {"step": END, "tokens": 30 * END, "seconds": END / 2}
    )
    assert len({y for _, y in ends.values()}) == 1


def test_what_a_run_took_before_its_first_update_counts(small_runs):
    records = load_study(small_runs)
    start = {"cost": {"steps": 48, "train_tokens": 900, "train_s": 7.0}}
    logged = {"split": "train", "tokens": 30, "seconds": 0.5}
    steps = tuple({**logged, "step": step} for step in range(1, END + 1))
    runs = tuple(
        dataclasses.replace(
            run,
            steps=(*steps, *(row for row in run.steps if row["split"] == "validation")),
            record={
                **run.record,
                "start": start,
                "cost": {**run.record["cost"], "reference_tokens": 100, "reference_s": 2.0},
            },
        )
        for run in records.runs
    )
    panels = quality_info(dataclasses.replace(records, runs=runs))
    ends = {panel.along: lines_of(panel, "orpo")[None].points[-1][0] for panel in panels}

    assert ends == pytest.approx(
        {"step": 48 + END, "tokens": 1000 + 30 * END, "seconds": 9 + END / 2}
    )


def test_of_many_arms_the_baseline_and_those_that_end_best_stand_out(records):
    panel = quality_info(records)[0]
    line = lines_of(panel, "orpo")[None]
    ends = {name: 0.1 * place for place, name in enumerate(("sft", "dpo", "ipo", "kto", "cpo"))}
    lines = [
        dataclasses.replace(line, arm=arm, points=((0.0, 0.0), (1.0, end)), band=())
        for arm, end in (ends | {"orpo": 0.9, "simpo": 0.05}).items()
    ]
    many = [dataclasses.replace(panel, lines=tuple(lines))]
    few = [dataclasses.replace(panel, lines=tuple(lines[:5]))]

    assert set(leading_arms(many)) == {"sft", "orpo", "cpo", "kto", "ipo"}
    assert set(leading_arms(few)) == set(ends)
    drawn = draw_curves(many, y_label="", leading=leading_arms(many))
    texts = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert "DPO, SimPO" in texts


def test_runs_without_tokens_are_shown_over_updates_alone(records):
    runs = tuple(
        dataclasses.replace(run, steps=tuple(row for row in run.steps if row["split"] != "train"))
        for run in records.runs
    )
    panels = quality_info(dataclasses.replace(records, runs=runs))

    assert [panel.along for panel in panels] == ["step", "step"]


def test_outliers_do_not_set_the_range():
    assert zoomed([1.0, 2.0, 3.0, 4.0, 50.0])[1] < 5
    assert zoomed([]) == (0.0, 1.0)


def test_points_tell_their_values_where_they_are_drawn(records, tmp_path):
    with mpl.rc_context(STYLE):
        panels = curve_info(records, split="validation", columns={"margin": ""})
        tips = save(draw_curves(panels, y_label="margin"), tmp_path / "curve", formats=("svg",))
    drawn = (tmp_path / "curve.svg").read_text()
    [size] = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    last = lines_of(panels[0], "orpo")[None].points[-1][1]
    x, y, _ = next(tip for tip in tips if f"mean of 3 seeds, {END} updates: {last:.3f}" in tip[2])

    assert 0 < x < float(size[0])
    assert 0 < y < float(size[1])
    assert "(95 % " in next(text for _, _, text in tips if "mean of 3 seeds" in text)


def test_ranges_are_widened():
    assert padded([0.0, 10.0], share=0.1) == (-1.0, 11.0)
    assert padded([2.0]) == (1.8, 2.2)


def test_history_sorts_trials_by_what_became_of_them(records):
    panel = next(panel for panel in history_info(records) if panel.arm == "orpo")

    assert [number for number, _ in panel.pruned] == [5, 8]
    assert panel.diverged == (9,)
    assert len(panel.complete) == 17
    assert panel.best[-1][1] == min(value for _, value in panel.complete)


def test_the_space_marks_published_and_chosen_settings(records):
    panels = {(panel.recipe, panel.arm): panel for panel in space_info(records)}
    orpo, sft = panels["tiny-llama", "orpo"], panels["tiny-llama", "sft"]
    best = next(s.best for s in records.searches if (s.recipe, s.arm) == ("tiny-llama", "orpo"))

    assert orpo.chosen == (best["settings"]["learning_rate"], best["settings"]["beta"])
    assert [point.published for point in orpo.points[:3]] == [1, 2, None]
    assert list(published_key(records).values()) == [1, 2]
    assert not sft.has_beta
    assert len(sft.points) == 19  # the diverged trial has no height


def test_many_searches_share_a_page_and_sizes_stand_for_a_third_setting(records):
    panel = next(panel for panel in space_info(records) if panel.has_beta)
    points = tuple(
        dataclasses.replace(point, third=0.1 * (place + 1))
        for place, point in enumerate(panel.points)
    )
    figure = draw_space([dataclasses.replace(panel, points=points)] * 16, sources={})
    axes = [axis for axis in figure.axes if axis.get_title()]
    sizes = axes[0].collections[0].get_sizes()

    assert len(axes) == 16
    assert figure.get_size_inches()[1] < 9
    assert len(set(sizes)) == len(sizes) > 5
    assert list(sizes) == sorted(sizes)
    assert [axis.get_xlabel() for axis in axes] == [""] * 12 + ["learning rate"] * 4


def test_the_key_of_published_settings_fits_the_page():
    lines = key_lines({"word " * 30: 1, "short": 2})

    assert max(len(line) for line in lines) <= 100
    assert lines[-1] == "2  short"


def test_the_trade_off_shows_every_complete_trial_and_both_fronts(records):
    panel = front_info(records)[0]

    assert len(panel.points) == 34
    assert set(panel.fronts) == {"sft", "orpo"}
    for front in panel.fronts.values():
        assert list(front) == sorted(front)


def test_shares_of_lengths_add_up_to_one(records):
    panel = length_info(records)[0]

    assert set(panel.shares) == {"sft", "orpo"}  # the base's answers are longer than any of these
    for shares in panel.shares.values():
        assert sum(shares) == pytest.approx(1.0)
        assert len(shares) == len(panel.edges) - 1
    assert panel.means["base"] > panel.means["sft"]


def test_contrasts_show_tested_ones_with_the_arm_they_favour(findings):
    panels = {panel.metric: panel for panel in contrast_info(findings.contrasts)}  # fmt: skip
    bar = panels["accuracy"].bars[0]

    assert "ended" not in panels
    assert bar.favours == "orpo"
    assert bar.text.startswith("+0.")
    assert {bar.favours for bar in panels["rejected_logps"].bars} == {None}


@pytest.mark.slow
def test_the_key_of_many_arms_is_short(findings):
    rows = [row for row in findings.pooled if row.metric == "accuracy"]
    many = [dataclasses.replace(row, treatment=f"arm {n}") for row in rows for n in range(4)]
    keys = [
        [text.get_text() for text in draw_contrasts(contrast_info(found)).legends[0].get_texts()]
        for found in (rows, many)
    ]

    assert keys[0][:2] == ["in favour of ORPO", "in favour of SFT"]
    assert keys[1][:2] == ["in favour of the arm, in its colour", "in favour of SFT"]
    assert {len(key) for key in keys} == {3}
    assert [bar.name for bar in contrast_info(many)[0].bars] == [f"arm {n}" for n in range(4)]


def test_every_figure_is_drawn_in_every_format(records, findings, tmp_path):
    files = draw_all(records, findings, tmp_path)

    assert {file.section for file in files} == {"search", "cost", "curves", "results"}
    assert len({file.name for file in files}) == len(files) == 12
    for file in files:
        assert file.caption.endswith(".")
        assert file.alt.endswith(".")
        assert re.search(r"\d", file.alt), file.name
        assert file.tips, file.name
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{file.name}.{ending}" for file in files for ending in FORMATS}


def test_a_figure_drawn_again_is_the_same_file(records, tmp_path):
    with mpl.rc_context(STYLE):
        for name in ("one", "two"):
            save(draw_lengths(length_info(records)), tmp_path / name)

    for ending in FORMATS:
        one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
        assert one == two, ending


def test_text_in_svg_figures_is_drawn_as_paths(records, tmp_path):
    with mpl.rc_context(STYLE):
        save(draw_lengths(length_info(records)), tmp_path / "lengths")

    assert "<text" not in (tmp_path / "lengths.svg").read_text()


def test_a_comparison_without_a_search_draws_what_there_is(tmp_path, builders):
    recipe = builders["recipe"]("tiny-llama")
    for seed in (1, 2):
        builders["run"](tmp_path, recipe, "sft", seed, tuned=False)
    records = load_study(tmp_path)
    files = draw_all(records, build_findings(records, origin="local"), tmp_path / "figures")

    assert [file.name for file in files][:2] == ["quality", "curve-loss"]
    assert "contrasts" not in {file.name for file in files}
