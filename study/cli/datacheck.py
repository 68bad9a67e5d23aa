"""What ``study data check`` tells of a source before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

from study.config.recipe import Recipe
from study.data.encoding import EncodedPairs, cut_all, encode_all
from study.data.load import LoadedPairs, dropped_lines, load_pairs
from study.data.pairs import Pair, fingerprint
from study.data.splits import split_pairs
from study.data.templates import mark_of_template
from study.data.tokens import spells_special_token, truncation_counts
from study.engine.encoded import Encoded
from study.errors import DataError, RowError, StudyError
from study.model.base import load_tokenizer, prepare_as_asked
from study.model.locate import TOY
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
    wholes = list(encode_all(loaded.pairs, tokenizer))
    encoded, refused = _sorted_out(wholes)
    splits, said = _splits(recipe, loaded.pairs)
    by_id = {pair.example_id: whole for pair, whole in zip(loaded.pairs, wholes, strict=True)}
    parts = _cut_splits(splits, by_id, tokenizer, recipe)
    return {
        "source": recipe.data.name,
        "form": loaded.form,
        "n_rows": loaded.n_rows,
        "n_pairs": len(loaded.pairs),
        "dropped": dropped_lines(loaded.dropped),
        "not_read": list(loaded.unread),
        "doubts": _doubts(loaded),
        "refused": refused,
        "rendered": _rendered(loaded.pairs),
        "recipe": recipe.name,
        "tokenizer": recipe.model.name,
        "tokens": {
            side: _quantiles([len(getattr(pair, f"{side}_ids")) for pair in encoded])
            for side in ("prompt", "chosen", "rejected")
        },
        "length_bias": _length_bias(
            [pair.n_chosen for pair in encoded],
            [pair.n_rejected for pair in encoded],
        ),
        "limits": limits,
        "truncated": {
            **truncation_counts(encoded, **limits),
            "useless": len(cut_all(encoded, tokenizer, recipe.data).left_out),
        },
        "spelled": sum(spells_special_token(pair, tokenizer) for pair in loaded.pairs),
        "splits": said,
        "left_out": {name: part.reasons() for name, part in parts.items()},
        "stops": {name: why for name, part in parts.items() if (why := part.refusal(recipe.data))},
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
        f"not read   columns {', '.join(report['not_read']) or '(none)'}",
        *(f"doubtful   {line}" for line in report["doubts"]),
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
        *_left_out_lines(report["left_out"], report["stops"]),
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


def _sorted_out(wholes: Sequence[Encoded | RowError]) -> tuple[list[Encoded], list[str]]:
    """Part pairs that can be encoded from a line for each reason why others cannot.

    Raises:
        DataError: no pair can be encoded.
    """
    encoded = [whole for whole in wholes if not isinstance(whole, RowError)]
    refused: defaultdict[str, list[str]] = defaultdict(list)
    for error in wholes:
        if isinstance(error, RowError):
            refused[error.reason].append(str(error))
    lines = [f"{reason}: {len(them)}, e.g. {them[0]}" for reason, them in refused.items()]
    if not encoded:
        raise DataError(
            f"none of {len(wholes)} pairs can be written as tokens: {'; '.join(lines)}; "
            "mend them, or name another template with model.chat_template"
        )
    return encoded, lines


def _doubts(loaded: LoadedPairs) -> list[str]:
    """Say what looks like a mistake in the data, and is read as it stands."""
    repeated = sum(
        all(answer[0].content.strip().startswith(asked) for answer in (pair.chosen, pair.rejected))
        for pair in loaded.pairs
        if (asked := pair.prompt[-1].content.strip())
    )
    doubts = []
    if loaded.swapped:
        doubts.append(f"{loaded.swapped}: are the answers swapped?")
    if 2 * repeated > len(loaded.pairs):
        doubts.append(
            f"in {repeated} of {len(loaded.pairs)} pairs both answers begin with the whole prompt: "
            "give the answers alone"
        )
    return doubts


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


def _left_out_lines(left_out: dict[str, dict[str, int]], stops: dict[str, str]) -> list[str]:
    """Say for each split which pairs a run leaves out, and where it would stop for it."""
    lines = []
    for name, reasons in left_out.items():
        counted = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        if counted:
            lines.append(f"left out   of {name}: {counted}")
        if name in stops:
            lines.append(f"stops      compare and search would stop at {name}: {stops[name]}")
    return lines


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


def _splits(recipe: Recipe, pairs: Sequence[Pair]) -> tuple[dict[str, tuple[Pair, ...]], str]:
    """Return the splits and what to say of them; none where they cannot be made."""
    try:
        made = split_pairs(pairs, recipe.data)
    except StudyError as error:
        return {}, f"cannot be made: {error}"
    splits = {"train": made.train, "validation": made.validation, "test": made.test}
    return splits, ", ".join(
        f"{name} {len(part)} ({fingerprint(part)[:12]})" for name, part in splits.items()
    )


def _cut_splits(
    splits: dict[str, tuple[Pair, ...]],
    wholes: dict[str, Encoded | RowError],
    tokenizer: Any,
    recipe: Recipe,
) -> dict[str, EncodedPairs]:
    """Cut the pairs of each split as a run does."""
    return {
        name: cut_all((wholes[pair.example_id] for pair in part), tokenizer, recipe.data)
        for name, part in splits.items()
    }


def _example(pair: Any, tokenizer: Any) -> dict[str, str]:
    """Show one pair's tokens; those of the answers carry labels in every arm."""

    def show(ids: Sequence[int], form: Callable[[str], str]) -> str:
        return " ".join(form(repr(tokenizer.decode([token]))[1:-1]) for token in ids)

    return {
        "prompt": show(pair.prompt_ids, str),
        "chosen": show(pair.chosen_ids, "[{}]".format),
        "rejected": show(pair.rejected_ids, "[{}]".format),
    }
