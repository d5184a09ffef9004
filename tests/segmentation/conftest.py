"""A mask tokenizer that is small and has weights of some size, so that its codes differ."""

from __future__ import annotations

import pytest
import torch

from vislex.segmentation.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig


@pytest.fixture(scope="session")
def tiny_tokenizer() -> MaskTokenizer:
    torch.manual_seed(0)
    config = MaskTokenizerConfig(channels=(4, 4, 4, 4), num_residual_blocks=1, code_dim=8)
    model = MaskTokenizer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
        model.codebook.normal_()
    return model
