"""From logits to text: sampling, grammar constraints, repetition, speculation, detokenisation."""
