import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from vislex.errors import CheckpointError, ConfigError, DataError
from vislex.metrics.bertscore import BertScorer, score_bert
from vislex.metrics.clipscore import PROMPT, ClipScorer, score_clip

WORDS = ["A", "photo", "depicts", "a", "red", "blue", "dog", "cat", "tree", "near", "the", "sits", "big", "small"]
CANDIDATES = {"x": "a red dog", "y": "the blue cat sits near a tree"}
REFERENCES = {"x": ["a red dog", "the small dog sits"], "y": ["a big cat"]}


def tokenizer(first, last, length):
    vocabulary = {word: i for i, word in enumerate(["<pad>", first, last, "<unk>", *dict.fromkeys(WORDS)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", model_max_length=length
    ), vocabulary


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    text, vocabulary = tokenizer("<bos>", "<eos>", 16)
    text.bos_token, text.eos_token = "<bos>", "<eos>"
    layer = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": vocabulary["<bos>"], "eos_token_id": vocabulary["<eos>"], "pad_token_id": 0}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**layer, **special, "vocab_size": len(vocabulary), "max_position_embeddings": 16},
        vision_config={**layer, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=text).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return {name: Image.fromarray(draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for name in CANDIDATES}


def test_clipscore_is_the_clipped_cosine_of_the_model(clip_folder, images):
    scorer = ClipScorer(clip_folder, batch_size=1)
    scores = scorer(CANDIDATES, images, REFERENCES)
    inputs = scorer.processor(
        text=[PROMPT + "a red dog", *(PROMPT + text for text in REFERENCES["x"])],
        images=images["x"],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = scorer.model(**inputs)
    cosine = max(float(output.image_embeds[0] @ output.text_embeds[0]), 0)
    assert scores["CLIPScore"][0] == pytest.approx(2.5 * cosine, abs=1e-5)
    best = max(float((output.text_embeds[0] @ output.text_embeds[1:].T).max()), 0)
    assert best == pytest.approx(1, abs=1e-5)  # a reference equals the candidate
    harmonic = 2 * 2.5 * cosine * best / (2.5 * cosine + best)
    assert scores["RefCLIPScore"][0] == pytest.approx(harmonic, abs=1e-5)
    assert scorer.id == f"clipscore@1[{clip_folder}]"


def test_clipscore_does_not_depend_on_the_batch_and_cuts_long_captions(clip_folder, images):
    long = {"x": "a red dog " * 20, "y": "cat"}
    singles, batch = (ClipScorer(clip_folder, batch_size=size)(long, images)["CLIPScore"] for size in (1, 8))
    np.testing.assert_allclose(singles, batch, atol=1e-5)
    assert list(score_clip(CANDIDATES, images, model=clip_folder)) == ["CLIPScore"]


def test_clipscore_refuses_what_it_cannot_use(clip_folder, images, tmp_path):
    with pytest.raises(DataError, match="no image, such as 'y'"):
        ClipScorer(clip_folder)(CANDIDATES, {"x": images["x"]})
    with pytest.raises(CheckpointError, match="cannot open"):
        ClipScorer(str(tmp_path))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    text, vocabulary = tokenizer("[CLS]", "[SEP]", 32)
    text.cls_token, text.sep_token = "[CLS]", "[SEP]"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    text.save_pretrained(folder)
    return str(folder)


def test_bertscore_matches_each_word_greedily(bert_folder):
    scorer = BertScorer(bert_folder, layer=1)
    scores = scorer({"x": "a red dog"}, {"x": ["the cat sits near"]})
    states = []
    for text in ("a red dog", "the cat sits near"):
        with torch.inference_mode():
            output = scorer.model(**scorer.tokenizer([text], return_tensors="pt"), output_hidden_states=True)
        states.append(torch.nn.functional.normalize(output.hidden_states[1][0], dim=-1))
    cosine = states[0] @ states[1].T  # [CLS] ... [SEP] on both sides
    precision, recall = cosine.amax(1)[1:-1].mean().item(), cosine.amax(0)[1:-1].mean().item()
    assert scores["BERTScore-P"][0] == pytest.approx(precision, abs=1e-5)
    assert scores["BERTScore-R"][0] == pytest.approx(recall, abs=1e-5)
    assert scores["BERTScore-F1"][0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_bertscore_takes_the_best_reference_and_says_what_it_is(bert_folder):
    both = BertScorer(bert_folder)(CANDIDATES, REFERENCES)["BERTScore-F1"]
    assert both[0] == pytest.approx(1.0, abs=1e-5)
    assert both[1] < 1
    assert BertScorer(bert_folder, idf=True).id == f"bertscore@1[{bert_folder},layer 2,idf]"


def test_idf_weighs_common_words_less(bert_folder):
    # "a" is in every reference and weighs log(1) = 0, so only "dog" against "cat" counts
    references = {"x": ["a cat"], "y": ["a dog"]}
    plain, weighted = (
        BertScorer(bert_folder, idf=idf)({"x": "a dog", "y": "a dog"}, references)["BERTScore-R"][0]
        for idf in (False, True)
    )
    assert weighted < plain


def test_bertscore_with_the_packaged_model_ranks_a_paraphrase_above_a_stranger():
    scores = [
        score_bert({"x": text}, {"x": ["a small dog sits near a tree"]})["BERTScore-F1"]
        for text in ("a small dog sits near a tree", "a little puppy is sitting by a tree", "two red cars")
    ]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert all(better > worse for better, worse in itertools.pairwise(scores))


def test_bertscore_refuses_a_layer_or_model_that_is_not_there(bert_folder, tmp_path):
    with pytest.raises(ConfigError, match="no layer 7; allowed are 1 to 2"):
        BertScorer(bert_folder, layer=7)
    with pytest.raises(CheckpointError, match="cannot open"):
        BertScorer(str(tmp_path))
