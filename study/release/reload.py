"""Load a released folder as its users do, in a process that knows nothing of this study.

``python -m study.release.reload JOB.json`` uses transformers, and PEFT for an adapter
alone, and writes logits and what the tokenizer does beside the job.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(path: Path) -> None:
    """Do one job and write ``logits.safetensors`` and ``said.json`` beside it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, GenerationConfig

    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    tokenizer: Any = AutoTokenizer.from_pretrained(job["folder"])
    model = _load(job)
    logits = {}
    with torch.inference_mode():
        for number, ids in enumerate(job["rows"]):
            out = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            logits[str(number)] = out.float().cpu().contiguous()
    save_file(logits, path.with_name("logits.safetensors"))
    chats = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat in job["chats"]
    ]
    generation = GenerationConfig.from_pretrained(job["folder"])
    ends = generation.eos_token_id
    said = {
        "n_tokens": len(tokenizer),
        "n_rows": model.get_input_embeddings().weight.shape[0],
        "quantised": getattr(model.config, "quantization_config", None) is not None,
        "template": bool(tokenizer.chat_template),
        "chats": [list(chat) for chat in chats],
        "bos": tokenizer.bos_token_id,
        "pad": tokenizer.pad_token_id,
        "eos": tokenizer.eos_token_id,
        "generation_pad": generation.pad_token_id,
        "ends": ends if isinstance(ends, list) else [ends],
    }
    path.with_name("said.json").write_text(json.dumps(said), encoding="utf-8")


def _load(job: dict[str, Any]) -> Any:
    """Return the model, by the lines that the card shows."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, job["dtype"])
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": job["device"]}}
    if "base" not in job:
        return AutoModelForCausalLM.from_pretrained(job["folder"], **options).eval()
    from peft import PeftModel

    if job["quantization"] == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    base = AutoModelForCausalLM.from_pretrained(job["base"], revision=job["revision"], **options)
    embedding: Any = base.get_input_embeddings()
    if job["n_rows"] > len(embedding.weight):
        base.resize_token_embeddings(job["n_rows"], mean_resizing=False)
    return PeftModel.from_pretrained(base, job["folder"]).eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
