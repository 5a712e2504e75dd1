"""Messages, tools and schema into prompt and grammar; generated text back into content and tool calls."""
