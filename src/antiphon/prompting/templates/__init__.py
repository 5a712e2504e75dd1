"""The model's own chat template: rendering it, and adapting conversations to what it accepts."""
