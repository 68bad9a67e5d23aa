"""Per-example scores on held-out pairs: log-probabilities, generation, ROUGE.

Greedy decoding under the chat template; ROUGE compares the *response* alone
with the chosen answer. Corpus figures are means of the rows written here.
"""

from pathlib import Path
from typing import Any

from study.model.workbench import Workbench
from study.records.files import write_bytes, write_jsonl
from study.records.layout import EXAMPLES, GENERATIONS
from study.run.answers import ROUGE_TYPES, generate, generation_row, generation_scores
from study.run.scores import preference_scores, score_pairs


def evaluate_run(workbench: Workbench, *, folder: Path) -> dict[str, float]:
    """Score the test split with the current adapter; write rows, return means.

    Writes ``examples.parquet``, a row per test pair, and ``generations.jsonl``.
    """
    pairs = workbench.test
    columns = score_pairs(workbench, pairs)
    answered = pairs[: workbench.recipe.evaluation.generated_answers]
    answers = generate(workbench, answered)
    blank = [None] * (len(pairs) - len(answered))
    for name in ("response_tokens", "ended", *ROUGE_TYPES, "exact_match"):
        columns[name] = [answer[name] for answer in answers] + blank
    write_bytes(folder / EXAMPLES, _parquet(columns))
    write_jsonl(folder / GENERATIONS, (generation_row(workbench, a) for a in answers))
    return {**preference_scores(columns), **generation_scores(answers)}


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"response_tokens": pa.int64(), "ended": pa.bool_()}
    kinds |= dict.fromkeys((*ROUGE_TYPES, "exact_match"), pa.float64())
    table = pa.table({name: pa.array(column, kinds.get(name)) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
