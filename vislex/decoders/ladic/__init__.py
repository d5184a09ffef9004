"""LaDiC: captions by diffusion in the latent space of a split BERT (arXiv 2404.10763)."""
