"""A host's dialogues as training batches: prompts as it will be asked, answers that are learned, idle padding."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import vislex
from vislex.adapters.host_turns import host_batch, host_inputs, host_prompts
from vislex.adapters.hosts import host_family
from vislex.adapters.instructions import Example, Turn

EXAMPLES = [
    Example((Turn("user", "<image>what is shown ?"), Turn("assistant", "a")), (0,)),
    Example((Turn("user", "<image>what is a red dog ?"), Turn("assistant", "two red kites .")), (0,)),
]


@pytest.mark.parametrize("name", vislex.list_hosts())
@torch.no_grad()
def test_answers_follow_the_prompt_that_the_host_will_be_asked_with(tiny_hosts: ModuleType, name: str) -> None:
    model, processor = tiny_hosts.build(name)
    family = host_family(name)
    noise = np.random.default_rng(0).integers(0, 255, (2, 30, 44, 3), dtype=np.uint8)
    images = [[Image.fromarray(pixels)] for pixels in noise]
    batch = host_batch(family, processor, EXAMPLES, images, max_length=8)
    prompts = host_prompts(processor, EXAMPLES)
    asked = host_inputs(processor, [prompt for prompt, _ in prompts], images)
    for row, (_, answer) in enumerate(prompts):
        learned = batch["labels"][row] != -100
        wanted = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        assert torch.equal(batch["input_ids"][row][learned], wanted)
        before = batch["attention_mask"][row].bool() & ~learned
        assert torch.equal(
            batch["input_ids"][row][before], asked["input_ids"][row][asked["attention_mask"][row].bool()]
        )

    alone = [
        host_batch(family, processor, [own], [image], max_length=8) for own, image in zip(EXAMPLES, images, strict=True)
    ]
    counts = [int((own["labels"] != -100).sum()) for own in alone]
    each = [float(model(**own).loss) * count for own, count in zip(alone, counts, strict=True)]
    assert float(model(**batch).loss) == pytest.approx(sum(each) / sum(counts), rel=1e-4)
    cut = host_batch(family, processor, EXAMPLES, images, max_length=1)
    assert (cut["labels"] != -100).sum() == 2
