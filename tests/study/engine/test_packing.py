"""Packing in whole arrays against its slow twin, which places one token after the other."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from study.cli.bench.pairs import pairs_of
from study.engine.layout import PADDING_SHARE, lay_out
from study.engine.packing import pack

lengths = st.lists(st.lists(st.integers(1, 40), min_size=3, max_size=3), min_size=1, max_size=9)


def pack_slowly(pairs, *, rejected: bool, prompt_nll: bool) -> dict:
    ids, positions, label_at, labels, label_of, conversations = [], [], [], [], [], []

    def place(new, start):
        first = len(ids)
        ids.extend(new)
        positions.extend(range(start, start + len(new)))
        return list(range(first, len(ids)))

    for number, pair in enumerate(pairs):
        prompt = place(pair.prompt_ids, 0)
        if prompt_nll:
            label_at += prompt[:-1]
            labels += pair.prompt_ids[1:]
            label_of += [number] * (len(prompt) - 1)
        answers = [pair.chosen_ids, pair.rejected_ids][: 1 + rejected]
        conversations.append((len(prompt), [len(answer_ids) for answer_ids in answers]))
        for side, answer_ids in enumerate(answers, start=1):
            answer = place(answer_ids, len(prompt))
            label_at += [prompt[-1], *answer[:-1]]
            labels += answer_ids
            label_of += [side * len(pairs) + number] * len(answer)
    counts = [label_of.count(n) for n in range(3 * len(pairs))]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "label_at": torch.tensor(label_at),
        "labels": torch.tensor(labels),
        "label_of": torch.tensor(label_of),
        "counts": torch.tensor(counts).view(3, -1),
        **lay_out_slowly(conversations),
        "has_rejected": rejected,
        "n_tokens": len(ids),
    }


def lay_out_slowly(conversations) -> dict:
    rows, query_lengths, keys, start = [], [], [], 0
    for n_prompt, answers in conversations:
        prompt = list(range(start, start + n_prompt))
        segments = [prompt]
        start += n_prompt
        for n_answer in answers:
            segments.append([*prompt, *range(start, start + n_answer)])
            start += n_answer
        rows += segments[1:] or segments
        query_lengths += [n_prompt, *answers]
        keys += segments
    groups = []
    for row in sorted(rows, key=len, reverse=True):
        together = [*groups[-1], row] if groups else []
        padded = len(together) * len(together[0]) if together else 0
        if together and sum(map(len, together)) >= (1 - PADDING_SHARE) * padded:
            groups[-1] = together
        else:
            groups.append([row])
    index, place = [], [0] * start
    for group in groups:
        padded = [row + row[-1:] * (len(group[0]) - len(row)) for row in group]
        offset = sum(map(len, index))
        for number, row in enumerate(group):
            for at, token in enumerate(row):
                place[token] = offset + number * len(group[0]) + at
        index.append([token for row in padded for token in row])
    ends = [
        torch.tensor([0, *each]).cumsum(0).to(torch.int32)
        for each in (query_lengths, list(map(len, keys)))
    ]
    return {
        "row_index": list(map(torch.tensor, index)),
        "n_rows": list(map(len, groups)),
        "row_place": torch.tensor(place),
        "key_index": torch.tensor([token for segment in keys for token in segment]),
        "query_ends": ends[0],
        "key_ends": ends[1],
        "longest_query": max(query_lengths),
        "longest_key": max(map(len, keys)),
    }


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@settings(deadline=None, max_examples=100)
@given(lengths=lengths, rejected=st.booleans(), prompt_nll=st.booleans())
def test_pairs_are_laid_out_as_by_the_slow_twin(lengths, rejected, prompt_nll) -> None:
    pairs = pairs_of(lengths, vocabulary=50, seed=len(lengths))
    arrays = pack(pairs, rejected=rejected, prompt_nll=prompt_nll)

    assert_same(arrays, pack_slowly(pairs, rejected=rejected, prompt_nll=prompt_nll))


@settings(deadline=None, max_examples=50)
@given(n_prompts=st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_prompts_without_answers_are_rows_of_their_own(n_prompts) -> None:
    conversations = [(n, []) for n in n_prompts]

    assert_same(lay_out(conversations)._asdict(), lay_out_slowly(conversations))


def test_arrays_take_a_tenth_of_the_slow_twins_time() -> None:
    """A third of that is measured; the least of a few times hears little of other programs."""
    pairs = pairs_of([[400, 350, 350]] * 8, vocabulary=50, seed=0)
    times = {pack: [], pack_slowly: []}
    for _ in range(5):
        for way, seconds in times.items():
            started = time.perf_counter()
            way(pairs, rejected=True, prompt_nll=True)
            seconds.append(time.perf_counter() - started)

    assert min(times[pack]) < min(times[pack_slowly]) / 10


@pytest.mark.gpu
def test_a_pinned_batch_is_the_same_batch() -> None:
    from study.engine.packing import pin

    batch = pack(pairs_of([[3, 4, 5]], vocabulary=50, seed=0), rejected=True, prompt_nll=True)
    pinned = pin(batch, device="cuda")

    assert all(value.is_pinned() for value in pinned.values() if isinstance(value, torch.Tensor))
    assert_same(pinned, batch)
