"""Capture models of the transformers library with torch's tracer and with ours.

Every architecture is made from a tiny configuration with random weights; nothing is downloaded.
Captured are the forward pass, with parameters and buffers as inputs, and forward and backward
together. Graphs must be the same and compute what the model computes; what torch's tracer refuses,
ours may refuse as well. ::

    python tests/sweep/sweep_models.py
    python tests/sweep/sweep_models.py --only mamba --mode fake --form training
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from agreement import HIDDEN, PRE_DISPATCH, Outcome, Verdict, add_modes, chosen_modes, compare
from resized import ACCEPTED
from running import SEED
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

FORMS = ("forward", "training")
TOLERANCE = 1e-5
STEPS = (1, 2, 4, -8)
"""Sizes of inputs besides the example's; the last has a batch of one."""

NO_DROPOUT = {
    "attention_dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 32}
DECODER = {**TEXT, "num_key_value_heads": 1, "use_cache": False, "attention_dropout": 0.0}
ENCODER = {**TEXT, **NO_DROPOUT}
PICTURE = {**SMALL, **NO_DROPOUT, "image_size": 16, "patch_size": 8}
SPEECH = {
    **SMALL,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 20,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to make a model and example inputs.

    Attributes:
        model: The model's class.
        config: Its configuration's class.
        settings: What the configuration is given.
        inputs: Makes inputs, by the names of parameters: examples, or by a step of a batch and, if
            the model allows, a length that is so much larger. The sizes of the examples are none of
            the model's own, with which a symbolic capture would take them for the same.
    """

    model: str
    config: str
    settings: dict[str, Any]
    inputs: Callable[..., dict[str, Tensor]]

    def make(self) -> nn.Module:
        """Return the model in evaluation mode, where nothing is dropped or drawn."""
        torch.manual_seed(SEED)
        config = getattr(transformers, self.config)(**self.settings)
        model: nn.Module = getattr(transformers, self.model)._from_config(
            config, attn_implementation="eager"
        )
        return model.eval()


def tokens(step: int = 0) -> dict[str, Tensor]:
    # With a mask, decoders do not look for packed sequences in the values of positions; without
    # one, encoders do not look whether it masks anything. Reading is refused, by torch as well.
    ids = tokens_only(step)["input_ids"]
    return {"input_ids": ids, "attention_mask": torch.ones(ids.shape).long()}


def tokens_only(step: int = 0) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(2, 50, (9 + step, 11 + 2 * max(step, 0)))}


def token_pairs(step: int = 0) -> dict[str, Tensor]:
    return {**tokens_only(step), **decoded(step)}


def decoded(step: int) -> dict[str, Tensor]:
    ids = torch.randint(2, 50, (9 + step, 10 + max(step, 0)))
    return {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones(ids.shape).long()}


def picture(step: int = 0) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(9 + step, 3, 16, 16)}


def large_picture(step: int = 0) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(9 + step, 3, 32, 32)}


def sound(step: int = 0) -> dict[str, Tensor]:
    return {"input_values": torch.randn(9 + step, 400 + 40 * max(step, 0))}


def spectrogram(step: int = 0) -> dict[str, Tensor]:
    return {"input_features": torch.randn(9 + step, 8, 12), **decoded(step)}


def tokens_and_picture(step: int = 0) -> dict[str, Tensor]:
    return {**tokens(step), **picture(step)}


ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "vocab_size": 50,
            "n_positions": 32,
            "use_cache": False,
        },
        tokens,
    ),
    "llama": Architecture("LlamaForCausalLM", "LlamaConfig", DECODER, tokens),
    "qwen2": Architecture("Qwen2ForCausalLM", "Qwen2Config", DECODER, tokens),
    "mistral": Architecture(
        "MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 4}, tokens
    ),
    "gemma": Architecture("GemmaForCausalLM", "GemmaConfig", {**DECODER, "head_dim": 8}, tokens),
    "opt": Architecture(
        "OPTForCausalLM",
        "OPTConfig",
        {**DECODER, "ffn_dim": 24, "word_embed_proj_dim": 16},
        tokens,
    ),
    "gpt-neox": Architecture("GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER, tokens),
    "bert": Architecture("BertModel", "BertConfig", ENCODER, tokens_only),
    "roberta": Architecture("RobertaModel", "RobertaConfig", ENCODER, tokens_only),
    "albert": Architecture(
        "AlbertModel", "AlbertConfig", {**ENCODER, "embedding_size": 8}, tokens_only
    ),
    "electra": Architecture(
        "ElectraModel", "ElectraConfig", {**ENCODER, "embedding_size": 8}, tokens_only
    ),
    "distilbert": Architecture(
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 16, "hidden_dim": 24, "n_heads": 2, "n_layers": 2, "vocab_size": 50},
        tokens_only,
    ),
    "t5": Architecture(
        "T5Model",
        "T5Config",
        {
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 50,
            "use_cache": False,
        },
        token_pairs,
    ),
    "bart": Architecture(
        "BartModel",
        "BartConfig",
        {
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "vocab_size": 50,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
        token_pairs,
    ),
    "vit": Architecture("ViTModel", "ViTConfig", PICTURE, picture),
    "deit": Architecture("DeiTModel", "DeiTConfig", PICTURE, picture),
    "clip": Architecture(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": TEXT, "vision_config": PICTURE, "projection_dim": 8},
        tokens_and_picture,
    ),
    "swin": Architecture(
        "SwinModel",
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        large_picture,
    ),
    "convnext": Architecture(
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]},
        large_picture,
    ),
    "resnet": Architecture(
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]},
        large_picture,
    ),
    "mobilenet": Architecture(
        "MobileNetV2Model",
        "MobileNetV2Config",
        {"image_size": 32, "depth_multiplier": 0.25},
        large_picture,
    ),
    "mamba": Architecture(
        "MambaForCausalLM",
        "MambaConfig",
        {
            "hidden_size": 16,
            "state_size": 4,
            "num_hidden_layers": 2,
            "vocab_size": 50,
            "use_cache": False,
        },
        tokens_only,
    ),
    "wav2vec2": Architecture("Wav2Vec2Model", "Wav2Vec2Config", SPEECH, sound),
    "hubert": Architecture("HubertModel", "HubertConfig", SPEECH, sound),
    "whisper": Architecture(
        "WhisperModel",
        "WhisperConfig",
        {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "vocab_size": 50,
            "num_mel_bins": 8,
            "max_source_positions": 6,
            "max_target_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "use_cache": False,
        },
        spectrogram,
    ),
}
"""Decoders, encoders, both together, pictures, state spaces and sound."""


def main() -> int:
    """Run the sweep that the command line asks for; return how many captures differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(ARCHITECTURES), help="default: all")
    add_modes(parser)
    parser.add_argument("--form", choices=FORMS, action="append", help="default: both")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    start = time.perf_counter()
    columns = list(itertools.product(options.form or FORMS, chosen_modes(options)))
    names = options.only or list(ARCHITECTURES)
    print(f"{'':12}" + "".join(f"{form + ', ' + mode:>36}" for form, mode in columns))
    failures: list[str] = []
    for name in names:
        print(f"{name:12}", end="", flush=True)
        for (form, mode), verdict in sweep(name, columns):
            accepted = verdict.resized.get(ACCEPTED)
            sizes = "" if accepted is None else f", {accepted + 1} sizes"
            told = f"{verdict.outcome.value} ({verdict.nodes} nodes{sizes})"
            print(f"{told:>36}", end="", flush=True)
            if verdict.outcome not in (Outcome.SAME, Outcome.BOTH_RAISE):
                command = f"python tests/sweep/sweep_models.py --only {name} --mode {mode}"
                failures.append(f"{command} --form {form}\n  {verdict.detail[:1000]}")
        print()
    print("", *failures, sep="\n")
    captures = len(names) * len(columns)
    print(f"{captures} comparisons, {len(failures)} differ, {time.perf_counter() - start:.0f} s")
    return len(failures)


def sweep(name: str, columns: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Verdict]]:
    """Compare the captures of one architecture in each form and mode.

    With integers, the captured function takes a number besides and computes with it. Symbolic
    graphs are run at other sizes as well.
    """
    architecture = ARCHITECTURES[name]
    model = architecture.make()
    for form, mode in columns:
        make = forward if form == "forward" else training
        function, _ = make(model, architecture.inputs())
        if mode == "integers":
            function = scaled(function)
        inputs, *resized = (
            [*[3 + abs(step)] * (mode == "integers"), *make(model, architecture.inputs(step))[1]]
            for step in (0, *STEPS)
        )
        hidden = form == "training" and mode.startswith(PRE_DISPATCH)
        yield (
            (form, mode),
            compare(
                function,
                inputs,
                mode,
                eager=True,
                tolerance=TOLERANCE,
                not_computed=HIDDEN if hidden else None,
                resized=resized,
            ),
        )


