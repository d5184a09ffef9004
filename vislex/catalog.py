"""The parts that vislex ships, one table a kind: name -> (target, one line of text, options).

Strings are not imports: reading this module loads nothing. ``options`` are the keyword arguments that belong to the
name (an encoder's architecture, image size, mean and std, and its ``tiny`` override for tests).
"""

from __future__ import annotations

from vislex.catalog_encoders import ENCODERS, Row
from vislex.catalog_llms import LLMS

__all__ = ["CATALOG"]


CONNECTORS: dict[str, Row] = {
    "attention_pool": (
        "vislex.adapters.resamplers:AttentionPoolConnector",
        "queries that see the tokens alone: any number of the first ones at run time (ViLex, TailDrop)",
        {},
    ),
    "average_pool": (
        "vislex.adapters.projections:AveragePoolConnector",
        "means of the cells of a coarser map, then two linear maps (Gemma 3)",
        {},
    ),
    "linear": (
        "vislex.adapters.projections:LinearConnector",
        "one linear map for each token (PaliGemma)",
        {},
    ),
    "mlp": (
        "vislex.adapters.projections:MLPConnector",
        "two linear maps for each token (LLaVA-1.5)",
        {},
    ),
    "perceiver": (
        "vislex.adapters.resamplers:PerceiverConnector",
        "latent queries that look at the tokens and at each other (Flamingo, Idefics2)",
        {},
    ),
    "pixel_shuffle": (
        "vislex.adapters.projections:PixelShuffleConnector",
        "neighbours side by side on the channels, then two linear maps (InternVL)",
        {},
    ),
    "q_former": (
        "vislex.adapters.resamplers:QFormerConnector",
        "a BERT over learned queries that looks at the tokens in every second block (BLIP-2)",
        {},
    ),
}

DECODERS: dict[str, Row] = {
    "cross_attention": (
        "vislex.decoders.cross_attention:CrossAttentionDecoder",
        "causal text transformer that looks at the vision tokens in every layer (BLIP)",
        {},
    ),
    "ladic": (
        "vislex.decoders.ladic.decoder:LadicDecoder",
        "diffusion in the latent space of a split BERT: all words at once (LaDiC)",
        {},
    ),
    "masked": (
        "vislex.decoders.masked:MaskedDecoder",
        "masked diffusion over word pieces: a few steps, any order, fills blanks (DDCap, LLaDA)",
        {},
    ),
    "prefix": (
        "vislex.decoders.prefix:PrefixDecoder",
        "vision tokens before the words in one causal language model (ClipCap, GIT)",
        {},
    ),
}

T2I: dict[str, Row] = {
    "deepfloyd-if": (
        "vislex.diffusion.t2i.deepfloyd_if:DeepFloydIF",
        "DeepFloyd IF-I: T5, 64 x 64 pixels",
        {"pipelines": ("IFPipeline",)},
    ),
    "flux": (
        "vislex.diffusion.t2i.flux:Flux",
        "FLUX.1 dev and schnell: T5 and a pooled CLIP vector, flow",
        {"pipelines": ("FluxPipeline",)},
    ),
    "pixart": (
        "vislex.diffusion.t2i.pixart:PixArt",
        "PixArt-alpha and PixArt-Sigma: T5; also on pixels, without an autoencoder",
        {"pipelines": ("PixArtAlphaPipeline", "PixArtSigmaPipeline")},
    ),
    "sana": (
        "vislex.diffusion.t2i.sana:Sana",
        "Sana: Gemma 2, deeply compressed latents, flow",
        {"pipelines": ("SanaPipeline",)},
    ),
    "stable-diffusion": (
        "vislex.diffusion.t2i.stable_diffusion:StableDiffusion",
        "Stable Diffusion 1.x and 2.x: CLIP, U-Net",
        {"pipelines": ("StableDiffusionPipeline",)},
    ),
    "stable-diffusion-3": (
        "vislex.diffusion.t2i.stable_diffusion_3:StableDiffusion3",
        "Stable Diffusion 3 and 3.5: two CLIPs and T5, flow",
        {"pipelines": ("StableDiffusion3Pipeline",)},
    ),
    "stable-diffusion-xl": (
        "vislex.diffusion.t2i.stable_diffusion_xl:StableDiffusionXL",
        "SDXL: two CLIPs, U-Net",
        {"pipelines": ("StableDiffusionXLPipeline",)},
    ),
    "t2i-tiny": (
        "vislex.diffusion.t2i.pixart:PixArt",
        "PixArt of 4M parameters trained on OpenMoji drawings, shipped with vislex: 48 px",
        {"weights": "t2i-tiny"},
    ),
}

