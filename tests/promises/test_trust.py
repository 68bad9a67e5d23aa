"""Nothing that came from elsewhere runs, and nothing is written elsewhere."""

import ast
import dataclasses
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.config.files import recipe_names
from study.config.recipe import load_recipe
from study.errors import ConfigError, ModelError, StudyError

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for package in ("study", "analysis", "paper") for path in (ROOT / package).rglob("*.py")
]
SOURCES += [ROOT / "noxfile.py"]

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty"}
UNSAFE_CALLS = {
    "eval", "exec", "os.system", "os.popen", "os.spawnl", "torch.load", "pd.read_pickle",
    "pandas.read_pickle", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load",
    "torch.hub.load", "importlib.reload",
}  # fmt: skip


def dangers(source: str) -> Iterator[str]:
    """Yield what could run code that a file holds, or a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS:
                yield called
            for keyword in node.keywords:
                said = f"{keyword.arg}={ast.unparse(keyword.value)}"
                if said in {"shell=True", "allow_pickle=True", "weights_only=False"}:
                    yield said
                if keyword.arg == "trust_remote_code" and not said.endswith(".trust_remote_code"):
                    yield said


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_loads_pickles_or_starts_a_shell(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import dill.source",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(f'rm {name}')",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert list(dangers(source))


class Touch:
    """Unpickled, it makes a file: what a hostile checkpoint would do, and more."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_the_hostile_pickle_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))

    assert (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory):
    """A run of the embedded study that was interrupted after a checkpoint, and its recipe."""
    pytest.importorskip("torch")
    from study.model.toy import train_tokenizer
    from study.model.workbench import open_workbench
    from study.run.train import train_run

    folder = tmp_path_factory.mktemp("cut")
    base = folder / "base"
    _save_tiny_llama(base)
    train_tokenizer().save_pretrained(base)
    recipe = load_recipe("tiny-llama").override(
        [
            f"model.name={base}",
            *("data.train_pairs=32", "data.validation_pairs=8", "data.test_pairs=8"),
            *("training.max_steps=4", "training.batch_pairs=4", "training.warmup_steps=1"),
            *("training.validate_every_steps=2", "training.checkpoint_every_steps=2"),
            *("evaluation.generated_answers=2", "evaluation.max_new_tokens=4"),
        ]
    )
    workbench = open_workbench(recipe, device="cpu")

    def die(step, scores):
        if step == 4:
            raise KeyboardInterrupt
        return False

    run = folder / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(
            workbench,
            arm="sft",
            settings={"learning_rate": 1e-3},
            seed=1,
            folder=run,
            on_validation=die,
        )
    return workbench, run


def _save_tiny_llama(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from study.model.toy import VOCABULARY_SIZE

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize(
    "planted", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"]
)
@pytest.mark.parametrize("written_by", ["pickle", "torch"])
def test_a_pickle_planted_in_a_checkpoint_is_not_run(cut_short, tmp_path, planted, written_by):
    import torch

    from study.run.checkpoints import seal_checkpoint
    from study.run.train import train_run

    workbench, run = cut_short
    folder, marker = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(run, folder)
    (checkpoint,) = (folder / "trainer").glob("checkpoint-2")
    assert planted == "adapter_model.bin" or (checkpoint / planted).exists()
    if planted == "adapter_model.bin":
        (checkpoint / "adapter_model.safetensors").unlink()
    if written_by == "torch":
        torch.save(Touch(marker), checkpoint / planted)
    else:
        (checkpoint / planted).write_bytes(pickle.dumps(Touch(marker)))
    seal_checkpoint(folder, checkpoint, {})  # else it is set aside before anything is loaded

    with pytest.raises(Exception, match=r"(?i)weights.only|safetensors|unsupported|adapter|load"):
        train_run(workbench, arm="sft", settings={"learning_rate": 1e-3}, seed=1, folder=folder)
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["llama", "made-up"])
def test_code_of_a_model_runs_only_where_the_recipe_says_so(tmp_path, monkeypatch, model_type):
    from study.model.base import load_base

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = tmp_path / "model", tmp_path / "ran"
    _save_tiny_llama(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "hostile.Made", "AutoModelForCausalLM": "hostile.Made"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hostile.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Made: pass\n")
    from study.model.toy import train_tokenizer

    train_tokenizer().save_pretrained(folder)
    model = dataclasses.replace(load_recipe("tiny-llama").model, name=str(folder))
    assert not model.trust_remote_code
    if model_type == "llama":
        load_base(model, device="cpu")  # the library's own code for this type is used
    else:
        with pytest.raises(
            ModelError, match=r"code of its own.*--set model\.trust_remote_code=true"
        ):
            load_base(model, device="cpu")
    assert not marker.exists()

    with pytest.raises(Exception):  # noqa: B017 - its class is of no use; it was run
        load_base(dataclasses.replace(model, trust_remote_code=True), device="cpu")
    assert marker.exists()


def test_no_shipped_recipe_trusts_remote_code_and_every_record_says_so() -> None:
    from study.records.digests import run_config

    for name in recipe_names():
        recipe = load_recipe(name)
        config = run_config(recipe, arm="base", settings={}, seed=0)
        assert recipe.model.trust_remote_code is False
        assert config["recipe"]["model"]["trust_remote_code"] is False
    trusting = recipe.override(["model.trust_remote_code=true"])
    described = run_config(trusting, arm="base", settings={}, seed=0)
    assert described["recipe"]["model"]["trust_remote_code"] is True


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../evil", "a/../../evil", "/tmp/evil", "a\\..\\b", ".hidden", "a\0b"]
)
def test_a_recipe_cannot_name_a_folder_elsewhere(name: str) -> None:
    with pytest.raises(ConfigError, match="recipe name"):
        dataclasses.replace(load_recipe("tiny-llama"), name=name)


