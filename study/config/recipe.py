"""Recipes: frozen descriptions of a study, read from TOML files.

Every field stands in the file of a recipe or of the one that it extends; only
the settings that its sources published are filled in. Only overrides
(``--set section.field=value``) change it, and they become part of the digest
that names its runs. A field that was added after the first records were made
has a neutral default in its dataclass: a recipe may leave it out, and while it
has that value it is left out of records and digests, so that they stay as
they were.
"""

import dataclasses
import datetime as dt
import itertools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from study.arms import ARMS, Settings, check_settings
from study.config.build import assign, build
from study.config.canonical import plain
from study.config.files import read_tree
from study.config.judging import AnalysisConfig
from study.config.training import TrainingConfig
from study.errors import ConfigError, require

TEMPLATE_DATE = "2024-07-26"
"""What Llama 3's templates print where they are given no clock."""


TEMPLATE_INPUTS = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
"""What a chat template is given by the study itself."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model and how it is loaded."""

    name: str
    """Hub id, folder in the Hub's layout, ``.gguf`` file, ``pypi:<name>`` or ``toy:<name>``."""
    revision: str
    """Git revision on the Hub; ignored for local folders."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """``auto`` is bfloat16 on CUDA devices that have it, else float32."""
    quantization: Literal["none", "nf4"]
    """``nf4`` is bitsandbytes' 4-bit NormalFloat with double quantisation."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"]
    """``auto`` is a kernel of variable length on CUDA, flash-attn's where it is
    installed, this study's own on a CPU but for short segments, and PyTorch's
    SDPA over padded rows elsewhere; ``sdpa`` is the latter everywhere; ``eager``
    pads whole batches and is slow."""
    trust_remote_code: bool
    """Run Python code shipped with the model; off unless asked for by name."""
    chat_template: str = ""
    """File with a Jinja template, or ``chatml``; empty is the model's own, and
    ChatML where it has none."""
    template_kwargs: Mapping[str, bool | int | float | str] = dataclasses.field(
        default_factory=dict
    )
    """Variables that the chat template reads, e.g. ``{ enable_thinking = false }``."""
    template_date: str = TEMPLATE_DATE
    """The date that templates which print today's print instead, as YYYY-MM-DD."""

    def __post_init__(self) -> None:
        """Refuse what no template can be given."""
        for name in self.template_kwargs:
            require(
                name.isidentifier() and name not in TEMPLATE_INPUTS,
                f"model.template_kwargs.{name} cannot be set; it must be the name of a variable "
                f"of the template, and none of {', '.join(TEMPLATE_INPUTS)}",
            )
        try:
            dt.date.fromisoformat(self.template_date)
        except ValueError:
            raise ConfigError(
                f"model.template_date is {self.template_date!r}; write a date as YYYY-MM-DD"
            ) from None


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The low-rank adapter; every arm trains the same one."""

    kind: Literal["lora", "dora", "rslora"]
    rank: int
    alpha: int
    dropout: float
    """Dropout probability before the adapter's first matrix."""
    target_modules: tuple[str, ...]
    """Names of the linear layers that get an adapter; ``["all-linear"]`` is all but the output."""
    chat_tokens: Literal["trained", "frozen"] = "trained"
    """Whether embeddings of tokens that a chat template adds are trained beside the adapter."""

    def __post_init__(self) -> None:
        """Refuse ranks and probabilities that mean nothing."""
        for field in ("rank", "alpha"):
            value = getattr(self, field)
            require(value > 0, f"adapter.{field} is {value}; it must be at least 1")
        require(0 <= self.dropout < 1, f"adapter.dropout is {self.dropout}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preference pairs: where they come from and how they are split."""

    name: str
    """Hub dataset id, local file, folder, archive or glob, or ``toy``."""
    revision: str
    """Git revision on the Hub; ignored for local files."""
    split: str
    """Split to read from a Hub dataset or a folder of splits, e.g. ``train``."""
    train_pairs: int
    """Pairs used for training; 0 means all that the split leaves."""
    validation_pairs: int
    """Pairs that the search scores its trials on."""
    test_pairs: int
    """Pairs that ``study compare`` alone opens."""
    max_prompt_tokens: int
    """A longer prompt loses its oldest tokens."""
    max_length_tokens: int
    """Prompt and answer together; a longer answer is cut at its end."""
    seed: int
    """Seed of the split by prompt cluster."""
    max_dropped_share: float
    """More than this share of unusable rows is an error."""
    subset: str = ""
    """Configuration of a Hub dataset, where it has several."""
    data_dir: str = ""
    """Folder to read inside the Hub dataset or the local folder."""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The source's column -> the name to read it by; an empty one leaves it out."""
    max_bytes: int = 2**31
    """Most that is read, uncompressed; a row counts as 1 KiB at least."""
    publish_texts: bool = True
    """Publish prompts and reference answers with the records, or else hashes of them."""

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to train or score."""
        require(self.train_pairs >= 0, "data.train_pairs must be 0 (all) or more")
        for field in ("validation_pairs", "test_pairs"):
            require(getattr(self, field) > 0, f"data.{field} must be at least 1")
        require(
            0 < self.max_prompt_tokens < self.max_length_tokens,
            f"data.max_prompt_tokens ({self.max_prompt_tokens}) must be positive and below "
            f"data.max_length_tokens ({self.max_length_tokens})",
        )
        require(0 <= self.max_dropped_share <= 1, "data.max_dropped_share must be in [0, 1]")
        require(self.max_bytes > 0, f"data.max_bytes is {self.max_bytes}; it must be at least 1")
        named = sorted(name for name in self.columns.values() if name)
        for one, other in itertools.pairwise(named):
            require(one != other, f"data.columns maps two columns to {one!r}; choose one")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How held-out pairs are scored."""

    generated_answers: int
    """Distinct test prompts answered by generation; 0 generates none."""
    max_new_tokens: int
    batch_pairs: int
    """Pairs or prompts per forward pass; changes speed, never scores."""

    def __post_init__(self) -> None:
        """Refuse counts that score nothing."""
        require(
            self.generated_answers >= 0, "evaluation.generated_answers must be 0 (none) or more"
        )
        for field in ("max_new_tokens", "batch_pairs"):
            value = getattr(self, field)
            require(value > 0, f"evaluation.{field} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PublishedSetting:
    """Hyperparameters that a source used; tried first where the space holds them."""

    arm: str
    source: str
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What ``study search`` tries and what it minimises or maximises."""

    trials: int
    """Finished trials per arm, in total over all starts of the command."""
    objective: Literal["nll+ranking", "nll+lor", "nll", "accuracy", "margin", "rougeL"]
    """On validation pairs. ``nll+ranking`` is on no arm's side: NLL of chosen
    answers plus calibrated ranking loss. ``nll+lor`` holds ORPO's own term."""
    pruning: Literal["halving", "median", "none"]
    """What ends trials early, from a quarter of their steps on: ``halving`` keeps
    the better half at a quarter and at a half, ``median`` what beats the median
    of earlier trials at the same step."""
    confirm_top: int
    """Best settings that are trained again with fresh seeds."""
    confirm_seeds: int
    space: Mapping[str, Mapping[str, tuple[float, float]]]
    """Arm -> hyperparameter -> bounds of its log-uniform range."""
    published: tuple[PublishedSetting, ...]
    """Tried first where the space holds them; a file without the field takes those
    of ``sources/published.toml``."""

    def __post_init__(self) -> None:
        """Refuse spaces that no arm can be searched in."""
        for field in ("trials", "confirm_top", "confirm_seeds"):
            value = getattr(self, field)
            require(value > 0, f"search.{field} is {value}; it must be at least 1")
        for arm, space in self.space.items():
            check_settings(f"search.space.{arm}", arm, space)
            require(
                ARMS[arm].tuned_as is None,
                f"search.space.{arm}: {arm} takes the settings that the search of "
                f"{ARMS[arm].tuned_as} finds; leave it out",
            )
            for name, (low, high) in space.items():
                require(
                    0 < low < high,
                    f"search.space.{arm}.{name} is [{low}, {high}]; "
                    "bounds must be positive and in increasing order",
                )
        for published in self.published:
            check_settings("search.published", published.arm, published.settings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete description of a study of one base model."""

    name: str
    """File-system name of the recipe's folder under ``runs/``."""
    description: str
    model: ModelConfig
    adapter: AdapterConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    analysis: AnalysisConfig
    search: SearchConfig
    arms: Mapping[str, Settings]
    """Arm -> the settings it is trained with where no search has frozen any."""

    def __post_init__(self) -> None:
        """Work epochs out to updates; refuse names that are no folder's, and unknown arms."""
        in_updates = self.training.in_updates(self.data.train_pairs)
        object.__setattr__(self, "training", in_updates)
        plain = self.name.replace("-", "").replace("_", "").replace(".", "")
        require(
            plain.isalnum() and plain.isascii() and self.name[0] != ".",
            f"recipe name {self.name!r} must be letters, digits, '-', '_' and '.' only",
        )
        for arm, settings in self.arms.items():
            check_settings(f"arms.{arm}", arm, settings)
        require(bool(self.search.space), f"search.space names no arm; arms are {', '.join(ARMS)}")
        require(
            self.training.sharding == "none" or self.adapter.kind != "dora",
            "training.sharding is 'fsdp' and adapter.kind 'dora', which reads the whole of each "
            "weight to begin with; set adapter.kind to lora or rslora, or training.sharding=none",
        )
        for section, arms in (("arms", self.arms), ("search.space", self.search.space)):
            for arm in arms:
                self._check_stages(section, arm, arms)
        require(
            self.search.objective != "rougeL" or self.evaluation.generated_answers > 0,
            "search.objective is 'rougeL', which needs evaluation.generated_answers above 0",
        )

    def _check_stages(self, section: str, name: str, beside: Iterable[str]) -> None:
        """Refuse an arm that continues another where the two stages cannot be carried out."""
        arm, training, dropout = ARMS[name], self.training, self.adapter.dropout
        require(
            arm.starts_from is None or arm.starts_from in beside,
            f"{section}.{name}: {name} continues {arm.starts_from}; give {section}."
            f"{arm.starts_from} too",
        )
        require(
            arm.starts_from is None or 0 < training.start_steps < training.max_steps,
            f"training.start_share {training.start_share} of {training.max_steps} updates leaves "
            f"{name} a stage without any; set training.start_share or training.max_steps",
        )
        require(
            not arm.reference or dropout == 0,
            f"adapter.dropout is {dropout}, and {section} names {name}, which compares itself with "
            "its start; dropout would disturb that, and all arms have the same: set it to 0",
        )
        require(
            not arm.mismatched or training.batch_pairs > 1,
            f"training.batch_pairs is 1, and {section} names {name}, which pairs prompts with "
            "answers to others of the same update; set it to 2 or more",
        )

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with ``section.field=value`` assignments applied.

        Values are read as TOML; what is not TOML is taken as text. Of updates and
        epochs, the one that is set last counts.

        Raises:
            ConfigError: an assignment has no ``=``, or names an unknown field.
        """
        tree = plain(self, neutral=True)
        for assignment in assignments:
            assign(tree, assignment)
            if assignment.partition("=")[0].strip() == "training.max_steps":
                tree["training"]["epochs"] = 0
        training = tree["training"]
        if isinstance(training, dict) and training.get("epochs"):
            training.pop("max_steps", None)  # worked out again, perhaps from other pairs
        return typing.cast(Self, from_dict(tree))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by its name, or a TOML file by its path.

    Raises:
        ConfigError: no such recipe, broken TOML, or unknown, missing or
            mistyped fields; the message names the field and what it takes.
    """
    tree = read_tree(name_or_path)
    try:
        return from_dict(tree)
    except ConfigError as error:
        raise ConfigError(f"recipe {name_or_path}: {error}") from error


def from_dict(tree: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain data, refusing what a recipe does not have.

    Raises:
        ConfigError: unknown, missing or mistyped fields.
    """
    training = tree.get("training")
    if isinstance(training, dict) and "epochs" in training:
        tree = {**tree, "training": {"max_steps": 0, **training}}
    return typing.cast(Recipe, build(Recipe, tree))