CODECS: dict[str, Row] = {
    "box": ("vislex.segmentation.loc_seg:BoxCodec", "the filled box: the baseline of every codec", {}),
    "loc_seg": (
        "vislex.segmentation.loc_seg:LocSegCodec",
        "4 location and 16 segmentation tokens of a mask tokenizer (PaliGemma)",
        {},
    ),
    "polygon": ("vislex.segmentation.polygon:PolygonCodec", "corners of the outline as plain numbers", {}),
    "seg_head": (
        "vislex.segmentation.seg_head:SegHeadCodec",
        "one token <SEG>, whose mask a head of the model gives (LISA)",
        {},
    ),
    "text_rle": ("vislex.segmentation.text_rle:TextRleCodec", "run lengths inside the box as plain numbers", {}),
}

SCORERS: dict[str, Row] = {
    "anls@1": ("vislex.metrics.vqa:ANLS", "normalised edit distance to the nearest right answer", {}),
    "bertscore@1": ("vislex.metrics.bertscore:BERTSCORE", "greedy matching of BERT states; local weights", {}),
    "bleu@1": ("vislex.metrics.captions:BLEU", "BLEU-1 to BLEU-4 as the official program, without Java", {}),
    "chartqa@1": ("vislex.metrics.vqa:CHARTQA", "relaxed accuracy: numbers within 5 %", {}),
    "cider-d@1": ("vislex.metrics.captions:CIDER_D", "CIDEr-D as the official program, without Java", {}),
    "clipscore@1": ("vislex.metrics.clipscore:CLIPSCORE", "image and caption under CLIP; local weights", {}),
    "diversity@1": ("vislex.metrics.diversity:DIVERSITY", "distinct n-grams, vocabulary, length, novelty", {}),
    "factor-accuracy@1": (
        "vislex.metrics.factors:FACTOR_ACCURACY",
        "what the reader reads from images against the suite's true factors",
        {},
    ),
    "feature-cosine@1": (
        "vislex.metrics.reconstruction:FEATURE_COSINE",
        "image and original under a feature extractor",
        {},
    ),
    "frechet-distance@1": (
        "vislex.metrics.distances:FRECHET",
        "Frechet distance of two sets of images; FID on Inception",
        {},
    ),
    "gqa@1": ("vislex.metrics.vqa:GQA", "exact match without case and punctuation", {}),
    "inception-score@1": (
        "vislex.metrics.distances:INCEPTION",
        "variety and certainty by classes; IS on Inception",
        {},
    ),
    "kernel-distance@1": (
        "vislex.metrics.distances:KERNEL",
        "unbiased kernel distance of two sets; KID on Inception",
        {},
    ),
    "masks@1": ("vislex.metrics.masks:MASKS", "cIoU, mIoU, precision at 0.5 to 0.9, invalid rate", {}),
    "meteor@1": ("vislex.metrics.java:METEOR", "METEOR 1.5 through pycocoevalcap; needs Java", {}),
    "mmvp@1": ("vislex.metrics.vqa:MMVP", "pairs of questions that are both answered right", {}),
    "pope@1": ("vislex.metrics.vqa:POPE", "hallucination: accuracy, precision, recall, F1 and share of yes", {}),
    "psnr@1": ("vislex.metrics.reconstruction:PSNR", "peak signal-to-noise ratio of images and originals", {}),
    "refclipscore@1": ("vislex.metrics.clipscore:REFCLIPSCORE", "CLIPScore joined with the references", {}),
    "retrieval-top1@1": ("vislex.metrics.reconstruction:RETRIEVAL", "is the nearest of all originals its own", {}),
    "rouge-l@1": ("vislex.metrics.captions:ROUGE_L", "ROUGE-L as the official program, without Java", {}),
    "scene-f1@1": (
        "vislex.metrics.scene:score_scenes",
        "captions read back and checked against the suite's factors",
        {},
    ),
    "scienceqa@1": ("vislex.metrics.vqa:SCIENCEQA", "the choice that an answer means: letter, index or text", {}),
    "spice@1": ("vislex.metrics.java:SPICE", "SPICE through pycocoevalcap; needs Java and CoreNLP", {}),
    "ssim@1": ("vislex.metrics.reconstruction:SSIM", "structural similarity of images and originals", {}),
    "vqa-official@1": ("vislex.metrics.vqa:VQA_OFFICIAL", "VQAv2 accuracy as the official program, bit for bit", {}),
    "vqa-soft@1": ("vislex.metrics.vqa:VQA_SOFT", "min(1, equal human answers / 3), nothing normalised", {}),
}

