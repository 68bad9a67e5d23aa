"""What the benchmark measured beside TRL, as rows of a table and panels of a figure.

Ratios are above one where this study is cheaper. Parts that were not measured
have no rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from analysis.printing import number, percent
from analysis.rows import Bench, BenchRow
from study.arms import BASELINE, UNTRAINED
from study.errors import RecordError
from study.records.layout import BENCH

Report = Mapping[str, Any]


SOURCES = {"hh": "HH-RLHF", "sharegpt": "ShareGPT"}


PRECOMPUTED = "TRL with precomputed references"


STEPS = (
    ("float32", "TRL", "ours grouped", "trl"),
    ("float32, both in random batches", "TRL", "ours", "trl"),
    ("float32, both in batches grouped by length", "TRL", "ours grouped", "trl grouped"),
    ("float32", "TRL with checkpointing, its default", "ours grouped", "trl checkpointing"),
    ("bf16 autocast", "TRL", "ours grouped bf16", "trl bf16"),
    (
        "bf16 autocast",
        "TRL with checkpointing, its default",
        "ours grouped bf16",
        "trl checkpointing bf16",
    ),
    ("SFT in float32, both in random batches", "TRL", "ours sft", "trl sft"),
    ("DPO in float32, both in random batches", PRECOMPUTED, "ours dpo", "trl dpo"),
)
"""How a step is taken, what it is compared with, and the arms of both."""


MEMORY = (
    ("without checkpointing", "TRL", "ours", "trl"),
    ("with checkpointing", "TRL with checkpointing", "ours checkpointing", "trl checkpointing"),
    ("SFT without checkpointing", "TRL", "ours sft", "trl sft"),
    ("DPO without checkpointing", PRECOMPUTED, "ours dpo", "trl dpo"),
)


ANSWERS = {UNTRAINED: "untuned base (long answers)", BASELINE: "after SFT (short answers)"}


GPU = (
    ("ours segments", "TRL's defaults", "trl checkpointing"),
    ("ours segments", "TRL without checkpointing", "trl"),
)
"""Our way, what it is compared with in words, and TRL's way."""


def bench_table(report: Report | None) -> Bench | None:
    """Turn the benchmark's file into a table; None where there is no file."""
    if not report:
        return None
    parts = {
        "steps": _steps,
        "gpu": _gpu,
        "memory": _memory,
        "evaluation": _evaluation,
        "search": _search,
        "scale": _scale,
    }
    with as_measured():
        rows = [row for name, of in parts.items() if name in report for row in of(report[name])]
        remarks, signature = tuple(_remarks(report)), _signature(report)
    return Bench(rows=tuple(rows), remarks=remarks, signature=signature)


@contextmanager
def as_measured() -> Iterator[None]:
    """Say in one message that the benchmark's file has not the shape that is read."""
    try:
        yield
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
    ) as error:
        raise RecordError(
            f"{BENCH} beside the records has another shape ({type(error).__name__}: {error}); "
            "measure again with `study bench`, or move the file away"
        ) from error


def _steps(part: Report) -> Iterator[BenchRow]:
    for source, found in part["sources"].items():
        arms = found["arms"]
        for how, reference, ours, theirs in STEPS:
            if ours in arms and theirs in arms:
                yield _faster(
                    f"training step, {SOURCES[source]}, {how}",
                    reference,
                    arms[ours]["pairs_per_s"],
                    arms[theirs]["pairs_per_s"],
                )


def _gpu(part: Report) -> Iterator[BenchRow]:
    for case, ways in part.get("steps", {}).items():
        for how, reference, theirs in GPU:
            yield _faster(
                f"step on a GPU, {case}",
                f"{reference} (ours: {percent(ways[how]['ceiling_share'])} of the device's "
                "products)",
                ways[how]["pairs_per_s"],
                ways[theirs]["pairs_per_s"],
            )


def _memory(part: Report) -> Iterator[BenchRow]:
    peaks = part["peak_bytes"]
    for how, reference, ours, theirs in MEMORY:
        if ours in peaks and theirs in peaks:
            yield _less(
                f"peak memory of a step, vocabulary of {part['vocabulary']:,}, {how}",
                reference,
                peaks[ours],
                peaks[theirs],
                "bytes",
            )


def _evaluation(part: Report) -> Iterator[BenchRow]:
    for source, found in part["log_probabilities"].items():
        yield _faster(
            f"log-probabilities, {SOURCES[source]}",
            "TRL's padded batches",
            found["n_pairs"] / found["ours_s"],
            found["n_pairs"] / found["trl_s"],
        )
    for model, found in part["generation"]["models"].items():
        yield _faster(
            f"greedy answers, {ANSWERS[model]}",
            "one prompt at a time",
            found["n_prompts"] / found["ours_s"],
            found["n_prompts"] / found["one_at_a_time_s"],
            "prompts/s",
        )


def _search(part: Report) -> Iterator[BenchRow]:
    subject = f"search of {part['n_trials']} trials"
    for how, name in (("without pruning", "ours_s_worked_out"), ("with pruning", "ours_pruned_s")):
        reference = "a process with TRL for each setting"
        yield _less(f"{subject}, {how}", reference, part[name], part["loop_s_worked_out"], "s")


