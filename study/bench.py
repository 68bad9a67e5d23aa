"""What a step costs here and in TRL: same pairs, same weights, in turn, in one run.

A step is: lay out a batch, forward pass, backward pass; without the optimiser,
which is the same for both. Losses and gradients are compared before anything
is timed. TRL's side is its own `ORPOTrainer.get_batch_loss_metrics`.
"""

import contextlib
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.data import Pair, load_pairs
from study.engine import install, pack, pair_logps
from study.environment import environment, quieten
from study.errors import DataError
from study.losses import orpo
from study.tokens import Encoded, encode, prepare_tokenizer

BATCH_PAIRS = 8
BETA = 0.1
MAX_PROMPT_TOKENS, MAX_LENGTH_TOKENS = 512, 1024  # TRL's defaults
VOCABULARY, LARGE_VOCABULARY = 8_192, 128_256
SHAPE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SOURCES = {"hh": "hh_rlhf_transcripts.jsonl.gz", "sharegpt": "sharegpt_pairs.json"}
"""Real pairs by short name: files of the folder of shared data."""

LOG_LENGTHS = {
    "hh": ((4.34, 0.95), (3.35, 0.94), (3.55, 0.93)),
    "sharegpt": ((5.17, 1.07), (5.36, 1.25), (5.54, 1.05)),
}
"""Mean and deviation of the log of the real pairs' tokens: prompt, chosen, rejected."""

TOLERANCE = {False: 1e-5, True: 2e-2}
"""How far losses may lie apart, relatively: without and with bfloat16 autocast."""


class Arm(NamedTuple):
    """One way to take a step."""

    side: str
    """``trl`` or ``ours``."""
    grouped: bool = False
    """Batches of pairs of similar length instead of random ones."""
    checkpointing: bool = False
    bf16: bool = False

    @property
    def name(self) -> str:
        """Name the arm as in the table."""
        marks = ("grouped", "checkpointing", "bf16")
        return " ".join([self.side, *(mark for mark in marks if getattr(self, mark))])


BASELINE = Arm("trl")
ARMS = (
    BASELINE,
    Arm("ours"),
    Arm("ours", grouped=True),
    Arm("trl", grouped=True),
    Arm("trl", checkpointing=True),
    Arm("ours", grouped=True, checkpointing=True),
    Arm("trl", bf16=True),
    Arm("trl", checkpointing=True, bf16=True),
    Arm("ours", grouped=True, bf16=True),
)


