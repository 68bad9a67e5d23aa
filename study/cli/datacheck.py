"""What ``study data check`` tells of a source before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

from study.config.recipe import Recipe
from study.data.load import dropped_lines, load_pairs
from study.data.pairs import Pair, fingerprint
from study.data.splits import split_pairs
from study.data.templates import mark_of_template
from study.data.tokens import encode, spells_special_token, truncation_counts
from study.engine.encoded import Encoded
from study.errors import DataError, RowError, StudyError
from study.model.base import TOY, load_tokenizer, prepare_as_asked
from study.model.toy import train_tokenizer

QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def check(recipe: Recipe) -> dict[str, Any]:
    """Read, validate, split and tokenise the recipe's data; train nothing.

    Raises:
        DataError: the source cannot be read, recognised or trusted.
        ModelError: the recipe's tokenizer cannot be loaded.
    """
    loaded = load_pairs(recipe.data)
    tokenizer = _tokenizer(recipe)
    limits = {
        "max_prompt_tokens": recipe.data.max_prompt_tokens,
        "max_length_tokens": recipe.data.max_length_tokens,
    }
    encoded, refused = _encode_whole(loaded.pairs, tokenizer)
    return {
        "source": recipe.data.name,
        "form": loaded.form,
        "n_rows": loaded.n_rows,
        "n_pairs": len(loaded.pairs),
        "dropped": dropped_lines(loaded.dropped),
        "refused": refused,
        "rendered": _rendered(loaded.pairs),
        "recipe": recipe.name,
        "tokenizer": recipe.model.name,
        "tokens": {
            side: _quantiles([len(getattr(pair, f"{side}_ids")) for pair in encoded])
            for side in ("prompt", "chosen", "rejected")
        },
        "length_bias": _length_bias(
            [len(pair.chosen_ids) for pair in encoded],
            [len(pair.rejected_ids) for pair in encoded],
        ),
        "limits": limits,
        "truncated": {
            **truncation_counts(encoded, **limits),
            "useless": sum(_is_useless(pair, **limits) for pair in encoded),
        },
        "spelled": sum(spells_special_token(pair, tokenizer) for pair in loaded.pairs),
        "splits": _splits(recipe, loaded.pairs),
        "example": _example(encoded[0], tokenizer),
    }


def as_text(report: dict[str, Any]) -> str:
    """Lay out what `check` found for a reader."""
    lines = [
        f"source     {report['source']}",
        f"read with  recipe {report['recipe']} (limits, splits) and {report['tokenizer']}'s tokens",
        f"form       {report['form']}",
        f"rows       {report['n_rows']}, of which {report['n_pairs']} are usable pairs",
        *(f"dropped    {line}" for line in report["dropped"]),
        *(f"template   {line}" for line in report["refused"]),
        *(f"rendered   {line}" for line in report["rendered"]),
        f"tokens     {'':9}" + "".join(f"{name:>8}" for name in QUANTILES),
    ]
    for side, found in report["tokens"].items():
        lines.append(f"           {side:9}" + "".join(f"{found[name]:>8}" for name in QUANTILES))
    lines += [
        f"length     chosen answers are {_bias_words(report['length_bias'])}",
        f"truncation {_truncation_words(report['limits'], report['truncated'])}",
        f"chat       pairs that spell a special token, which is read as text: {report['spelled']}",
        f"splits     {report['splits']}",
        "example    tokens with a label in [brackets]; the rest is context",
        *(f"  {side:8} {text}" for side, text in report["example"].items()),
    ]
    return "\n".join(lines)


def _tokenizer(recipe: Recipe) -> Any:
    """Load the recipe's tokenizer; a tiny base need not be trained for it."""
    if recipe.model.name.startswith(TOY):
        tokenizer = train_tokenizer()
        prepare_as_asked(tokenizer, recipe.model)
        return tokenizer
    return load_tokenizer(recipe.model)[0]


