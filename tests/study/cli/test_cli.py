import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from study.cli.bench.parts import PARTS
from study.cli.commands import main
from study.config import recipe as recipe_module
from study.config.recipe import load_recipe
from study.records.asked import read_asked
from study.records.files import read_json
from study.records.layout import plan_path
from study.records.plan import write_plan
from study.records.sharing import present

COMMANDS = [
    "search", "compare", "claims", "reproduce", "note", "report", "status", "doctor", "recipes",
    "bench", "data", "benchmark", "export", "generate", "judge", "submit", "proxy", "dashboard",
]  # fmt: skip


@pytest.fixture
def study(monkeypatch, tmp_path):
    """Run the command line in this process, without a GPU, in an empty folder."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def trained(monkeypatch):
    """Replace worker processes and training by formulas."""
    from study.run.watch import Outcome

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        scores = {
            "nll": 1 + settings["learning_rate"],
            "ranking": 0.5,
            "lor": 0.5,
            "accuracy": 0.5 + seed / 1e6,
            "margin": 0.1,
            "log_odds": 0.2,
        }
        on_validation(0, scores)
        return Outcome(validation=scores)

    def run_jobs(jobs, *, slots, quiet):
        return [
            job.work(
                SimpleNamespace(
                    recipe=job.recipe,
                    device="cpu",
                    data_summary={},
                    base=SimpleNamespace(resolved={}, checked=None),
                ),
                lambda *_: None,
            )
            for job in jobs
        ]

    scores = {"nll": 1.0, "accuracy": 0.75, "margin": 0.5}
    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr(
        "study.run.budget.budget_of", lambda bench, **_: (bench.recipe.training, None)
    )
    monkeypatch.setattr("study.run.make._untrained", lambda workbench, run: Outcome())
    monkeypatch.setattr("study.run.evaluate.evaluate_run", lambda workbench, folder: scores)
    monkeypatch.setattr("study.workers.jobs.run_jobs", run_jobs)
    found = {"digest": "d", "cost": {}}
    for module in ("search.arm", "search.confirm", "run.make"):
        monkeypatch.setattr(
            f"study.{module}.find_start",
            lambda *_, start, **__: start and SimpleNamespace(record=found),
        )


# Commands and their options


def test_arms_narrow_a_search_and_a_comparison(study, trained, tmp_path):
    options = ("--recipe", "tiny-llama", "--arm", "dpo", "--runs", tmp_path, "--quiet", "--json")
    found = study("search", "--trials", 2, *options)
    made = study("compare", "--seeds", 1, *options)
    again = study("search", "--trials", 2, "--fresh", *options)
    folder = tmp_path / "tiny-llama/search"
    begun = sorted(path.name.partition(".")[0] for path in folder.glob("[a-z]*"))

    assert [best["arm"] for best in json.loads(found.output)] == ["dpo", "sft"]
    assert [record["arm"] for record in json.loads(made.output)] == ["base", "dpo"]
    assert again.exit_code == 0
    assert begun == ["dpo", "dpo", "sft"]


def test_a_comparison_begins_afresh_as_a_whole(study, trained, tmp_path):
    result = study(
        "compare", "--recipe", "tiny-llama", "--arm", "dpo", "--fresh", "--runs", tmp_path
    )

    assert result.exit_code == 2
    assert "leave out --arm" in result.output


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_there_are_the_commands_of_the_design():
    assert sorted(main.commands) == sorted(COMMANDS)


def test_an_article_that_cannot_be_reproduced_is_refused(study):
    result = study("reproduce", "article-z")

    assert result.exit_code == 2
    assert "'article-z' is not 'article-a'" in result.output


@pytest.mark.parametrize("path", [(), *(path for path, _ in commands())], ids=" ".join)
def test_every_command_has_help(study, path):
    result = study(*path, "--help")

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_every_option_has_help():
    options = [o for _, c in commands() for o in c.params if isinstance(o, click.Option)]

    assert all(option.help for option in options)


NAME_RECORDS = {("note",), ("status",), ("export",), ("generate",), ("benchmark",), ("judge",)}
"""Commands whose --recipe, --arm and --seed only name what is there."""


def test_options_of_one_name_are_the_same_everywhere():
    seen = {}
    for path, command in commands():
        for option in command.params:
            if path not in NAME_RECORDS and option.name != "data":  # pairs to time, show or read
                seen.setdefault(option.name, set()).add(getattr(option, "help", None))

    assert {name: texts for name, texts in seen.items() if len(texts) > 1} == {}


def test_help_imports_nothing_heavy():
    code = (
        "import sys, click.testing, study.cli.commands; "
        "click.testing.CliRunner().invoke(study.cli.commands.main, ['search', '--help']); "
        "print({'torch', 'transformers', 'optuna', 'datasets', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


# Errors, interruptions and exit statuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--recipe", "tiny-lama"], "did you mean 'tiny-llama'"),
        (["search", "--recipe", "no.toml"], "no recipe file no.toml"),
        (["compare", "--set", "training.max_step=3"], "did you mean 'max_steps'"),
        (["compare", "--set", "training"], "has no '='"),
        (["compare", "--set", "training.max_steps=0"], "at least 1"),
        (["search", "--device", "cuda"], "no CUDA device here"),
        (["search", "--device", "tpu"], "may be auto, cpu"),
        (["search", "--seed", "100000"], "below"),
        (["search", "--trials", "1", "--storage", "nonsense"], "cannot use the storage"),
        (["status", "--recipe", "tiny-lama"], "did you mean 'tiny-llama'"),
    ],
)
def test_what_a_user_can_mend_is_one_message_and_status_1(study, trained, arguments, message):
    result = study(*arguments)

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments", [["search", "--trials", "0"], ["compare", "--sedes", "2"], ["x"]]
)
def test_wrong_usage_is_status_2(study, arguments):
    assert study(*arguments).exit_code == 2


def test_a_folder_that_cannot_be_written_is_one_message(study, trained, tmp_path):
    (tmp_path / "file").touch()
    result = study("compare", "--runs", tmp_path / "file" / "runs")

    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


def test_an_interruption_is_status_130_and_says_how_to_go_on(study, monkeypatch):
    def interrupted(jobs, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("study.workers.jobs.run_jobs", interrupted)
    result = study("search")

    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_worker_is_an_interruption_too(study, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "study.cli.commands.chosen_recipes", lambda *_: os.kill(os.getpid(), number)
    )
    result = study("compare")

    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


# What is said and kept


def test_the_default_recipes_are_said(study, trained):
    result = study("compare", "--seeds", 1)

    assert "recipes: tiny-smollm2 and tiny-llama, because no CUDA device" in result.stderr
    assert "choose with --recipe" in result.stderr


def test_search_ends_with_its_table_and_the_next_step(study, trained):
    result = study("search", "--recipe", "tiny-llama", "--trials", 3, "--runs", "my runs")

    assert result.exit_code == 0
    assert "learning_rate" in result.stdout
    assert "next: study compare --seeds 3 --recipe tiny-llama --runs 'my runs'" in result.stderr


def test_compare_ends_with_its_table_and_the_next_step(study, trained):
    result = study("compare", "--recipe", "tiny-llama")

    assert "0.750 ± 0.000" in result.stdout
    assert "tiny-llama/orpo is untuned" in result.stderr
    assert "next: study report --runs runs/local" in result.stderr


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ["--out", "paper/build"]),
        (
            ["--runs", "mine", "--out", "there", "--open", "--watch"],
            ["--runs", "mine", "--out", "there", "--open", "--watch"],
        ),
    ],
)
def test_report_hands_its_options_to_the_paper_and_returns_its_status(
    study, monkeypatch, given, passed
):
    called = []

    def run(command, *, check):
        called.append((command, check))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    result = study("report", *given)

    assert called == [([sys.executable, "-m", "paper.build", *passed], False)]
    assert result.exit_code == 3


NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--runs", NOT_UTF8),
        ("compare", "--recipe", f"{NOT_UTF8}.toml"),
        ("search", "--set", f"data.name={NOT_UTF8}.jsonl"),
        ("data", "check", f"{NOT_UTF8}.jsonl"),
        ("status", "--runs", NOT_UTF8),
        ("report", "--runs", NOT_UTF8),
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_a_path_that_is_not_utf8_is_one_message(study, arguments):
    result = study(*arguments)

    assert result.exit_code == 2
    assert "caf\\udce9" in result.stderr
    assert "is not UTF-8; records hold text alone: rename the file" in result.stderr


def test_a_folder_that_is_not_utf8_is_one_message(study, tmp_path, monkeypatch):
    (tmp_path / NOT_UTF8).mkdir()
    monkeypatch.chdir(tmp_path / NOT_UTF8)

    result = study("recipes")

    assert result.exit_code == 2
    assert "caf\\udce9' is not UTF-8; records hold text alone: rename the file" in result.stderr


def test_a_file_inside_a_folder_that_is_not_utf8_is_one_message(study, tmp_path):
    (tmp_path / "pairs").mkdir()
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "pairs" / f"{NOT_UTF8}.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    result = study("data", "check", "pairs", "--set", "data.max_dropped_share=1")

    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert len(result.output.strip()) > 0


def test_records_keep_how_a_recipe_file_was_asked_for(study, trained, tmp_path):
    text = (Path(recipe_module.__file__).parents[1] / "recipes" / "tiny-llama.toml").read_text()
    (tmp_path / "my own.toml").write_text(text)
    refused = study("compare", "--recipe", "my own.toml", "--set", "training.max_step=7")
    asked = ["--recipe", "my own.toml", "--set", "training.max_steps=16"]
    study("compare", *asked)
    other = study("compare", "--recipe", "my own.toml", "--set", "training.max_steps=24")

    assert refused.exit_code == other.exit_code == 1
    assert read_asked(tmp_path / "runs/local", "tiny-llama", "compare") == {
        "file": "my own.toml",
        "set": ["training.max_steps=16"],
    }
    study("compare", "--recipe", "tiny-llama", "--set", "training.max_steps=16")
    assert read_asked(tmp_path / "runs/local", "tiny-llama", "compare") is None


def test_quiet_shows_results_alone(study, trained):
    result = study("compare", "--seeds", 1, "--quiet")

    assert result.stderr == ""
    assert "accuracy" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--trials", "2"],
        ["compare", "--seeds", "1"],
        ["status"],
        ["recipes"],
        ["doctor", "--device", "cpu"],
        ["doctor", "--recipe", "tiny-llama", "--device", "cpu"],
    ],
)
def test_json_is_json(study, trained, arguments):
    result = study(*arguments, "--json")

    assert isinstance(json.loads(result.stdout), list)


def test_what_search_froze_is_what_compare_uses(study, trained, tmp_path):
    study("search", "--recipe", "tiny-llama", "--trials", 3)
    result = study("compare", "--recipe", "tiny-llama", "--seeds", 1, "--json")

    best = read_json(tmp_path / "runs/local/tiny-llama/search/orpo/best.json")
    orpo = next(row for row in json.loads(result.stdout) if row["arm"] == "orpo")
    assert (orpo["settings"], orpo["tuned"]) == (best["settings"], True)
    assert "untuned" not in result.stderr


def test_status_is_a_table_and_says_where_nothing_is(study, trained):
    empty = study("status")
    study("compare", "--seeds", 1)
    full = study("status", "--recipe", "tiny-llama")

    assert "no records in runs/local" in empty.stdout
    assert full.stdout.splitlines()[0].split() == [
        "recipe",
        "part",
        "arm",
        "seed",
        "state",
        "detail",
    ]
    assert "tiny-smollm2" not in full.stdout


def test_bench_measures_all_parts_or_those_asked_for(study, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("study.cli.bench.parts.bench", lambda **options: calls.append(options))
    whole = study("bench")
    quick = study("bench", "--quick", "--only", "steps", "--only", "growth", "--out", "b.json")
    wrong = study("bench", "--only", "speed")

    assert (whole.exit_code, quick.exit_code, wrong.exit_code) == (0, 0, 2)
    assert calls[0]["parts"] == PARTS
    assert calls[0]["out"] == Path("runs/local/bench.json")
    assert calls[1]["parts"] == ("steps", "growth")
    assert (calls[1]["quick"], calls[1]["out"]) == (True, Path("b.json"))


def test_two_recipes_of_one_name_are_refused(study, tmp_path):
    from study.config.files import recipe_names

    assert "tiny-llama" in recipe_names()
    (tmp_path / "copy.toml").write_text(read_recipe("tiny-llama"))
    result = study("compare", "--recipe", "tiny-llama", "--recipe", "copy.toml")

    assert "two recipes are named 'tiny-llama'" in result.stderr


def test_a_full_size_recipe_on_the_cpu_says_what_it_costs(study, trained, monkeypatch):
    monkeypatch.setattr("study.cli.doctor._device_bytes", lambda device: None)
    result = study("compare", "--recipe", "smollm2-1.7b", "--seeds", 1)

    assert "smollm2-1.7b on the CPU: up to" in result.stderr
    assert result.exit_code == 0


# Real programs


@pytest.fixture
def real(model_folder, tmp_path):
    """Return the words of a real command on a random tiny model."""
    changes = (
        f"model.name={model_folder}",
        "data.train_pairs=96",
        "data.validation_pairs=16",
        "data.test_pairs=16",
        "training.max_steps=12",
        "training.batch_pairs=8",
        "training.validate_every_steps=4",
        "evaluation.generated_answers=4",
        "evaluation.max_new_tokens=4",
        "search.confirm_top=1",
        "search.confirm_seeds=1",
    )
    options = [word for change in changes for word in ("--set", change)]

    def words(command, *arguments):
        program = (sys.executable, "-m", "study.cli.commands", command, "--recipe", "tiny-llama")
        where = ("--runs", str(tmp_path), "--device", "cpu")
        return [*program, *where, *options, *arguments]

    return words


@pytest.mark.slow
def test_signals_stop_a_real_search_within_seconds_and_it_goes_on(real, tmp_path):
    """SIGTERM to the parent alone, then SIGINT to all, as Ctrl-C on a terminal sends it."""
    command = real("search", "--trials", "3", "--arm", "sft", "--arm", "orpo")
    journal = tmp_path / "tiny-llama/search/orpo/journal.log"
    for number, send in ((signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)):
        before = journal.stat().st_size if journal.exists() else 0
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as p:
            while not (journal.exists() and b"step" in journal.read_bytes()[before:]):
                assert p.poll() is None
                time.sleep(0.1)
            began = time.monotonic()
            send(p.pid, number)
            _, shown = p.communicate(timeout=30)
            took_s = time.monotonic() - began

        assert p.returncode == 130
        assert took_s < 10
        assert "the same command goes on" in shown
        assert "Traceback" not in shown
    resumed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)

    assert [best["n_trials"] for best in json.loads(resumed.stdout)] == [3, 3]


@pytest.mark.slow
def test_a_real_search_and_comparison_leave_their_records(real, tmp_path):
    compare = real("compare", "--seeds", "1", "--json", "--workers", "1")
    for command in (real("search", "--trials", "2", "--workers", "1"), compare):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)

    assert [(r["arm"], r["status"], r["tuned"]) for r in records] == [
        ("base", "ok", False),
        ("sft", "ok", True),
        ("sft-matched", "ok", True),
        ("orpo", "ok", True),
        ("dpo", "ok", True),
        ("simpo", "ok", True),
    ]
    for record in records:
        folder = tmp_path / f"tiny-llama/compare/{record['arm']}/seed-{record['seed']}"
        names = {path.name for path in folder.iterdir()}
        assert {"steps.jsonl", "examples.parquet", "generations.jsonl"} <= names
        assert ("adapter" in names) == (record["arm"] != "base")


@pytest.mark.slow
def test_real_runs_of_claims_leave_records_like_a_comparisons(real, tmp_path):
    command = real("claims", "--seeds", "1", "--json", "--workers", "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)

    assert [(r["setting"], r["status"]) for r in records] == [
        (name, "ok") for name in ("default", "beta-0.1", "beta-0.5", "beta-1.0", "higher-rate")
    ]
    for record in records:
        folder = tmp_path / f"tiny-llama/claims/{record['setting']}/seed-{record['seed']}"
        assert {"steps.jsonl", "examples.parquet"} <= {path.name for path in folder.iterdir()}
    plan = read_json(tmp_path / "tiny-llama/claims/config.json")
    assert plan["settings"] == {r["setting"]: r["settings"] for r in records}


# Notes, claims and --fresh


def test_a_note_goes_into_every_plan_and_needs_one(study, tmp_path):
    write_plan(tmp_path / "runs", load_recipe("tiny-llama"), seeds=[1], arms={"base": {}})
    done = study("note", "The range was narrowed.", "--runs", tmp_path / "runs")
    lost = study("note", "Nothing.", "--runs", tmp_path / "elsewhere")
    (event,) = read_json(plan_path(tmp_path / "runs", "tiny-llama"))["history"]

    assert done.output == "noted in the plan of tiny-llama\n"
    assert event["what"] == "The range was narrowed"
    assert lost.exit_code == 1
    assert "holds no plan" in lost.output


def test_claims_are_made_and_shown_by_setting(study, trained):
    result = study("claims", "--recipe", "tiny-llama", "--seeds", 2)

    assert result.exit_code == 0
    assert "next: study report --runs runs/local" in result.stderr
    rows = result.stdout.splitlines()
    assert rows[0].split()[:2] == ["recipe", "setting"]
    assert [row.split()[1] for row in rows[1:]] == [
        "default",
        "beta-0.1",
        "beta-0.5",
        "beta-1.0",
        "higher-rate",
    ]


def read_recipe(name):
    return resources.files("study").joinpath(f"recipes/{name}.toml").read_text()


@pytest.mark.parametrize("command", ["search", "compare"])
def test_fresh_begins_anew_and_says_where_the_old_records_are(study, trained, tmp_path, command):
    short = ("--trials", 2) if command == "search" else ("--seeds", 1)
    other = ("--set", "training.batch_pairs=8")
    study(command, "--recipe", "tiny-llama", *short)
    refused = study(command, "--recipe", "tiny-llama", *short, *other)
    fresh = study(command, "--recipe", "tiny-llama", *short, *other, "--fresh")

    assert refused.exit_code == 1
    assert "training.batch_pairs: 16 in the records, 8 asked for" in refused.stderr
    assert "--fresh" in refused.stderr
    assert fresh.exit_code == 0
    (kept,) = (tmp_path / "runs/local/tiny-llama").glob(f"{command}.old-*")
    assert f"the old records of tiny-llama are kept in {kept.relative_to(tmp_path)}" in fresh.stderr
    assert study("status").stdout.count("damaged") == 0


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("search", ("--arm", "kto"), "no arm 'kto'"),
        ("search", ("--seed", 100), "--seed is 100"),
        ("search", ("--device", "cuda"), "no CUDA device here"),
        ("search", ("--arm", "dpo", "--set", "training.batch_pairs=8"), "8 asked for"),  # its start
        ("compare", ("--seed", 100), "--seed is 100"),
        ("compare", ("--device", "cuda"), "no CUDA device here"),
        ("compare", ("--set", "training.batch_pairs=8"), "searched under another configuration"),
        ("claims", ("--seed", 100), "--seed is 100"),
        ("claims", ("--set", "training.max_steps=48"), "another configuration"),
        ("reproduce", ("article-a", "--seed", 100), "--seed is 100"),
    ],
)
def test_fresh_sets_nothing_aside_where_the_command_is_refused(
    study, trained, tmp_path, command, options, message
):
    records = tmp_path / "runs/local/tiny-llama"
    if message.startswith(("8", "searched")):
        study("search", "--recipe", "tiny-llama", "--arm", "sft", "--trials", 1)
    for part in ("search/dpo", "compare/sft", "claims/default", "reproduce/sft-published"):
        (records / part).mkdir(parents=True)
    running = present(Path("runs/local"), "compare", [(load_recipe("tiny-llama"), "sft", 9)])
    with running if command == "claims" else contextlib.nullcontext():
        result = study(command, "--recipe", "tiny-llama", "--fresh", *options)

    assert result.exit_code == 1
    assert message in result.stderr
    assert list(records.rglob("*.old-*")) == []


def test_fresh_does_not_pretend_to_empty_a_storage(study, trained):
    result = study("search", "--fresh", "--storage", "sqlite:///study.db")

    assert result.exit_code == 2
    assert "--fresh cannot empty a storage" in result.stderr