HOSTS: dict[str, Row] = {
    "gemma3": ("vislex.adapters.host_gemma3:FAMILY", "Gemma 3: a square map of tokens, pooled, one matrix", {}),
    "idefics3": ("vislex.adapters.host_idefics3:FAMILY", "Idefics3: square tiles, a square number of tokens each", {}),
    "internvl": ("vislex.adapters.host_internvl:FAMILY", "InternVL 2.5 to 3.5: tiles, a square number of tokens", {}),
    "llava": ("vislex.adapters.host_llava:FAMILY", "LLaVA and LLaVA-1.5: any tokens, two linear maps", {}),
    "llava_next": (
        "vislex.adapters.host_llava_next:FAMILY",
        "LLaVA-NeXT (1.6): square maps of any-res tiles, two linear maps",
        {},
    ),
    "llava_onevision": (
        "vislex.adapters.host_llava_onevision:FAMILY",
        "LLaVA-OneVision: square maps of any-res tiles and of frames, two linear maps",
        {},
    ),
    "paligemma": ("vislex.adapters.host_paligemma:FAMILY", "PaliGemma 1 and 2: any tokens, one linear map", {}),
    "qwen2_5_vl": ("vislex.adapters.host_qwen2_5_vl:FAMILY", "Qwen2.5-VL: any tokens, its visual replaced", {}),
    "qwen2_vl": ("vislex.adapters.host_qwen2_vl:FAMILY", "Qwen2-VL: any tokens, its visual replaced", {}),
    "qwen3_vl": ("vislex.adapters.host_qwen3_vl:FAMILY", "Qwen3-VL: any tokens, its visual replaced, no DeepStack", {}),
    "smolvlm": ("vislex.adapters.host_smolvlm:FAMILY", "SmolVLM 1 and 2: square tiles, tokens in a square", {}),
}

RECIPES: dict[str, Row] = {
    "align": (
        "vislex.recipes.align:RECIPE",
        "the connector between a frozen encoder and a frozen language model, on captions and questions",
        {},
    ),
    "caption": (
        "vislex.recipes.caption:RECIPE",
        "a captioner: any encoder (frozen, LoRA or full) and any decoder, on a suite or photographs",
        {},
    ),
    "dediffusion_pretrain": (
        "vislex.recipes.dediffusion_pretrain:RECIPE",
        "the baseline of ViLex: tokens that are words of the text-to-image model (De-Diffusion)",
        {},
    ),
    "ladic_codec": (
        "vislex.recipes.ladic_codec:RECIPE",
        "the latent space of LaDiC: reads a split BERT's latents back into words, from captions alone",
        {},
    ),
    "ladic_few_step": (
        "vislex.recipes.ladic_few_step:RECIPE",
        "a trained LaDiC captioner in one to four evaluations: multistep consistency distillation",
        {},
    ),
    "lm_pretrain": (
        "vislex.recipes.lm_pretrain:RECIPE",
        "a small Llama-shaped language model on the suite's captions, questions and answers",
        {},
    ),
    "realign": (
        "vislex.recipes.realign:RECIPE",
        "the connector of a host of transformers after 'vislex swap', and the same for the host as it was",
        {},
    ),
    "sft": (
        "vislex.recipes.sft:RECIPE",
        "a vision-language model on instructions; each part frozen, with adapters (LoRA, DoRA, ...) or in full",
        {},
    ),
    "mask_tokenizer": (
        "vislex.recipes.mask_tokenizer:RECIPE",
        "the codes of masks: a VQ-VAE on the masks of a referring data set",
        {},
    ),
    "reader": (
        "vislex.recipes.reader:RECIPE",
        "the reader of the suite's factors from images: an instrument for images that a model drew",
        {},
    ),
    "siglip_pretrain": (
        "vislex.recipes.siglip_pretrain:RECIPE",
        "a small text-aligned encoder: SigLIP from scratch on the OpenMoji suite",
        {},
    ),
    "t2i_pretrain": (
        "vislex.recipes.t2i_pretrain:RECIPE",
        "a small text-to-image model from scratch: diffusers' PixArt transformer and a T5 on pixels",
        {},
    ),
    "vilex_pretrain": (
        "vislex.recipes.vilex_pretrain:RECIPE",
        "an encoder whose tokens a frozen text-to-image model reads like words (ViLex)",
        {},
    ),
}

