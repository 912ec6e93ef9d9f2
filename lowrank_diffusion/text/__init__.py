"""Everything about language models: rows of text, base models, the loss on tokens, answers, metrics."""
