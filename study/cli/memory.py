"""An estimate of the memory that one training step needs, and that answers need."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from study.config.recipe import Recipe
from study.model.shapes import Shape

NF4_BLOCK, NF4_SCALES = 64, 256
"""Weights that share a one-byte scale, and scales that share a float32."""

NF4_BYTES = 1 / 2 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * NF4_SCALES)
"""Per weight: 4 bits, and its parts of both scales."""


OPTIMIZER_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "adamw_torch": 8,
        "adamw_torch_fused": 8,
        "paged_adamw_8bit": 2,
        "galore_adamw": 8,
        "galore_adamw_8bit": 2,
    }
)
"""Two moments per trained parameter; of GaLore's, which has fewer, a bound."""


class Memory(NamedTuple):
    """Bytes of a training step at its worst batch, by use."""

    weights: int
    adapter_and_optimizer: int
    activations: int
    logits: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes altogether."""
        return sum(self)


def step_memory(recipe: Recipe, shape: Shape, *, device: str, value_bytes: int) -> Memory:
    """Estimate the memory of one ORPO step whose pairs all have full length.

    T, the tokens of a micro-batch, is at most batch_pairs x 2 x
    max_length_tokens, a chosen and a rejected answer behind a prompt too short
    to matter, or the recipe's token budget where that is less; one pair always
    fits. SFT needs about half; of arms that read a reference, each pass for it keeps nothing for a
    backward pass and needs less. With checkpointing on a CPU, a layer that is computed again
    stands where the chunk of logits stood, and of the two the larger is counted. Not counted:
    on a GPU the context, gaps of the allocator and workspaces of kernels, for which a tenth of
    the device is left free; on a CPU Python, libraries and pairs.

    Args:
        recipe: Recipe whose step it is.
        shape: What `shape_of` read.
        device: Resolved device.
        value_bytes: Bytes of a value in the model's dtype.
    """
    training, tokens = recipe.training, pass_tokens(recipe, device, value_bytes)
    activations = tokens * activation_bytes(shape, recipe, device=device, value_bytes=value_bytes)
    logits = _logit_bytes(shape, tokens, value_bytes, device)
    workspace = _workspace_bytes(shape, tokens, value_bytes, device)
    if training.gradient_checkpointing and device.partition(":")[0] == "cpu":
        # A layer is computed again when the logits are gone; on GPUs this is not measured.
        layer = activations - tokens * shape.n_layers * value_bytes * shape.hidden
        chunk = logits - tokens * 2 * value_bytes * shape.hidden
        logits -= min(chunk, layer + workspace)
    return Memory(
        weights=_weight_bytes(shape, recipe.model.quantization, value_bytes),
        adapter_and_optimizer=shape.trainable * (4 + 4 + OPTIMIZER_BYTES[training.optimizer]),
        activations=activations,
        logits=logits,
        workspace=workspace,
    )


def pass_tokens(recipe: Recipe, device: str, value_bytes: int) -> int:
    """Return the most distinct tokens that one forward pass holds."""
    from study.engine.packing import tokens_per_pass

    training, pair = recipe.training, 2 * recipe.data.max_length_tokens
    budget = tokens_per_pass(
        training.microbatch_tokens, device=device.partition(":")[0], value_bytes=value_bytes
    )
    return int(min(training.batch_pairs * pair, max(pair, budget)))


def _kept_keys(recipe: Recipe, device: str) -> int:
    """Return how many weights a query's attention keeps on a CPU, on average.

    Half a row, as causal attention has it, and half a strip of float32, because
    what its last query sees is kept for all of it.
    """
    from study.engine.strips import KEPT_KEYS, STRIP_BYTES

    longest, ours = recipe.data.max_length_tokens, recipe.model.attention == "auto"
    if device.partition(":")[0] != "cpu" or not ours or longest > KEPT_KEYS:
        return 0
    return longest // 2 + STRIP_BYTES // 8


def activation_bytes(shape: Shape, recipe: Recipe, *, device: str, value_bytes: int) -> int:
    """Return what the layers keep per token for the backward pass.

    With b bytes a value, hidden size H, intermediate size I, query width Q and
    key-value width K, one layer keeps:

    - the inputs of its two norms, b · 2H on a CPU, 4 · 2H elsewhere; where heads have
      norms of their own, b · (Q + K);
    - each adapted projection's state of rank r in float32, 4 · Σ r; on a CPU nothing else,
      because its input is computed again or kept as something else here; elsewhere,
      and in PEFT's layers (DoRA, NF4), its input in float32, 4 · Σ inputs (without dropout
      and in float32 some are shared, and this is a bound), and what PEFT keeps of dropout's
      masks;
    - with DoRA, the outputs of base and adapter that it scales, 4 · 2 · Σ outputs;
    - queries, keys, values and output of the attention, b · (2Q + 2K), and on a
      CPU its weights, b · heads · kept keys;
    - gate and up-projection, b · 2I, and where they are not computed again the
      activation too, b · I.

    With checkpointing: each layer's input, b · H, and one layer in full.
    """
    on_cpu = device.partition(":")[0] == "cpu"
    computed_again = on_cpu and _is_fused(recipe)
    inputs = 0 if computed_again else (4 + _mask_bytes(recipe, device)) * shape.adapted_inputs
    adapters = inputs + 4 * (shape.adapter_ranks + 2 * shape.dora_outputs)
    n_inner = 2 if on_cpu and shape.silu_gates else 3 if not computed_again else 4
    layer = (
        (value_bytes if on_cpu else 4) * 2 * shape.hidden
        + adapters // shape.n_layers
        + value_bytes * (2 * shape.query + 2 * shape.key_value + shape.head_norms)
        + value_bytes * n_inner * shape.intermediate
        + value_bytes * shape.heads * _kept_keys(recipe, device)
    )
    if recipe.training.gradient_checkpointing:
        return shape.n_layers * value_bytes * shape.hidden + layer
    return shape.n_layers * layer


def _weight_bytes(shape: Shape, quantization: str, value_bytes: int) -> int:
    """NF4: 0.516 bytes per linear weight; all others in the model's dtype."""
    per_linear = NF4_BYTES if quantization == "nf4" else value_bytes
    return round(shape.linear_weights * per_linear) + shape.other_weights * value_bytes