SUITES: dict[str, Row] = {
    "openmoji": (
        "vislex.data.openmoji.suite:load",
        "scenes of emoji drawings by two artists: captions, VQA, referring segmentation, images",
        {},
    ),
    "coco": ("vislex.data.coco:load", "COCO captions in Karpathy's splits, from a folder or a hub id", {}),
    "coco35l": ("vislex.data.coco35l:load", "COCO-35L captions in 35 languages, from a folder", {}),
    "flickr30k": ("vislex.data.flickr30k:load", "Flickr30k captions, from a folder or a hub id", {}),
    "shards": (
        "vislex.training.shards:load",
        "images with captions in tar (webdataset) or parquet files, which trainings can stream",
        {},
    ),
    "folder": ("vislex.data.folder:load", "your own images with captions.jsonl", {}),
    "gqa": ("vislex.data.gqa:load", "GQA (compositional VQA), from a folder or a hub id", {}),
    "localized_narratives": (
        "vislex.data.localized_narratives:load",
        "Localized Narratives (long captions), from a folder or a hub id",
        {},
    ),
    "msrvtt": ("vislex.data.msrvtt:load", "MSR-VTT (videos): captions and MSRVTT-QA, from a folder", {}),
    "msvd": ("vislex.data.msvd:load", "MSVD-QA (questions on videos), from a folder", {}),
    "nocaps": ("vislex.data.nocaps:load", "NoCaps by domain, from a folder or a hub id", {}),
    "okvqa": ("vislex.data.okvqa:load", "OK-VQA (outside knowledge), from a folder or a hub id", {}),
    "refcoco": ("vislex.data.refcoco:load", "RefCOCO (referring segmentation), from a folder or a hub id", {}),
    "refcoco+": ("vislex.data.refcoco:load_plus", "RefCOCO+ (no words of place), from a folder or a hub id", {}),
    "refcocog": ("vislex.data.refcoco:load_g", "RefCOCOg (longer expressions), from a folder or a hub id", {}),
    "scicap": ("vislex.data.scicap:load", "SciCap (figures of papers), from a folder", {}),
    "scienceqa": ("vislex.data.scienceqa:load", "ScienceQA with images (choices), from a folder or a hub id", {}),
    "textcaps": ("vislex.data.textcaps:load", "TextCaps, from a folder or a hub id", {}),
    "textvqa": ("vislex.data.textvqa:load", "TextVQA (reading), from a folder or a hub id", {}),
    "vizwiz": ("vislex.data.vizwiz:load", "VizWiz-VQA (photographs of blind people), from a folder or a hub id", {}),
    "vqav2": ("vislex.data.vqav2:load", "VQAv2, from a folder or a hub id", {}),
}

CATALOG: dict[str, dict[str, Row]] = {
    "encoders": ENCODERS,
    "connectors": CONNECTORS,
    "decoders": DECODERS,
    "llms": LLMS,
    "t2i": T2I,
    "codecs": CODECS,
    "scorers": SCORERS,
    "hosts": HOSTS,
    "recipes": RECIPES,
    "suites": SUITES,
}
