"""``ladic``: a caption decoder that denoises the latents of a split BERT (arXiv 2404.10763)."""