def _logit_bytes(shape: Shape, tokens: int, value_bytes: int, device: str) -> int:
    """Two float32 and two b-byte copies of a chunk; 2b · H per label throughout.

    Where the processor has no products of 16 bits, b is 4, and the output layer is copied.
    """
    from study.engine.head import logits_per_chunk

    chunk = min(
        max(logits_per_chunk(device.partition(":")[0]), shape.vocabulary), tokens * shape.vocabulary
    )
    b = _product_bytes(value_bytes, device)
    copied = 0 if b == value_bytes else b * shape.vocabulary * shape.hidden
    return chunk * (2 * 4 + 2 * b) + tokens * 2 * b * shape.hidden + copied


def _product_bytes(value_bytes: int, device: str) -> int:
    """Return the bytes of a value in products, which may be wider than what is kept."""
    if value_bytes > 2:
        return value_bytes
    import torch

    from study.engine.precision import product_dtype

    return product_dtype(torch.bfloat16, device.partition(":")[0]).itemsize


def _workspace_bytes(shape: Shape, tokens: int, value_bytes: int, device: str) -> int:
    """On a CPU: two values of the inner and of the hidden width for each token, meanwhile."""
    if device.partition(":")[0] != "cpu":
        return 0
    return tokens * value_bytes * 2 * (shape.intermediate + shape.hidden)


def _is_fused(recipe: Recipe) -> bool:
    """Tell whether the engine's own layer serves adapters, not PEFT's."""
    return recipe.adapter.kind != "dora" and recipe.model.quantization == "none"


def _mask_bytes(recipe: Recipe, device: str) -> int:
    """Return what is kept of dropout for each input value.

    The engine's own layer keeps nothing and draws again. PEFT's keeps a mask: a byte per
    value on CUDA, a float32 on a CPU.
    """
    if recipe.adapter.dropout == 0 or _is_fused(recipe):
        return 0
    return 4 if device == "cpu" else 1


class AnswerMemory(NamedTuple):
    """Bytes that answers to prompts take at most, beside the weights, by use."""

    cache: int
    copies_of_weights: int
    one_pass: int

    @property
    def total(self) -> int:
        """Bytes altogether."""
        return sum(self)


def answer_memory(
    recipe: Recipe, shape: Shape, *, device: str, value_bytes: int
) -> tuple[AnswerMemory, int]:
    """Bound the memory of answers that are generated in slots, and say how many there are.

    - the cache, keys and values of a full slot in all layers, times the slots;
    - weights with the adapter added, and the output layer, laid out once more: in float32,
      on a GPU the first alone; the output layer once more in float32 where the processor has
      no products of 16 bits;
    - in one pass, logits of every slot, and gate, up-projection and two states of the
      tokens of prompts in one layer.

    Nothing where the recipe asks for no answers.
    """
    from study.engine.greedy import PREFILL_TOKENS, n_slots

    if recipe.evaluation.generated_answers == 0:
        return AnswerMemory(0, 0, 0), 0
    kind, evaluation = device.partition(":")[0], recipe.evaluation
    width = recipe.data.max_prompt_tokens + evaluation.max_new_tokens
    of_token = 2 * shape.n_layers * shape.key_value * value_bytes
    slots = min(n_slots(of_token, width=width, device=kind), evaluation.generated_answers)
    merged = _is_fused(recipe) and value_bytes == 4 and recipe.training.sharding == "none"
    copied = shape.linear_weights if merged else 0
    b = _product_bytes(value_bytes, device)
    copies = (b == 4) + (b != value_bytes) if kind == "cpu" else 0  # laid out, widened
    output = copies * shape.vocabulary * shape.hidden
    pass_values = max(PREFILL_TOKENS, recipe.data.max_prompt_tokens) * (
        3 * shape.intermediate + 4 * shape.hidden
    )
    memory = AnswerMemory(
        cache=slots * width * of_token,
        copies_of_weights=4 * (copied + output),
        one_pass=value_bytes * (slots * shape.vocabulary + pass_values),
    )
    return memory, slots


def savings(recipe: Recipe, whole: int) -> list[list[str]]:
    """List changes that save memory, the cheapest first; ``whole`` tokens pass at once."""
    pair = 2 * recipe.data.max_length_tokens
    steps = [
        f"training.microbatch_tokens={tokens}"
        for tokens in (whole // 2, whole // 4, whole // 8, pair)
        if pair <= tokens < whole
    ]
    checkpointing = "training.gradient_checkpointing=true"
    return [*([step] for step in steps), [checkpointing], *([s, checkpointing] for s in steps)]


def label(name: str) -> str:
    """Write a field's name in words."""
    return name.removesuffix("_bytes").replace("_", " ")


def size(n_bytes: int) -> str:
    """Write bytes in the unit that suits them."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"
