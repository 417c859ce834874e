"""What a model takes in memory: arithmetic on its configuration and the headers of its weight files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import parse_local_safetensors_file_metadata

BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class ModelSize:
    """The shape of a decoder; all counts are of the whole model."""

    parameters: int
    layers: int
    width: int
    """Of the hidden states."""
    inner: int
    """Of the layers' feed-forward part."""
    keys: int
    """Numbers in the keys of one token in one layer; its values have as many."""
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> ModelSize:
        """Of a Hugging Face folder."""
        headers = (parse_local_safetensors_file_metadata(file) for file in Path(folder).glob("*.safetensors"))
        parameters = sum(sum(header.parameter_count.values()) for header in headers)
        whole = json.loads((Path(folder) / "config.json").read_text())
        config = whole.get("text_config", whole)  # models that also see have one for each part
        width, heads = config["hidden_size"], config["num_attention_heads"]
        groups = config.get("num_key_value_heads") or heads
        return cls(
            parameters=parameters,
            layers=config["num_hidden_layers"],
            width=width,
            inner=config.get("intermediate_size") or 4 * width,
            keys=groups * (config.get("head_dim") or width // heads),
            vocabulary=config["vocab_size"],
        )

    def bytes(self, dtype: str) -> int:
        """Of one copy of the weights."""
        return self.parameters * BYTES[dtype]

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA's matrices beside every linear layer; queries are taken to be twice as wide as the hidden states,
        which few models have them be."""
        attention, feed_forward = 2 * 3 * self.width + 2 * (self.width + self.keys), 3 * (self.width + self.inner)
        return self.layers * rank * (attention + feed_forward)

    def checkpoint_bytes(self, dtype: str, lora_rank: int = 0) -> int:
        """Of one checkpoint: a model to load anywhere, and of all that is trained the master weights and two moments in
        float32. Adapters are there by themselves as well, in float32."""
        if lora_rank:
            return self.bytes(dtype) + self.adapter_parameters(lora_rank) * (3 * 4 + 4)
        return self.bytes(dtype) + self.parameters * 3 * 4

    def cached_bytes(self, tokens: int, dtype: str) -> int:
        """Of the keys and values of so many tokens in all layers."""
        return tokens * 2 * self.layers * self.keys * BYTES[dtype]

    def layer_bytes(self, tokens: int, dtype: str) -> int:
        """Of what one layer computes for so many tokens: norms, queries, keys, values and outputs, feed-forward."""
        return tokens * (10 * self.width + 3 * self.inner) * BYTES[dtype]

    def logit_bytes(self, tokens: int) -> int:
        """Of so many tokens' logits in float32: as they are, scaled, and their log-softmax."""
        return 3 * 4 * tokens * self.vocabulary