@pytest.mark.parametrize("name", ["toy:../../evil", "toy:", "toy:/tmp/evil"])
def test_a_toy_model_cannot_name_a_folder_elsewhere(name, tmp_path, monkeypatch) -> None:
    from study.model.base import load_base

    monkeypatch.setenv("ORPO_STUDY_CACHE", str(tmp_path / "cache"))
    model = dataclasses.replace(load_recipe("tiny-llama").model, name=name)
    with pytest.raises(StudyError, match="no toy base"):
        load_base(model, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../x", "/nonexistent/x", "~/../x", "a/../../../x"])
def test_a_model_that_is_a_strange_path_is_one_message(name, tmp_path, monkeypatch) -> None:
    from study.model.base import load_base

    monkeypatch.chdir(tmp_path)
    model = dataclasses.replace(load_recipe("tiny-llama").model, name=name)
    with pytest.raises(ModelError, match=r"config\.json|there is no folder"):
        load_base(model, device="cpu")
    assert list(tmp_path.iterdir()) == []


WRITING = re.compile("[wax+]")
watched: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if watched is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, mode, flags = arguments
        writes = WRITING.search(mode) if isinstance(mode, str) else False
        if writes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            watched.append(os.fsdecode(path))
    elif event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir"} and arguments[-1] == -1:
        watched.extend(str(a) for a in arguments[:2] if isinstance(a, str | os.PathLike))


def test_a_run_writes_below_its_folder_and_nowhere_else(cut_short, tmp_path, monkeypatch) -> None:
    from study.compare import plan_runs
    from study.run.make import make_run

    workbench, _ = cut_short
    monkeypatch.chdir(tmp_path)
    runs, temporary = tmp_path / "runs", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (planned,) = [
        run for run in plan_runs(workbench.recipe, runs=runs, seeds=1, seed=0) if run.arm == "sft"
    ]
    sys.addaudithook(_audit)
    globals()["watched"] = []
    try:
        make_run(workbench, lambda *_: None, run=planned)
    finally:
        written, globals()["watched"] = watched or [], None

    allowed = (str(runs), str(temporary), "/dev/", "/proc/self/")
    elsewhere = [
        path for path in written if not path.startswith(allowed) and "__pycache__" not in path
    ]
    assert elsewhere == []
    assert any(path.endswith("examples.parquet") for path in map(str, runs.rglob("*")))
    assert len([path for path in written if path.startswith(str(runs))]) > 5


def test_the_report_runs_tex_without_a_shell(tmp_path, monkeypatch) -> None:
    from paper import compile as build

    started = []

    def run(command, **options):
        started.append((command, options))

    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(build.subprocess, "run", run)
    (tmp_path / "report.tex").write_text("")
    build.compile_pdf(tmp_path / "report.tex")

    ((command, options),) = started
    assert "-latexoption=-no-shell-escape" in command
    assert "-norc" in command
    assert not options.get("shell")
    assert {options["env"][name] for name in ("openin_any", "openout_any")} == {"p"}
    assert options["env"]["shell_escape"] == "f"


def test_the_page_forbids_scripts_from_elsewhere() -> None:
    template = (ROOT / "paper/templates/report.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', template)

    assert policy is not None
    rules = [rule.strip() for rule in policy[1].split(";")]
    assert "default-src 'none'" in rules
    assert [rule for rule in rules if rule.startswith("script-src")] == [
        "script-src 'sha256-{{ script_hash }}'"
    ]
    assert template.index("Content-Security-Policy") < template.index("<style>")
    assert "| safe" not in template