def scaled(function: Callable[..., Sequence[Tensor]]) -> Callable[..., list[Tensor]]:
    """Return a function that is given a number as well, and scales and pads by it."""

    def with_number(count: int, *values: Tensor) -> list[Tensor]:
        results = [result * count for result in function(*values)]
        return [*results, torch.nn.functional.pad(results[0].reshape(-1), (0, count))]

    return with_number


def forward(
    model: nn.Module, inputs: dict[str, Tensor]
) -> tuple[Callable[..., list[Tensor]], list[Tensor]]:
    """Return the model as a function of its state and inputs, and these."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def function(*values: Tensor) -> list[Tensor]:
        given = dict(zip(state, values, strict=False))
        named = dict(zip(inputs, values[len(state) :], strict=True))
        with attributes_restored(model):
            result = torch.func.functional_call(model, given, kwargs=named)
        return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

    return function, [value.detach() for value in (*state.values(), *inputs.values())]


@contextmanager
def attributes_restored(model: nn.Module) -> Generator[None, None, None]:
    """Undo what a model writes to itself: Swin keeps sizes, which are symbols of one capture."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def training(
    model: nn.Module, inputs: dict[str, Tensor]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """Return loss and gradients as a function of the model's state and inputs, and these."""
    call, values = forward(model, inputs)
    count = len(list(model.parameters()))

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        outputs = [value for value in call(*values) if value.is_floating_point()]
        loss = torch.stack([value.pow(2).mean() for value in outputs]).sum()
        return loss, *torch.autograd.grad(loss, values[:count], materialize_grads=True)

    trained = [value.clone().requires_grad_() for value in values[:count]]
    return function, [*trained, *values[count:]]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
