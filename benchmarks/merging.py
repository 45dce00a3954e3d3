"""The rounding error of merging an adapter, by depth and dtype, on random models.

    python benchmarks/merging.py

For each it prints the difference between base + adapter and the merged model, as `sparring export`
measures it (docs/models.md has the figures). Nothing is downloaded.
"""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.export.export import compare, merged

SIZES = ((2, 128), (8, 256), (24, 512), (32, 512))
"""(layers, hidden size) of each model."""
VOCABULARY = 4000


def base(layers: int, width: int, dtype: torch.dtype) -> Any:
    """A random Qwen2, initialized so that its activations neither vanish nor explode."""
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        tie_word_embeddings=False,
        initializer_range=width**-0.5,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def main() -> None:
    """Merge an adapter into a model of every size and dtype, and print the differences."""
    ids = torch.randint(0, VOCABULARY, (2, 64), generator=torch.Generator().manual_seed(1))

    def logits(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            scores: torch.Tensor = model(ids).logits
        return scores.float().flatten(0, 1)

    for layers, width in SIZES:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            plain = base(layers, width, dtype)
            lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
            model = get_peft_model(copy.deepcopy(plain), lora).eval()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, 0.01)
            before, expected = logits(plain), logits(model)
            with TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                whole, _, _ = merged(plain, Path(folder), logits)
            comparison = compare("merged", str(dtype)[6:], expected, logits(whole), before)
            print(
                f"{layers} layers: {comparison}, {comparison.largest / comparison.highest:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
