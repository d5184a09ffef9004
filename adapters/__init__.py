"""What joins vision to a language model: connectors, language backbones, vision-language models."""
