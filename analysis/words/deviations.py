"""Where a study departs from its sources."""

from analysis.records.study import StudyRecords
from study.arms import BASELINE


def deviations(records: StudyRecords) -> tuple[str, ...]:
    """List the departures from the sources that these runs were made with."""
    recipes = [records.of(recipe)[0].config["recipe"] for recipe in records.recipes]
    arms = {run.arm for run in records.runs}
    objectives = {search.best["objective"] for search in records.searches if search.best}
    sentences = [
        *(
            ["SFT's learning rate is tuned too; the sources tune one arm or none."]
            if any(search.best and search.arm == BASELINE for search in records.searches)
            else []
        ),
        (
            "All arms but one that is matched in tokens see the same pairs for the same number of "
            "updates; the paper trains SFT for one epoch and ORPO for up to ten."
        ),
        (
            "ORPO starts from the base model; the code published with the article on Llama-3.2-1B "
            "starts it from the SFT model by default."
        ),
        (
            "The margin is not multiplied by β, unlike TRL's reward margins, because β differs "
            "between tuned settings."
        ),
        (
            "The loss is normalised over all tokens of an update, so it does not change with the "
            "size of micro-batches; TRL's ORPO takes the mean of their means."
        ),
        "Dropout is the same in every arm; TRL's ORPO sets it to zero everywhere.",
        (
            "ROUGE compares the answer alone with the chosen answer, over all prompts that were "
            "answered, decoded greedily with the chat template; the article on Llama-3.2-1B scores "
            "prompt and answer together and divides by prompts that it did not score."
        ),
        (
            "Chat tokens that are added to a base model are trained; the articles leave them as "
            "they were initialised."
        ),
    ]
    if objectives:
        sentences.append(
            f"The search optimises {', '.join(sorted(objectives))} on validation pairs, the same "
            "for every arm and free of β; an evaluation loss that contains β would reward small "
            "values of β."
        )
    if "sft-matched" in arms:
        sentences.append("Token-matched SFT alone takes more updates than the other arms.")
    if "ipo" in arms:
        sentences.append(
            "IPO's log-ratios are means per token, as in TRL and HALOs; its equation has sums."
        )
    if "kto" in arms:
        sentences.append(
            "KTO's z is the mean over a whole update in which each prompt has both answers of "
            "another pair; HALOs and TRL take it from a micro-batch's completions."
        )
    over = {recipe["training"]["nll_over"] for recipe in recipes}
    if "response" in over:
        sentences.append(
            "The NLL covers only the answer, in every arm; in ORPO, TRL and the paper's code also "
            "cover the prompt."
        )
    if "prompt_and_response" in over:
        sentences.append(
            "The NLL covers prompt and answer, in every arm, as in TRL's ORPO; TRL's SFT leaves "
            "the prompt out."
        )
    if any(str(recipe["model"]["name"]).startswith("toy:") for recipe in recipes):
        sentences.append(
            "The embedded study trains tiny models on a toy language in place of the sources' "
            "models and data."
        )
    return tuple(sentences)