def run(
    *,
    data: Path,
    out: Path | None = None,
    n_batches: int = 6,
    repeats: int = 3,
    seed: int = 0,
    memory: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure steps and memory against TRL; return the figures, and write them.

    Args:
        data: Folder of the real pairs; generated ones of the same lengths serve
            where it lacks a file.
        out: JSON file to write.
        n_batches: Batches of eight pairs per source.
        repeats: Times that each batch is timed for each arm; medians are taken.
        seed: Decides which pairs are taken and their order.
        memory: Also measure the peak memory of a step, in processes of their own.
        say: Told of each line of the tables as it is known.
    """
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine(), "settings": _settings(n_batches, repeats, seed)}
    report["step"] = {}
    for source in SOURCES:
        pairs, origin = sample_pairs(source, data, n_batches * BATCH_PAIRS, seed=seed)
        say(f"{source}: {len(pairs)} pairs ({origin}), one step at a time on one thread")
        arms = time_arms(build_sides(VOCABULARY, seed=seed), pairs, repeats=repeats, seed=seed)
        report["step"][source] = {"origin": origin, "arms": arms}
        for name, arm in arms.items():
            say(f"  {name:34} {arm['pairs_per_s']:8.2f} pairs/s {arm['ratio']:6.2f}x")
    if memory:
        report["memory"] = compare_memory(data, seed=seed)
        for name, size in report["memory"]["peak_bytes"].items():
            say(f"  {name:34} {size / 1e6:8.0f} MB at a vocabulary of {LARGE_VOCABULARY:,}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def time_arms(
    sides: Mapping[str, Any],
    pairs: Sequence[Encoded],
    *,
    repeats: int,
    seed: int,
    arms: Sequence[Arm] = ARMS,
) -> dict[str, dict[str, float]]:
    """Time each arm on the same pairs, in turn within each batch.

    Returns:
        By arm: pairs per second; distinct tokens per second (useful) and tokens
        through the linear layers per second (processed); the ratio of pairs per
        second to TRL without checkpointing; loss over all batches.
    """
    plans = {grouped: plan_batches(pairs, grouped=grouped, seed=seed) for grouped in (False, True)}
    losses = {arm: [step(sides, arm, batch) for batch in plans[arm.grouped]] for arm in arms}
    check_losses(losses)
    n_batches = len(plans[False])
    seconds: dict[Arm, list[list[float]]] = {arm: [[] for _ in range(n_batches)] for arm in arms}
    for _ in range(repeats):
        for number in range(n_batches):
            for arm in arms:
                batch = plans[arm.grouped][number]
                started = time.perf_counter()
                step(sides, arm, batch)
                seconds[arm][number].append(time.perf_counter() - started)
    total = {arm: sum(map(statistics.median, times)) for arm, times in seconds.items()}
    useful = sum(pair.n_tokens for pair in pairs)
    return {
        arm.name: {
            "pairs_per_s": len(pairs) / total[arm],
            "useful_tokens_per_s": useful / total[arm],
            "processed_tokens_per_s": _processed(arm, plans[arm.grouped]) / total[arm],
            "ratio": total[arms[0]] / total[arm],
            "loss": math.fsum(losses[arm]) / n_batches,
        }
        for arm in arms
    }


def check_losses(losses: Mapping[Arm, Sequence[float]]) -> None:
    """Refuse to time arms that do not compute the same thing.

    Raises:
        DataError: an arm's loss on a batch differs from TRL's in float32.
    """
    reference = {
        arm.grouped: values
        for arm, values in losses.items()
        if arm._replace(grouped=False) == BASELINE
    }
    for arm, values in losses.items():
        for number, (value, expected) in enumerate(
            zip(values, reference[arm.grouped], strict=True)
        ):
            if not math.isclose(value, expected, rel_tol=TOLERANCE[arm.bf16]):
                raise DataError(
                    f"batch {number}: {arm.name} gives a loss of {value}, TRL {expected}; "
                    "arms that compute different things are not timed"
                )


def plan_batches(pairs: Sequence[Encoded], *, grouped: bool, seed: int) -> list[list[Encoded]]:
    """Cut shuffled pairs into batches of eight; grouped: of similar length."""
    generator = torch.Generator().manual_seed(seed)
    order = [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]
    if grouped:
        order.sort(key=lambda pair: pair.n_tokens, reverse=True)
    return [order[i : i + BATCH_PAIRS] for i in range(0, len(order), BATCH_PAIRS)]


def step(sides: Mapping[str, Any], arm: Arm, pairs: Sequence[Encoded]) -> float:
    """Lay out a batch and run it forward and backward; return the loss."""
    model = sides[arm.side]
    model.zero_grad(set_to_none=True)
    with _checkpointing(model, on=arm.checkpointing):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arm.bf16):
            loss = _our_loss(model, pairs) if arm.side == "ours" else _trl_loss(model, pairs)
        loss.backward()
    return loss.item()


def build_sides(
    vocabulary: int, *, seed: int, sides: Sequence[str] = ("trl", "ours")
) -> dict[str, Any]:
    """Return the same random Llama with LoRA for each side, ours prepared for packing."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    built = {}
    for side in sides:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            causal = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SHAPE))
            if side == "ours":
                install(causal)
            lora = LoraConfig(
                task_type="CAUSAL_LM",
                r=16,
                lora_alpha=32,
                target_modules="all-linear",
                init_lora_weights=False,
            )
            built[side] = get_peft_model(causal, lora).train()
    return built