def _scale(part: Report) -> Iterator[BenchRow]:
    pairs = part["pairs"]
    ours, theirs = pairs["ours"], pairs["datasets_alone"]
    subject = f"{pairs['n_pairs']:,} pairs read, split and encoded"
    seconds, their_s = (sum(side["cpu_s"].values()) for side in (ours, theirs))
    yield _less(f"{subject}, seconds of a core", "`datasets` alone", seconds, their_s, "s")
    peak, their_peak = ours["peak_bytes"], theirs["peak_bytes"]
    yield _less(f"{subject}, peak memory", "`datasets` alone", peak, their_peak, "bytes")


def _faster(
    subject: str, reference: str, ours: float, theirs: float, unit: str = "pairs/s"
) -> BenchRow:
    return BenchRow(
        subject=subject,
        reference=reference,
        ours=ours,
        theirs=theirs,
        unit=unit,
        ratio=ours / theirs,
    )


def _less(subject: str, reference: str, ours: float, theirs: float, unit: str) -> BenchRow:
    return BenchRow(
        subject=subject,
        reference=reference,
        ours=ours,
        theirs=theirs,
        unit=unit,
        ratio=theirs / ours,
    )


def _remarks(report: Report) -> Iterator[str]:
    quick = [name for name, part in report.items() if part["quick"]]
    if quick:
        yield (
            f"Measured with --quick, which shows that everything runs and not how fast: "
            f"{', '.join(quick)}."
        )
    for source, found in report.get("steps", {}).get("sources", {}).items():
        yield (
            f"{SOURCES[source]}: {found['n_pairs']} pairs ({found['origin']}), eight a step; "
            f"{percent(found['padding_share'])} of the tokens in TRL's random batches are padding "
            f"({percent(found['padding_share_of_all'])} over many batches), "
            f"{percent(found['padding_share_grouped'])} once batches are grouped by length."
        )
    for model, found in (
        report.get("evaluation", {}).get("generation", {}).get("models", {}).items()
    ):
        yield (
            f"Greedy answers, {ANSWERS[model]}: {number(found['mean_tokens'], 1)} tokens on "
            f"average; {percent(found['differing_share'])} differ from those made one at a time."
        )
    if not report.get("gpu", {}).get("device_name"):
        yield "Steps of the full-size models were not measured: there was no GPU."
    if search := report.get("search"):
        yield (
            f"The loop's time for {search['n_trials']} trials is worked out from "
            f"{len(search['loop'])} that were run with TRL's default checkpointing, ours without "
            f"pruning from {len(search['ours']['trials'])}; with pruning "
            f"{len(search['ours_pruned']['trials'])} were run, {search['ours_pruned']['n_pruned']} "
            f"of them pruned. Against TRL without checkpointing, from "
            f"{len(search['loop_fast'])} trials, ours with pruning is "
            f"{number(search['loop_fast_s_worked_out'] / search['ours_pruned_s'], 1)}× cheaper. "
            f"Beyond training and validation a trial costs "
            f"{number(100 * search['overhead_share'], 1)}\N{NO-BREAK SPACE}%."
        )
    if engine := report.get("engine"):
        yield _engine_remark(engine)
    if scale := report.get("scale"):
        yield from _scale_remarks(scale)


def _engine_remark(part: Report) -> str:
    answers, dropout = part["generation"], part["dropout"]
    return (
        f"At the shape of SmolLM2-135M on one core, answers of {number(answers['mean_tokens'], 0)} "
        f"tokens to {answers['n_prompts']} prompts come {number(answers['ratio'], 1)}× as fast in "
        f"slots, with the adapter merged, as in batches of {answers['batch_prompts']} without; "
        f"{percent(answers['differing_share'])} differ. Dropout of {dropout['share']:g} makes a "
        f"step take {number(dropout['time_ratio'], 2)}× the time and "
        f"{number(dropout['memory_ratio'], 2)}× the memory; "
        f"{part['packing']['n_tokens']:,} tokens are laid out in "
        f"{number(1e3 * part['packing']['seconds'], 1)} ms."
    )


def _scale_remarks(part: Report) -> Iterator[str]:
    last = max(part["trials"], key=lambda point: (point["n_trials"], -point["workers"]))
    runs, pairs = part["runs"][-1], part["pairs"]
    yield (
        f"Beside its training a trial costs {number(1e3 * last['cpu_s_per_trial'], 0)} ms of a "
        f"core in a search of {last['n_trials']:,}; `study status` of {runs['n_runs']:,} runs "
        f"costs {number(runs['status_cpu_s'], 1)} s, `study report` "
        f"{number(runs['report_cpu_s'], 0)} s."
    )
    ours, alone = (pairs[side]["cpu_s"]["encode"] for side in ("ours", "tokenizer_alone"))
    yield (
        f"Encoding {pairs['n_pairs']:,} pairs ({number(pairs['file_bytes'] / 1e6, 0)} MB) costs "
        f"{number(ours, 0)} s of a core, the tokenizer's own part of it {number(alone, 0)} s; all "
        f"of it takes {number(pairs['ours']['peak_bytes'] / pairs['file_bytes'], 1)} times the "
        "file's size in memory."
    )


def _signature(report: Report) -> str:
    """Name the machine, the libraries and the code of all parts in one line."""

    def all_of(values: Iterator[str]) -> str:
        return "+".join(dict.fromkeys(values))

    parts = list(report.values())
    libraries = ("torch", "transformers", "trl")
    return "|".join(
        [
            f"processor:{all_of(part['processor'] for part in parts)}",
            *(
                f"{name}:{all_of(part['versions'].get(name, 'none') for part in parts)}"
                for name in libraries
            ),
            f"git:{all_of(part['git'] for part in parts)}",
            f"measured:{all_of(part['measured_at'][:10] for part in parts)}",
        ]
    )
