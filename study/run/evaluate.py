"""Per-example scores on held-out pairs: log-probabilities, generation, ROUGE.

Greedy decoding under the chat template, one answer per distinct prompt; ROUGE
compares the *response* alone with the chosen answer (`study.run.prompts`).
Corpus figures are means of the rows written here.
"""

from pathlib import Path
from typing import Any

from study.model.workbench import Workbench
from study.records.files import write_bytes, write_jsonl
from study.records.layout import EXAMPLES, GENERATIONS
from study.run.answers import generate, generation_scores
from study.run.prompts import GENERATED
from study.run.scores import preference_scores, score_pairs


def evaluate_run(workbench: Workbench, *, folder: Path | None) -> dict[str, float]:
    """Score the test split with the current adapter; write rows, return means.

    Writes ``examples.parquet``, a row per test pair, and ``generations.jsonl``; nothing
    without a folder, as in a process that only helps.
    """
    pairs = workbench.test
    columns = score_pairs(workbench, pairs)
    answers = generate(workbench, pairs, limit=workbench.recipe.evaluation.generated_answers)
    answered = {answer["example_id"]: answer for answer in answers}
    for name in GENERATED:
        columns[name] = [answered.get(row, {}).get(name) for row in columns["example_id"]]
    if folder is not None:
        write_bytes(folder / EXAMPLES, _parquet(columns))
        write_jsonl(folder / GENERATIONS, (answer["row"] for answer in answers))
    return {**preference_scores(columns), **generation_scores(answers)}


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"response_tokens": pa.int64(), "ended": pa.bool_()}
    kinds |= dict.fromkeys(set(GENERATED) - kinds.keys(), pa.float64())
    table = pa.table({name: pa.array(column, kinds.get(name)) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
