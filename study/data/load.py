"""From a source to pairs, with every row that could not be used counted by reason."""

import contextlib
import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.config.recipe import DataConfig
from study.data.forms import (
    COLUMNS,
    Form,
    columns_of,
    forms_of,
    most_frequent,
    read_row,
)
from study.data.pairs import Pair
from study.data.sources import TOY, read_rows, source_name
from study.data.turns import Unusable, is_turn, parse_turns
from study.errors import DataError, nearest

SHOWN_ROWS = 8
"""Row numbers that a message lists per reason."""


SCORED = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"),
)
"""Columns that may hold how good the two answers were found to be."""


TURN_KEYS = {"role", "from", "content", "value", "weight", "index", "name", "tool_calls"}
"""Keys of a turn that are read, or say nothing that an answer could be without."""


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """The usable pairs of a source, and what became of its other rows."""

    pairs: tuple[Pair, ...]
    form: str
    n_rows: int
    dropped: Mapping[str, tuple[int, ...]]
    """Reason -> numbers of the rows dropped for it, counted from 1; a row that
    offers several pairs may stand there for some of them."""
    unread: tuple[str, ...] = ()
    """Columns, and keys of turns, that nothing was made of."""
    swapped: str = ""
    """Where scores beside the answers say that they may stand on the wrong sides."""

    @property
    def n_dropped(self) -> int:
        """How many pairs that the rows offer cannot be used."""
        return sum(map(len, self.dropped.values()))


def load_pairs(config: DataConfig) -> LoadedPairs:
    """Read every usable pair of a source and count the rows that are not.

    Raises:
        DataError: the source cannot be read, its form is not known, or more
            than ``max_dropped_share`` of its rows cannot be used.
    """
    with _without_collection():
        return _load_pairs(config)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Spare millions of young objects, none of them in a circle, the search for circles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load_pairs(config: DataConfig) -> LoadedPairs:
    if config.name == TOY:
        from study.data.toy import toy_pairs

        toy = tuple(toy_pairs(seed=config.seed))
        return LoadedPairs(toy, form="toy", n_rows=len(toy), dropped={})
    rows = read_rows(config)
    if not rows:
        raise DataError(f"{config.name} has no rows; name a source that has some")
    rows = _renamed(rows, config.columns, config.name)
    _parse_columns(rows)
    forms = forms_of(rows)
    form = most_frequent(forms, rows, config.name)
    loaded = _convert(rows, forms, form, source_name(config.name))
    _check_dropped(loaded, config)
    return loaded


