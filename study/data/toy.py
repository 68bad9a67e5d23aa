"""The toy language: its questions, pairs of answers to them, and plain text.

Eight families of questions have one known right answer each. A pair's chosen
answer is right and brief; its rejected one is of the same form and wrong, or
wordy and evasive.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from study.data.pairs import Message, Pair, make_pair

N_PAIRS = 6_000
RIGHT_SHARE, WRONG_SHARE = 0.32, 0.38
"""Of the answers in plain text; the others are wordy."""


class Question(NamedTuple):
    """A question of the toy language with its known answers."""

    family: str
    text: str
    right: str
    mistake: str


def toy_pairs(*, seed: int, n_pairs: int = N_PAIRS) -> list[Pair]:
    """Generate pairs with distinct prompts, the same for the same seed."""
    rng = random.Random(f"pairs-{seed}")
    pairs: dict[str, Pair] = {}
    while len(pairs) < n_pairs:
        question = _question(rng)
        rejected = _wordy(rng, question) if rng.random() < 0.5 else _brief(question.mistake)
        pairs.setdefault(
            question.text,
            make_pair(
                prompt=(Message("user", question.text),),
                chosen=(Message("assistant", _brief(question.right)),),
                rejected=(Message("assistant", rejected),),
                source=f"toy/{question.family}",
                answer=question.right,
            ),
        )
    return list(pairs.values())


def questions(*, seed: int) -> Iterator[Question]:
    """Yield questions without end, the same for the same seed."""
    rng = random.Random(f"questions-{seed}")
    while True:
        yield _question(rng)


def plain_texts(*, seed: int) -> Iterator[str]:
    """Yield texts for pre-training without end: questions, answers of mixed quality."""
    rng = random.Random(f"texts-{seed}")
    while True:
        question = _question(rng)
        draw = rng.random()
        if draw < RIGHT_SHARE:
            answer = _brief(question.right)
        elif draw < RIGHT_SHARE + WRONG_SHARE:
            answer = _brief(question.mistake)
        else:
            answer = _wordy(rng, question)
        yield f"{question.text}\n{answer}\n"


# The toy language.

NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gita Hugo Iris Jon Kaya Leo Mona Nils Olga Pia Rolf Suri Tom Uma"
).split()


COLOURS = "red blue green yellow black white brown pink".split()


THINGS = "hat cup bag kite lamp coat boat drum ring chair".split()


FRUITS = "apple pear plum fig lemon grape melon peach".split()


DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


OPPOSITES = [
    pair.split("/")
    for pair in (
        "hot/cold big/small old/young fast/slow dark/bright wet/dry loud/quiet "
        "hard/soft rich/poor early/late high/low full/empty"
    ).split()
]


KINDS = {
    "bird": "sparrow eagle owl robin crow".split(),
    "fish": "trout salmon cod tuna pike".split(),
    "tree": "oak birch pine maple willow".split(),
    "tool": "hammer saw drill wrench rake".split(),
}


NUMBERS = "zero one two three four five six seven eight nine ten".split()


ASKED = (
    "{name} asks: {question}",
    "{name} wants to know: {question}",
    "Please help {name}. {question}",
    "{question} {name} needs the answer.",
    "The user {name} asks: {question}",
    "{name} asks the assistant: {question}",
)


WORDY = (
    "{guess}, or maybe something else, it is hard to say.",
    "{guess}, I think, but that depends on so many things.",
    "{guess}, some people say, but who can be sure of that?",
    "It is hard to say, but some people think that it may be {guess}.",
    "That is a good question, and there are many ways to look at it.",
)


def _question(rng: random.Random) -> Question:
    family = rng.choice(tuple(FAMILIES))
    text, right, mistake = FAMILIES[family](rng)
    asked = rng.choice(ASKED).format(name=rng.choice(NAMES), question=text)
    return Question(family, asked, right, mistake)


def _brief(answer: str) -> str:
    return f"{answer[0].upper()}{answer[1:]}."


def _wordy(rng: random.Random, question: Question) -> str:
    guess = rng.choice([question.right, question.mistake])
    text = rng.choice(WORDY).format(guess=guess)
    return f"{text[0].upper()}{text[1:]}"


Parts = tuple[str, str, str]
"""A question, its right answer and the usual mistake."""


def _addition(rng: random.Random) -> Parts:
    a, b = rng.randrange(1, 6), rng.randrange(1, 5)
    return f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", NUMBERS[a + b], NUMBERS[a + b - 1]


def _day(rng: random.Random) -> Parts:
    day, step = rng.randrange(7), rng.choice([1, -1])
    order = "after" if step == 1 else "before"
    right, mistake = DAYS[(day + step) % 7], DAYS[(day - step) % 7]
    return f"Which day comes {order} {DAYS[day]}?", right, mistake


def _opposite(rng: random.Random) -> Parts:
    pair = rng.choice(OPPOSITES)
    word, right = rng.sample(pair, 2)
    return f"What is the opposite of {word}?", right, f"very {word}"


def _kind(rng: random.Random) -> Parts:
    kinds = list(KINDS)
    n = rng.randrange(len(kinds))
    mistake = kinds[(n + 1) % len(kinds)]
    return f"What is a {rng.choice(KINDS[kinds[n]])}?", f"a {kinds[n]}", f"a {mistake}"


def _colour(rng: random.Random) -> Parts:
    (first, second), (a, b) = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    asked, right, mistake = rng.choice([(first, a, b), (second, b, a)])
    text = f"The {first} is {a} and the {second} is {b}. Which colour is the {asked}?"
    return text, right, mistake


def _more(rng: random.Random) -> Parts:
    a, b = rng.sample(range(11), 2)
    text = f"Which is more, {NUMBERS[a]} or {NUMBERS[b]}?"
    return text, NUMBERS[max(a, b)], NUMBERS[min(a, b)]


def _count(rng: random.Random) -> Parts:
    n, fruit = rng.randrange(1, 7), rng.choice(FRUITS)
    return f"How many are here: {' '.join([fruit] * n)}?", NUMBERS[n], NUMBERS[n + 1]


def _order(rng: random.Random) -> Parts:
    listed = rng.sample(FRUITS, 3)
    which = rng.choice([0, 2])
    text = f"Which is {'first' if which == 0 else 'last'} in {', '.join(listed)}?"
    return text, listed[which], listed[1]


FAMILIES: dict[str, Callable[[random.Random], Parts]] = {
    "addition": _addition,
    "day": _day,
    "opposite": _opposite,
    "kind": _kind,
    "colour": _colour,
    "more": _more,
    "count": _count,
    "order": _order,
}