def sample_pairs(source: str, data: Path, n_pairs: int, *, seed: int) -> tuple[list[Encoded], str]:
    """Draw pairs of a source as tokens; say whether they are real or generated."""
    file = data / SOURCES[source]
    if not file.is_file():
        return generate_pairs(source, n_pairs, seed=seed), "generated: no real pairs here"
    tokenizer = train_tokenizer(tuple(_load(path) for path in _files(data)))
    usable = []
    pairs = _load(file)
    generator = torch.Generator().manual_seed(seed)
    for index in torch.randperm(len(pairs), generator=generator).tolist():
        with contextlib.suppress(DataError):  # sides that are equal once they are cut
            usable.append(
                encode(
                    pairs[index],
                    tokenizer,
                    max_prompt_tokens=MAX_PROMPT_TOKENS,
                    max_length_tokens=MAX_LENGTH_TOKENS,
                )
            )
        if len(usable) == n_pairs:
            break
    return usable, "real"


def generate_pairs(source: str, n_pairs: int, *, seed: int) -> list[Encoded]:
    """Return random tokens with log-normal lengths like those of the real pairs."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number in range(n_pairs):
        lengths = [
            int(math.exp(mean + deviation * torch.randn((), generator=generator).item()))
            for mean, deviation in LOG_LENGTHS[source]
        ]
        prompt, chosen, rejected = (
            tuple(torch.randint(3, VOCABULARY, (max(2, n),), generator=generator).tolist())
            for n in lengths
        )
        prompt = prompt[-MAX_PROMPT_TOKENS:]
        room = MAX_LENGTH_TOKENS - len(prompt)
        pairs.append(
            Encoded(str(number), str(number), source, prompt, chosen[:room], rejected[:room])
        )
    return pairs


def train_tokenizer(sources: Sequence[Sequence[Pair]]) -> Any:
    """Train byte-level BPE of 8,192 tokens on the texts of pairs, with ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        (m.content for pairs in sources for p in pairs for m in (*p.prompt, *p.chosen)),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - 3,  # ChatML's two tokens and padding follow
            special_tokens=["<|end_of_text|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end_of_text|>")
    prepare_tokenizer(tokenizer)
    return tokenizer


def compare_memory(data: Path, *, seed: int) -> dict[str, Any]:
    """Return the peak memory of a step over the loaded model, by arm.

    Each arm runs in a process of its own, on the same eight pairs, cut so that
    TRL's logits fit into this machine's memory.
    """
    arms = [BASELINE, Arm("trl", checkpointing=True), Arm("ours"), Arm("ours", checkpointing=True)]
    length = _longest_that_fits()
    peaks = {}
    for arm in arms:
        order = json.dumps({"arm": arm, "data": str(data), "seed": seed, "length": length})
        command = [sys.executable, "-m", "study.bench", "--memory-of", order]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own module
        peaks[arm.name] = int(done.stdout.split()[-1])
    return {"vocabulary": LARGE_VOCABULARY, "longest_answer_tokens": length, "peak_bytes": peaks}


def step_memory(arm: Arm, data: Path, *, seed: int, length: int) -> int:
    """Return by how many bytes one step raises this process's resident memory."""
    torch.set_num_threads(1)
    pairs, _ = sample_pairs("hh", data, BATCH_PAIRS, seed=seed)
    half = length // 2
    cut = [
        Encoded(
            p.example_id,
            p.cluster_id,
            p.source,
            p.prompt_ids[-half:],
            p.chosen_ids[:half],
            p.rejected_ids[:half],
        )
        for p in pairs
    ]
    sides = build_sides(LARGE_VOCABULARY, seed=seed, sides=[arm.side])
    step(sides, arm, [Encoded("", "", "", (5, 6), (7, 8), (9,))])  # libraries' own buffers
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts here
    before = _status_bytes("VmRSS")
    step(sides, arm, cut)
    return _status_bytes("VmHWM") - before