def dropped_lines(dropped: Mapping[str, Sequence[int]]) -> list[str]:
    """Describe dropped rows, one line per reason, the most frequent first."""
    return [
        f"{reason}: {len(rows)} (row{'s' * (len(rows) > 1)} "
        f"{', '.join(map(str, rows[:SHOWN_ROWS]))}{', …' * (len(rows) > SHOWN_ROWS)})"
        for reason, rows in sorted(dropped.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _renamed(rows: list[Any], columns: Mapping[str, str], source: str) -> list[Any]:
    """Give the user's columns the names that they are read by.

    Raises:
        DataError: no row has such a column, or no form reads such a name.
    """
    if not columns:
        return rows
    there = columns_of(rows)
    for name, ours in columns.items():
        if name not in there:
            raise DataError(
                f"data.columns maps {name!r}, which {source} does not have{nearest(name, there)}; "
                f"its columns are {', '.join(there) or '(none)'}"
            )
        if ours and ours not in COLUMNS:
            raise DataError(
                f"data.columns maps {name!r} to {ours!r}, which no form reads"
                f"{nearest(ours, COLUMNS)}; take one of {', '.join(sorted(COLUMNS))}, or an empty "
                "name to leave the column out"
            )
    hidden = {*columns, *columns.values()}
    return [
        {name: value for name, value in row.items() if name not in hidden}
        | {ours: row[name] for name, ours in columns.items() if ours and name in row}
        if isinstance(row, dict)
        else row
        for row in rows
    ]


def _parse_columns(rows: Sequence[Any]) -> None:
    """Read columns whose texts are mostly turns written as JSON as what they are, in place."""
    records = [row for row in rows if isinstance(row, dict)]
    for column in columns_of(records):
        texts = [row for row in records if isinstance(row.get(column), str) and row[column]]
        if not any(row[column].lstrip()[:1] in {"[", "{"} for row in texts[:SAMPLE]):
            continue
        found = [(row, turns) for row in texts if (turns := parse_turns(row[column])) is not None]
        if 2 * len(found) > len(texts):
            for row, turns in found:
                row[column] = turns


SAMPLE = 1000
"""Rows that are looked at where all would take long."""


def _convert(rows: list[Any], forms: Sequence[Form | None], form: Form, source: str) -> LoadedPairs:
    pairs: dict[str, Pair] = {}
    dropped: dict[str, list[int]] = defaultdict(list)
    unread, swapped = _unread(rows, form), _swapped(rows)
    for number, (row, other) in enumerate(zip(_let_go(rows), forms, strict=True), start=1):
        if other and other.convert is not form.convert and not form.begins_as:
            dropped[f"a row of another form: {other.name}"].append(number)
            continue
        for pair in read_row(row, form, source):
            if isinstance(pair, Unusable):
                dropped[str(pair)].append(number)
            elif pair.example_id in pairs:
                dropped["duplicate pair"].append(number)
            else:
                pairs[pair.example_id] = pair
    return LoadedPairs(
        tuple(pairs.values()),
        form=form.name,
        n_rows=len(rows),
        dropped={reason: tuple(numbers) for reason, numbers in dropped.items()},
        unread=unread,
        swapped=swapped,
    )


def _let_go(rows: list[Any]) -> Iterator[Any]:
    """Yield rows and forget each: what it takes in memory beside its text goes to its pair."""
    for index, row in enumerate(rows):
        rows[index] = None
        yield row


def _unread(rows: Sequence[Any], form: Form) -> tuple[str, ...]:
    """List columns that the form does not read, and keys of turns that nothing reads."""
    columns = columns_of(rows)
    unread = [name for name in columns if name not in form.reads()]
    keys = {
        f"{name}[].{key}": None
        for row in rows[:SAMPLE]
        if isinstance(row, dict)
        for name in form.columns
        if isinstance(turns := row.get(name), list)
        for turn in turns
        if is_turn(turn)
        for key, value in turn.items()
        if key not in TURN_KEYS and value not in (None, "", [], {})
    }
    return tuple(name or "(a column without a name)" for name in (*unread, *keys))


def _swapped(rows: Sequence[Any]) -> str:
    """Say where the scores of the answers go against their sides in most rows."""
    for better, worse in SCORED:
        scores = [
            (row[better], row[worse])
            for row in rows
            if isinstance(row, dict)
            and all(isinstance(row.get(name), (int, float)) for name in (better, worse))
        ]
        against = sum(chosen < rejected for chosen, rejected in scores)
        if 2 * against > len(scores):
            return f"{better} is below {worse} in {against} of {len(scores)} rows"
    return ""


def _check_dropped(loaded: LoadedPairs, config: DataConfig) -> None:
    n_offered = loaded.n_dropped + len(loaded.pairs)
    if loaded.pairs and loaded.n_dropped <= config.max_dropped_share * n_offered:
        return
    reasons = "".join(f"\n  {line}" for line in dropped_lines(loaded.dropped))
    raise DataError(
        f"{loaded.n_dropped} of {n_offered} rows of {config.name}, read as {loaded.form}, cannot "
        f"be used; data.max_dropped_share allows {config.max_dropped_share:.0%}:{reasons}\n"
        "mend these rows, or allow more with --set data.max_dropped_share=SHARE"
    )