def _encode_whole(pairs: Sequence[Pair], tokenizer: Any) -> tuple[list[Encoded], list[str]]:
    """Encode pairs without a limit; describe those that cannot be, a line per reason.

    Raises:
        DataError: no pair can be encoded.
    """
    encoded: list[Encoded] = []
    refused: defaultdict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        try:
            encoded.append(
                encode(pair, tokenizer, max_prompt_tokens=2**30, max_length_tokens=2**31)
            )
        except RowError as error:
            refused[error.reason].append(str(error))
    lines = [f"{reason}: {len(them)}, e.g. {them[0]}" for reason, them in refused.items()]
    if not encoded:
        raise DataError(
            f"none of {len(pairs)} pairs can be written as tokens: {'; '.join(lines)}; "
            "mend them, or name another template with model.chat_template"
        )
    return encoded, lines


def _rendered(pairs: Sequence[Pair]) -> list[str]:
    """Say that prompts were rendered with a chat template already, where they were."""
    marks = Counter(
        mark
        for pair in pairs
        if (mark := mark_of_template("\n".join(message.content for message in pair.prompt)))
    )
    if not marks:
        return []
    named = ", ".join(mark for mark, _ in marks.most_common(3))
    line = (
        f"{marks.total()} of {len(pairs)} prompts carry marks of a chat template ({named}); the "
        "model's own template will be put around them, and the marks read as text: give the "
        "turns themselves, as messages or as the user's words alone"
    )
    return [line]


def _is_useless(pair: Encoded, *, max_prompt_tokens: int, max_length_tokens: int) -> bool:
    room = max_length_tokens - min(len(pair.prompt_ids), max_prompt_tokens)
    return pair.chosen_ids[:room] == pair.rejected_ids[:room]


def _bias_words(bias: dict[str, float]) -> str:
    return (
        f"longer in {bias['chosen_longer']:.0%} of pairs and shorter in "
        f"{bias['chosen_shorter']:.0%}; {bias['mean_difference']:+.1f} tokens on average"
    )


def _truncation_words(limits: dict[str, int], cut: dict[str, int]) -> str:
    return (
        f"at {limits['max_prompt_tokens']} prompt and {limits['max_length_tokens']} total tokens "
        f"cuts {cut['prompt']} prompts, {cut['chosen']} chosen and {cut['rejected']} rejected "
        f"answers; {cut['useless']} pairs become useless and would be left out"
    )


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    cuts = [*quantiles([*lengths, lengths[0]], n=1000, method="inclusive")]
    inner = {
        name: cuts[round(share * 1000) - 1] for name, share in QUANTILES.items() if 0 < share < 1
    }
    return {
        name: round(value)
        for name, value in {"min": min(lengths), **inner, "max": max(lengths)}.items()
    }


def _length_bias(chosen: Sequence[int], rejected: Sequence[int]) -> dict[str, float]:
    differences = [c - r for c, r in zip(chosen, rejected, strict=True)]
    return {
        "chosen_longer": sum(d > 0 for d in differences) / len(differences),
        "chosen_shorter": sum(d < 0 for d in differences) / len(differences),
        "mean_difference": sum(differences) / len(differences),
    }


def _splits(recipe: Recipe, pairs: Sequence[Any]) -> str:
    try:
        splits = split_pairs(pairs, recipe.data)
    except StudyError as error:
        return f"cannot be made: {error}"
    return ", ".join(
        f"{name} {len(part)} ({fingerprint(part)[:12]})"
        for name, part in (
            ("train", splits.train),
            ("validation", splits.validation),
            ("test", splits.test),
        )
    )


def _example(pair: Any, tokenizer: Any) -> dict[str, str]:
    """Show one pair's tokens; those of the answers carry labels in every arm."""

    def show(ids: Sequence[int], form: Callable[[str], str]) -> str:
        return " ".join(form(repr(tokenizer.decode([token]))[1:-1]) for token in ids)

    return {
        "prompt": show(pair.prompt_ids, str),
        "chosen": show(pair.chosen_ids, "[{}]".format),
        "rejected": show(pair.rejected_ids, "[{}]".format),
    }
