"""Where the sequences lie in a packed row, and which rows they make."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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


def lay_out(conversations: list[tuple[int, list[int]]]) -> Sequences:
    """Describe a row of tokens that holds each prompt and, after it, its answers.

    Args:
        conversations: Tokens of each prompt and of each of its answers.
    """
    rows, query_lengths, keys, start = [], [], [], 0
    for n_prompt, answers in conversations:
        prompt = list(range(start, start + n_prompt))
        segments = [prompt]
        start += n_prompt
        for n_answer in answers:
            segments.append([*prompt, *range(start, start + n_answer)])
            start += n_answer
        rows += segments[1:]
        query_lengths += [n_prompt, *answers]
        keys += segments
    row_index, n_rows, row_place = _group_rows(rows, start)
    return Sequences(
        row_index,
        n_rows,
        row_place,
        key_index=torch.tensor([token for segment in keys for token in segment]),
        query_ends=_ends(query_lengths),
        key_ends=_ends([len(segment) for segment in keys]),
        longest_query=max(query_lengths),
        longest_key=max(map(len, keys)),
    )


def _to(sequences: Sequences, device: torch.device) -> Sequences:
    return sequences._replace(
        row_index=[index.to(device) for index in sequences.row_index],
        row_place=sequences.row_place.to(device),
        key_index=sequences.key_index.to(device),
        query_ends=sequences.query_ends.to(device),
        key_ends=sequences.key_ends.to(device),
    )


def _ends(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)


def _group_rows(
    sequences: list[list[int]], n_tokens: int
) -> tuple[list[Tensor], list[int], Tensor]:
    """Group sequences of similar length into padded rows.

    Returns:
        Per group the positions it gathers (R * L,), padding repeating a row's
        last token, and R; then, for each token, where the concatenated groups
        hold its output, (T,).
    """
    index, n_rows, place, offset = [], [], [0] * n_tokens, 0
    for group in _similar(sorted(sequences, key=len, reverse=True)):
        rows: list[int] = []
        for row in group:
            for at, token in enumerate(row, start=offset + len(rows)):
                place[token] = at
            rows += row + row[-1:] * (len(group[0]) - len(row))
        index.append(torch.tensor(rows))
        n_rows.append(len(group))
        offset += len(rows)
    return index, n_rows, torch.tensor(place)


def _similar(sequences: list[list[int]]) -> list[list[list[int]]]:
    """Cut a list that falls in length so that padding stays below its share."""
    groups: list[list[list[int]]] = []
    for sequence in sequences:
        group = groups[-1] if groups else []
        padded = (len(group) + 1) * len(group[0]) if group else 0
        real = sum(map(len, group)) + len(sequence)
        if group and real >= (1 - PADDING_SHARE) * padded:
            group.append(sequence)
        else:
            groups.append([sequence])
    return groups
