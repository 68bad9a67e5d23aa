"""Where the sequences lie in a packed row, and which rows they make."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.int64]]

PADDING_SHARE = 0.1
"""A group of rows is closed before padding would exceed this share of it."""


class Sequences(NamedTuple):
    """Where the sequences of a packed row lie, for both forms of attention."""

    row_index: list[Tensor]  # per group (R * L,): token at each place of its rows
    n_rows: list[int]  # per group R
    row_place: Tensor  # (T,): where the concatenated groups hold a token's output
    key_index: Tensor  # (K,): token of each key, segment after segment
    query_ends: Tensor  # (segments + 1,) int32, from 0: queries are the row itself
    key_ends: Tensor  # (segments + 1,) int32, from 0
    longest_query: int
    longest_key: int  # also the length of the longest row


class _Segment(NamedTuple):
    """Tokens that see a prompt and themselves, as two spans: first token and length of each."""

    prompt: int
    n_shared: int
    own: int
    n_own: int

    @property
    def n_keys(self) -> int:
        return self.n_shared + self.n_own


def lay_out(conversations: Iterable[tuple[int, Iterable[int]]]) -> Sequences:
    """Describe a row of tokens that holds each prompt and, after it, its answers.

    Args:
        conversations: Tokens of each prompt and of each of its answers; a prompt
            without any is a row of its own.
    """
    segments: list[_Segment] = []
    rows: list[_Segment] = []
    start = 0
    for n_prompt, answers in conversations:
        prompt = start
        mine = [_Segment(prompt, 0, start, n_prompt)]
        start += n_prompt
        for n_answer in answers:
            mine.append(_Segment(prompt, n_prompt, start, n_answer))
            start += n_answer
        rows += mine[1:] or mine
        segments += mine
    row_index, n_rows, row_place = _group_rows(rows, start)
    parts = np.array(segments).reshape(-1, 2)  # of its keys: the prompt's, then its own
    return Sequences(
        row_index,
        n_rows,
        row_place,
        key_index=torch.from_numpy(spans(*parts.T)),
        query_ends=_ends([segment.n_own for segment in segments]),
        key_ends=_ends([segment.n_keys for segment in segments]),
        longest_query=max(segment.n_own for segment in segments),
        longest_key=max(segment.n_keys for segment in segments),
    )


def spans(firsts: Array, lengths: Array) -> Array:
    """Return the whole numbers from each first one on, so many of each, one after the other."""
    ends = lengths.cumsum()
    found: Array = np.arange(ends[-1]) + np.repeat(firsts - ends + lengths, lengths)
    return found


def on_device(sequences: Sequences, device: torch.device) -> Sequences:
    """Bring the tensors to a device."""
    return sequences._replace(
        row_index=[index.to(device) for index in sequences.row_index],
        row_place=sequences.row_place.to(device),
        key_index=sequences.key_index.to(device),
        query_ends=sequences.query_ends.to(device),
        key_ends=sequences.key_ends.to(device),
    )


def _ends(lengths: list[int]) -> Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32))


def _group_rows(rows: list[_Segment], n_tokens: int) -> tuple[list[Tensor], list[int], Tensor]:
    """Group sequences of similar length into padded rows.

    Returns:
        Per group the positions it gathers (R * L,), padding repeating a row's
        last token, and R; then, for each token, where the concatenated groups
        hold its output, (T,): of a shared prompt, in the last of its rows.
    """
    index, n_rows, place, offset = [], [], np.zeros(n_tokens, dtype=np.int64), 0
    for group in _similar(sorted(rows, key=lambda row: row.n_keys, reverse=True)):
        prompt, n_shared, own, n_own = np.array(group).T[:, :, None]  # (R, 1) each
        n_keys = n_shared + n_own
        column = np.arange(group[0].n_keys)  # (L,)
        behind = own - n_shared + np.minimum(column, n_keys - 1)
        tokens = np.where(column < n_shared, prompt + column, behind)  # (R, L)
        real = column < n_keys
        place[tokens[real]] = offset + np.flatnonzero(real)
        index.append(torch.from_numpy(tokens.ravel()))
        n_rows.append(len(group))
        offset += tokens.size
    return index, n_rows, torch.from_numpy(place)


def _similar(rows: list[_Segment]) -> list[list[_Segment]]:
    """Cut a list that falls in length so that padding stays below its share."""
    groups: list[list[_Segment]] = []
    real = 0
    for row in rows:
        padded = (len(groups[-1]) + 1) * groups[-1][0].n_keys if groups else 0
        real += row.n_keys
        if groups and real >= (1 - PADDING_SHARE) * padded:
            groups[-1].append(row)
        else:
            groups.append([row])
            real = row.n_keys
    return groups