def machine() -> dict[str, Any]:
    """Say where the figures come from."""
    return {
        **environment("cpu"),
        "processor": _processor(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def _our_loss(model: Any, pairs: Sequence[Encoded]) -> Tensor:
    logps = pair_logps(model, pack(pairs, rejected=True, prompt_nll=True))
    n_tokens = sum(len(pair.prompt_ids) - 1 + len(pair.chosen_ids) for pair in pairs)
    return orpo(logps, n_tokens=n_tokens, n_pairs=len(pairs), beta=BETA)


def _trl_loss(model: Any, pairs: Sequence[Encoded]) -> Tensor:
    from trl.experimental.orpo import ORPOTrainer

    trainer: Any = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.is_encoder_decoder, trainer.aux_loss_enabled = BETA, False, False
    trainer.padding_value = 0
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda value: value
    )
    loss: Tensor = trainer.get_batch_loss_metrics(model, padded_batch(pairs))[0]
    return loss


def padded_batch(pairs: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return pairs as TRL's collator hands them to its trainer."""
    batch = {}
    for side in ("chosen", "rejected"):
        answers = [getattr(pair, f"{side}_ids") for pair in pairs]
        rows = [[*pair.prompt_ids, *ids] for pair, ids in zip(pairs, answers, strict=True)]
        width = max(map(len, rows))
        batch[f"{side}_input_ids"] = _pad(rows, width, 0)
        batch[f"{side}_attention_mask"] = _pad([[1] * len(row) for row in rows], width, 0)
        hidden = [[-100] * len(pair.prompt_ids) for pair in pairs]
        labels = [[*start, *ids] for start, ids in zip(hidden, answers, strict=True)]
        batch[f"{side}_labels"] = _pad(labels, width, -100)
    return batch


def _pad(rows: Sequence[Sequence[int]], width: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


@contextlib.contextmanager
def _checkpointing(model: Any, *, on: bool) -> Iterator[None]:
    causal = model.get_base_model()
    if on:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    yield
    if on:
        causal.activation_checkpointing_disable()


def _processed(arm: Arm, batches: Sequence[Sequence[Encoded]]) -> int:
    """Count the tokens that pass through the linear layers."""
    if arm.side == "ours":
        return sum(pair.n_tokens for batch in batches for pair in batch)
    longest = (
        max(
            len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
            for pair in batch
        )
        for batch in batches
    )
    return sum(2 * len(batch) * width for batch, width in zip(batches, longest, strict=True))


def _settings(n_batches: int, repeats: int, seed: int) -> dict[str, Any]:
    return {
        "n_batches": n_batches,
        "batch_pairs": BATCH_PAIRS,
        "repeats": repeats,
        "seed": seed,
        "vocabulary": VOCABULARY,
        "adapter": "LoRA r 16 on all linear layers",
        **SHAPE,
    }


def _files(data: Path) -> list[Path]:
    return [data / name for name in SOURCES.values() if (data / name).is_file()]


def _load(file: Path) -> tuple[Pair, ...]:
    from study.config import load_recipe

    recipe = load_recipe("tiny-llama").override([f"data.name={file}"])
    return tuple(load_pairs(recipe.data).pairs)


def _longest_that_fits() -> int:
    """Return how long TRL's rows may be: about six float32 copies of its logits."""
    row_bytes = 6 * 2 * BATCH_PAIRS * LARGE_VOCABULARY * 4
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(32, min(MAX_LENGTH_TOKENS, int(0.5 * available) // row_bytes))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(field)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from a command line: ``python -m study.bench``."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of:
        order = json.loads(options.memory_of)
        arm, data = Arm(*order.pop("arm")), Path(order.pop("data"))
        print(step_memory(arm, data, **order))  # noqa: T201 - the parent process reads it
        return
    run(
        data=options.data,
        out=options.out,
        n_batches=options.batches,
        repeats=options.repeats,
        memory=not options.no_memory,
    )


if __name__ == "__main__":
    quieten()
    main()
