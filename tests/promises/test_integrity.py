"""Damaged records are named, never used, and made again alone; nothing is mixed."""

import contextlib
import json
from types import SimpleNamespace

import pytest
from made_records import narrowed

from study.cli.status import status
from study.compare import compare
from study.config.recipe import load_recipe
from study.errors import RecordError
from study.records.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
)
from study.records.folders import begin_afresh
from study.records.layout import search_folder
from study.records.locks import hold
from study.records.runs import RunFolder, lock_path, run_folder
from study.records.searches import search_faults
from study.records.sharing import present
from study.search.arm import search_arm

pytestmark = pytest.mark.usefixtures("small_seeds")

SCORES = {"nll": 1.0, "accuracy": 0.75}
FILES = ("steps.jsonl", "examples.parquet", "generations.jsonl", "adapter/adapter.safetensors")
RUN_FILES = ("config.json", "record.json", *FILES)
CPU = {"dtype": "float32", "quantization": "none", "commit": "abc"}
DATA = {"train": {"pairs": 4, "fingerprint": "1" * 64}, "source": "toy"}


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def alter(path):
    """Change one digit or letter, so that the file may still be read."""
    content = bytearray(path.read_bytes())
    where = next(i for i in range(len(content) // 2, len(content)) if chr(content[i]).isalnum())
    content[where] = ord("1") if content[where] != ord("1") else ord("2")
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def drop_a_line(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.fixture
def recipe():
    few = ["search.confirm_top=1", "search.confirm_seeds=1", "training.max_steps=160"]
    shipped = narrowed(load_recipe("tiny-llama"), "sft", "orpo")
    return shipped.override([*few, "search.objective=nll+lor"])


@pytest.fixture
def trained(monkeypatch):
    """Replace training and scoring by small files; list what was trained."""
    from study.run.watch import Outcome

    made = []

    def train_run(workbench, *, arm, settings, seed, folder, on_validation, start):
        made.append((arm, seed))
        scores = {"nll": 1 + settings["learning_rate"], "lor": 0.5, "accuracy": 0.5}
        scores |= {"margin": 0.1, "log_odds": 0.2}
        on_validation(160, scores)
        if folder is not None:
            steps = [{"step": step, "loss": 1.5} for step in range(1, 9)]
            write_jsonl(folder / "steps.jsonl", steps)
            write_bytes(folder / "adapter/adapter.safetensors", b"weights" * 9)
        return Outcome(validation=scores)

    def evaluate_run(workbench, folder):
        write_bytes(folder / "examples.parquet", b"PAR1 rows PAR1")
        write_jsonl(folder / "generations.jsonl", [{"text": "a"}, {"text": "b"}])
        return SCORES

    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # nothing here outlives the test
    monkeypatch.setattr("study.config.environment.versions", dict)
    monkeypatch.setattr("study.run.train.train_run", train_run)
    monkeypatch.setattr("study.run.make._untrained", lambda workbench, run: Outcome())
    monkeypatch.setattr("study.run.evaluate.evaluate_run", evaluate_run)
    return made


def bench(recipe, *, model=CPU, data=DATA, device="cpu"):
    base = SimpleNamespace(resolved=model, checked=None)
    return SimpleNamespace(recipe=recipe, device=device, data_summary=data, base=base)


def run(recipe, runs, *, n=2, said=None, **made_with):
    def here(jobs):
        return [job.work(bench(job.recipe, **made_with), lambda *_: None) for job in jobs]

    say = [].append if said is None else said.append
    return compare([recipe], runs=runs, seeds=n, seed=0, run_jobs=here, say=say)


def search(recipe, runs, trials=3, **made_with):
    silent = lambda done, total, note: None  # noqa: E731
    search_arm(bench(recipe, **made_with), silent, arm="sft", runs=runs, trials=trials, seed=0)
    return search_folder(runs, recipe.name, "sft")


def states(runs):
    return {
        (row["part"], row["arm"], row["seed"]): (row["state"], row["detail"])
        for row in status(runs)
    }


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


# Runs


@pytest.mark.parametrize("damage", [cut, alter])
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_run_is_named_and_made_again_alone(recipe, trained, tmp_path, name, damage):
    run(recipe, tmp_path)
    folder = run_folder(tmp_path, recipe.name, "sft", 2)
    before = contents(tmp_path)
    whole = contents(folder.path)
    damage(folder.path / name)
    damaged = (folder.path / name).read_bytes()
    trained.clear()
    seen, said = states(tmp_path), []
    records = run(recipe, tmp_path, said=said)

    assert folder.path.name == "seed-2"
    assert seen["compare", "sft", 2][0] == "damaged"
    assert name in seen["compare", "sft", 2][1]
    assert seen["compare", "sft", 1][0] == "finished"
    assert [line for line in said if name in line and "tiny-llama/sft/seed-2 is damaged" in line]
    assert trained == [("sft", 2)]
    assert len(records) == 5
    assert states(tmp_path)["compare", "sft", 2][0] == "finished"
    (kept,) = folder.path.parent.glob("seed-2.damaged-*")
    assert (kept / name).read_bytes() == damaged
    after = contents(tmp_path)
    elsewhere = [path for path in before if path.parts[2:4] != ("sft", "seed-2")]
    assert all(after[path] == before[path] for path in elsewhere)
    again = contents(folder.path)
    assert again.keys() == whole.keys()
    assert all(again[path] == whole[path] for path in whole if path.name != "record.json")


@pytest.mark.parametrize("name", ["config.json", *FILES[:3]])
def test_a_missing_file_is_named_too(recipe, trained, tmp_path, name):
    run(recipe, tmp_path)
    folder = run_folder(tmp_path, recipe.name, "orpo", 1)
    (folder.path / name).unlink()

    assert name in folder.faults()[0]
    assert folder.status() == "damaged"


def test_weights_may_be_left_out_as_a_whole_and_not_in_part(recipe, trained, tmp_path):
    run(recipe, tmp_path)
    folder = run_folder(tmp_path, recipe.name, "orpo", 1)
    (folder.path / FILES[3]).unlink()
    part = folder.faults()
    (folder.path / "adapter").rmdir()

    assert part == ["adapter/adapter.safetensors is missing"]
    assert folder.faults() == []


def test_records_without_checksums_of_their_own_are_still_read(recipe, trained, tmp_path):
    run(recipe, tmp_path)
    folder = run_folder(tmp_path, recipe.name, "orpo", 1)
    record = json.loads((folder.path / "record.json").read_text())
    del record["checksum"]
    write_json(folder.path / "record.json", record)

    assert folder.faults() == []
    assert folder.record() == record


def test_a_half_written_last_step_is_cut_and_the_run_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    append_jsonl(tmp_path / "steps.jsonl", {"step": 1})
    whole = (tmp_path / "steps.jsonl").read_bytes()
    (tmp_path / "steps.jsonl").write_bytes(whole + b'{"step": 2, "lo')

    assert folder.can_resume()
    assert (tmp_path / "steps.jsonl").read_bytes() == whole


def test_an_unfinished_run_with_damaged_steps_begins_again(recipe, trained, tmp_path):
    run(recipe, tmp_path)
    folder = run_folder(tmp_path, recipe.name, "sft", 1)
    (folder.path / "record.json").unlink()
    (folder.path / "steps.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    trained.clear()
    run(recipe, tmp_path)

    assert trained == [("sft", 1)]
    assert folder.status() == "ok"
    assert len(list(folder.path.parent.glob("seed-1.damaged-*"))) == 1


# Searches


@pytest.mark.parametrize("damage", [cut, alter])
@pytest.mark.parametrize("name", ["best.json", "confirmations.jsonl", "trials.jsonl"])
def test_a_damaged_file_of_a_search_is_named_never_used_and_made_again(
    recipe, trained, tmp_path, name, damage
):
    folder = search(recipe, tmp_path)
    whole = contents(folder)
    damage(folder / name)
    trained.clear()
    state, detail = states(tmp_path)["search", "sft", None]
    with pytest.raises(RecordError, match=rf"{name}.* `study search` with the same options"):
        run(recipe, tmp_path)
    never_used = list(trained)
    search(recipe, tmp_path)

    assert (state, name in detail) == ("damaged", True)
    assert never_used == []
    assert len(trained) == (name == "confirmations.jsonl")  # the one repetition
    assert states(tmp_path)["search", "sft", None][0] == "finished"
    assert search_faults(folder) == []
    for file in ("best.json", "confirmations.jsonl", "trials.jsonl"):
        made, before = json_of(folder / file), [json.loads(line) for line in lines(whole, file)]
        for row in (*made, *before):
            for key in ("journal", "checksum"):  # a storage grows where it is opened again
                row.pop(key, None)
        assert made == before
    assert len(list(folder.glob(f"{name}.damaged-*"))) == 1


def json_of(path):
    return [json.loads(line) for line in lines({path: path.read_bytes()}, path)]


def lines(files, name):
    text = next(content for path, content in files.items() if str(path).endswith(str(name)))
    return [text] if str(name).endswith(".json") else text.splitlines()


def test_a_trial_dropped_from_the_list_is_noticed_once_best_is_chosen(recipe, trained, tmp_path):
    folder = search(recipe, tmp_path)
    drop_a_line(folder / "trials.jsonl")

    assert "trials.jsonl was changed" in search_faults(folder)[0]
    search(recipe, tmp_path)
    assert search_faults(folder) == []


@pytest.mark.parametrize("damage", [cut, alter, empty])
def test_a_damaged_journal_is_named_and_never_gone_on_with(recipe, trained, tmp_path, damage):
    folder = search(recipe, tmp_path)
    damage(folder / "journal.log")
    trained.clear()

    with pytest.raises(RecordError, match=r"(?s)journal\.log.*damaged.*--fresh"):
        search(recipe, tmp_path, trials=5)
    assert trained == []
    assert len(list(read_jsonl(folder / "trials.jsonl"))) == 3


def change_line(wanted, new):
    """Return what replaces the first line that holds some bytes, or drops it."""

    def damage(path):
        found = path.read_bytes().splitlines(keepends=True)
        number = next(n for n, line in enumerate(found) if wanted in line)
        assert new(found[number]) != found[number]
        found[number] = new(found[number])
        path.write_bytes(b"".join(found))

    return damage


LINES = {
    "an intermediate value": (
        b'"user_attr":{"intermediate"',
        lambda line: line.replace(b'"step":', b'"step":1', 1),
    ),
    "a setting": (b"param_value_internal", lambda line: line.replace(b"0.0", b"0.1", 1)),
    "a dropped line": (b'"seconds"', lambda line: b""),
    "a doubled line": (b'"seconds"', lambda line: line * 2),
}


@pytest.mark.parametrize("change", LINES)
def test_any_change_to_the_journal_of_a_finished_search_is_noticed(
    recipe, trained, tmp_path, change
):
    folder = search(recipe, tmp_path)
    change_line(*LINES[change])(folder / "journal.log")
    trained.clear()
    state, detail = states(tmp_path)["search", "sft", None]

    assert (state, "journal.log is damaged" in detail) == ("damaged", True)
    for command in (search, run):
        with pytest.raises(RecordError, match=r"journal\.log is damaged"):
            command(recipe, tmp_path)
    assert trained == []


def test_a_best_of_before_journals_were_sealed_stays_readable(recipe, trained, tmp_path):
    folder = search(recipe, tmp_path)
    best = read_json(folder / "best.json")
    write_json(folder / "best.json", {k: v for k, v in best.items() if k != "journal"})
    drop_a_line(folder / "journal.log")

    assert search_faults(folder) == []


def test_a_search_that_goes_on_is_not_called_damaged(recipe, trained, tmp_path):
    search(recipe, tmp_path, trials=3)
    best = read_json(search_folder(tmp_path, recipe.name, "sft") / "best.json")
    folder = search(recipe, tmp_path, trials=4)
    write_json(folder / "best.json", best)

    assert search_faults(folder) == []
    assert states(tmp_path)["search", "sft", None][0] == "interrupted"


def test_a_changed_configuration_file_of_a_search_is_refused(recipe, trained, tmp_path):
    folder = search(recipe, tmp_path)
    alter(folder / "config.json")

    with pytest.raises(RecordError, match=r"config\.json is damaged"):
        search(recipe, tmp_path, trials=4)
    with pytest.raises(RecordError, match=r"config\.json is damaged"):
        run(recipe, tmp_path)


# What does not belong together

OTHERS = {
    "dtype": (
        {"model": CPU | {"dtype": "bfloat16"}},
        "model.dtype: 'float32' in the records, 'bfloat16' asked for",
    ),
    "quantisation": (
        {"model": CPU | {"quantization": "nf4"}},
        "model.quantization: 'none' in the records, 'nf4' asked for",
    ),
    "model revision": (
        {"model": CPU | {"commit": "def"}},
        "model.commit: 'abc' in the records, 'def' asked for",
    ),
    "data": (
        {"data": {"train": {"pairs": 4, "fingerprint": "2" * 64}}},
        f"data.train: '{'1' * 64}' in the records, '{'2' * 64}' asked for",
    ),
    "kind of device": (
        {"device": "cuda:0"},
        "device: 'cpu' in the records, 'gpu' asked for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_runs_made_with_other_things_are_not_mixed(recipe, trained, tmp_path, what):
    made_with, line = OTHERS[what]
    run(recipe, tmp_path, n=1)
    before = contents(tmp_path)
    trained.clear()

    for forget in (False, True):
        if forget:  # finished runs alone tell too
            (tmp_path / recipe.name / "compare/resolved.json").unlink()
        with pytest.raises(RecordError) as caught:
            run(recipe, tmp_path, n=2, **made_with)
        assert line in str(caught.value)
        assert "--runs" in str(caught.value)
        assert "--fresh" in str(caught.value)
    assert trained == []
    kept = {path: content for path, content in before.items() if "seed" in str(path)}
    assert {path: contents(tmp_path)[path] for path in kept} == kept


@pytest.mark.parametrize("what", OTHERS)
def test_trials_made_with_other_things_are_not_mixed(recipe, trained, tmp_path, what):
    made_with, line = OTHERS[what]
    search(recipe, tmp_path)
    trained.clear()

    with pytest.raises(RecordError) as caught:
        search(recipe, tmp_path, trials=5, **made_with)
    assert line in str(caught.value)
    assert trained == []


def test_an_unfinished_run_is_not_resumed_with_other_things(recipe, trained, tmp_path):
    run(recipe, tmp_path, n=1)
    for arm, seed in (("base", 0), ("sft", 1), ("orpo", 1)):
        (run_folder(tmp_path, recipe.name, arm, seed).path / "record.json").unlink()

    with pytest.raises(RecordError, match="device: 'cpu' in the records, 'gpu' asked for"):
        run(recipe, tmp_path, n=1, device="cuda")


@pytest.mark.parametrize("name", ["resolved.json", "config.json"])
def test_a_damaged_file_of_a_whole_comparison_is_named(recipe, trained, tmp_path, name):
    run(recipe, tmp_path, n=1)
    alter(tmp_path / recipe.name / "compare" / name)
    trained.clear()

    with pytest.raises(RecordError, match=rf"{name} is damaged"):
        run(recipe, tmp_path, n=2)
    assert trained == []


def test_another_schema_of_the_records_is_refused(recipe, trained, tmp_path, monkeypatch):
    run(recipe, tmp_path, n=1)
    search(recipe, tmp_path / "b")
    monkeypatch.setattr("study.records.digests.SCHEMA", 99)

    with pytest.raises(RecordError, match=r"schema: .* in the records, 99 asked for"):
        run(recipe, tmp_path, n=1)
    with pytest.raises(RecordError, match=r"schema: .* in the records, 99 asked for"):
        search(recipe, tmp_path / "b")


def test_of_two_studies_that_begin_at_once_in_one_folder_one_is_refused(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from study.records.folders import claim_folder

    def claim(seed):
        try:
            claim_folder(tmp_path / "folder", {"seed": seed})
        except RecordError as error:
            return str(error)
        return seed

    with ThreadPoolExecutor(16) as threads:
        ended = list(threads.map(claim, range(16)))
    (winner,) = [seed for seed in ended if isinstance(seed, int)]

    assert read_json(tmp_path / "folder/config.json")["seed"] == winner
    assert all(f"seed: {winner} in the records" in m for m in ended if isinstance(m, str))


def test_runs_that_another_study_makes_meanwhile_are_not_in_the_table(
    recipe, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("study.run.make.present", lambda *_: contextlib.nullcontext())  # unseen
    other = recipe.override(["training.batch_pairs=8"])

    def meanwhile(jobs):
        run(other, tmp_path, n=1)

    with pytest.raises(RecordError, match=r"batch_pairs: 8 in the records, 16 asked for"):
        compare([recipe], runs=tmp_path, seeds=1, seed=0, run_jobs=meanwhile, say=print)


def test_fresh_keeps_the_old_records_beside_the_new_ones(recipe, trained, tmp_path):
    run(recipe, tmp_path, n=1)
    folder = tmp_path / recipe.name / "compare"
    before = contents(folder)
    other = CPU | {"dtype": "bfloat16"}
    first, second = begin_afresh(folder), begin_afresh(folder)
    run(recipe, tmp_path, n=1, model=other)

    assert second is None
    assert first.name.startswith("compare.old-")
    assert contents(first) == before
    assert read_json(folder / "resolved.json")["model"] == other
    assert begin_afresh(folder) not in (None, first)


def test_fresh_leaves_a_folder_alone_in_which_a_process_works(recipe, trained, tmp_path):
    run(recipe, tmp_path, n=1)
    folder = run_folder(tmp_path, recipe.name, "sft", 1)

    with (
        hold(lock_path(folder)),
        pytest.raises(RecordError, match="another process works"),
    ):
        begin_afresh(tmp_path / recipe.name / "compare")
    assert folder.status() == "ok"


def test_fresh_leaves_a_folder_alone_that_a_command_will_write_to(recipe, trained, tmp_path):
    run(recipe, tmp_path, n=1)
    folder = tmp_path / recipe.name / "compare"

    with present(tmp_path, "compare", [(recipe, "sft", 1)]):
        with pytest.raises(RecordError, match="another process works"):
            begin_afresh(folder)
        assert folder.is_dir()
    with present(tmp_path, "claims", [(recipe, "default", 1)]):
        assert begin_afresh(folder).is_dir()


def test_published_copies_leave_damaged_runs_out(recipe, trained, tmp_path):
    from study.records.publish import publish

    run(recipe, tmp_path / "runs", n=1)
    alter(run_folder(tmp_path / "runs", recipe.name, "sft", 1).path / "steps.jsonl")
    publish(tmp_path / "runs", tmp_path / "published")

    compared = [row for row in status(tmp_path / "published") if row["part"] == "compare"]
    assert {row["arm"]: row["state"] for row in compared} == {
        "base": "finished",
        "sft": "missing",
        "orpo": "finished",
    }
