"""Words of the figures: captions and what a reader who cannot see them is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from analysis.rows import FigureFile


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of scores over steps."""

    file: FigureFile
    split: str
    columns: Mapping[str, str]
    """Column of the logged steps -> kind of line."""
    y_label: str


def _curve(
    name: str, y_label: str, caption: str, *, split: str = "validation", **columns: str
) -> Curve:
    return Curve(
        file=FigureFile(
            name=f"curve-{name}",
            caption=caption,
            alt=f"Line chart of {y_label} over steps for SFT and ORPO, one panel per recipe.",
            section="curves",
        ),
        split=split,
        columns=columns,
        y_label=y_label,
    )


SEEDS: Final = "Thin lines are single seeds, thick lines their mean"
BASE: Final = f"{SEEDS}; the grey line is the base model."

CURVES: Final = (
    _curve(
        "loss",
        "training loss",
        "Training loss over steps. ORPO's loss contains β times its odds-ratio term, so the arms' "
        "losses are different quantities and only their course may be compared. "
        f"{SEEDS}.",
        split="train",
        loss="",
    ),
    _curve(
        "nll",
        "NLL (nats/token)",
        f"NLL of chosen answers of validation pairs over steps; lower is better. {BASE}",
        nll="",
    ),
    _curve(
        "margin",
        "margin (nats/token)",
        "Margin of validation pairs over steps: log-probability per token of the chosen answer "
        f"minus that of the rejected one, free of β; higher is better. {BASE}",
        margin="",
    ),
    _curve(
        "accuracy",
        "preference accuracy",
        "Share of validation pairs whose chosen answer is the more likely one, over steps; higher "
        f"is better. {BASE}",
        accuracy="",
    ),
    _curve(
        "logps",
        "log-probability (nats/token)",
        "Log-probability per token of chosen (solid) and rejected (dashed) answers of validation "
        f"pairs over steps. {BASE.replace('line is', 'lines are')}",
        chosen_logps="chosen",
        rejected_logps="rejected",
    ),
)
HISTORY: Final = FigureFile(
    name="search-history",
    caption="The objective over the trials of each search, in the order in which they ran.",
    alt="Scatter plots of the objective against the trial number with a line for the best so far.",
    section="search",
)
SPACE: Final = FigureFile(
    name="search-space",
    caption="Where the searches looked: learning rate and β for ORPO, coloured by the objective; "
    "learning rate against the objective for SFT. Squares with numbers are published settings, "
    "the star is the setting that was chosen after repetition with fresh seeds.",
    alt="Scatter plots of trials over learning rate and β, published and chosen settings marked.",
    section="search",
)
FRONT: Final = FigureFile(
    name="trade-off",
    caption="NLL against preference accuracy on validation pairs for every finished trial. Lines "
    "join the trials that no other trial of the arm beats in both; better is up and to the left.",
    alt="Scatter plot of NLL against accuracy of all trials with the front of each arm.",
    section="search",
)
EXPECTED: Final = FigureFile(
    name="expected-best",
    caption="How good the best of n trials is expected to be, from the trials whose settings were "
    "drawn at random; published settings and those that the search was guided to are left out. A "
    "trial that was stopped counts as the worst. The vertical axis leaves out how bad a single "
    "trial can be; where the band meets the frame, n trials do not bound it.",
    alt="Curves of the expected best objective against the number of random trials, with bands.",
    section="search",
)
EARLY: Final = FigureFile(
    name="early-correlation",
    caption="How early the end could have been known: Spearman's rank correlation over the "
    "complete trials of each score at a step with its value at the end.",
    alt="Curves of rank correlations with the final value over training steps for each search.",
    section="search",
)
CONTRASTS: Final = FigureFile(
    name="contrasts",
    caption="ORPO minus SFT on held-out test pairs in every score, with 95 % intervals over "
    "training seeds and prompts; with several models the lowest bar is the contrast over all of "
    "them. The colour follows the verdict, which is corrected for the number of tests.",
    alt="Forest plot of differences between ORPO and SFT with intervals, one panel per score.",
    section="results",
)
LENGTHS: Final = FigureFile(
    name="response-length",
    caption="Length of the generated answers to test prompts, all seeds of an arm together; "
    "triangles mark the means.",
    alt="Histograms of the number of tokens in the answers of each arm, one panel per recipe.",
    section="results",
)
GROWTH: Final = FigureFile(
    name="growth",
    caption="How the cost of a training step grows with the length of sequences, the size of the "
    "batch and the vocabulary: pairs per second above, peak memory over the loaded model below. "
    "All pairs of a batch are equally long, so that TRL's batches hold no padding; TRL runs "
    "without checkpointing and is left out where it does not fit into memory.",
    alt="Six line plots on logarithmic scales of this study and TRL.",
    section="cost",
)
BETAS: Final = FigureFile(
    name="claims-beta",
    caption="ORPO at one learning rate and several β on held-out test pairs: the margin, and the "
    "log-probability per token of the chosen answers. Dots are single seeds, lines join their "
    "means; β is on a logarithmic axis.",
    alt="Dot plots of margin and log-probability of chosen answers against β, one row per recipe.",
    section="claims",
)
