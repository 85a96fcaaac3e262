"""The policy: a language model, its tokenizer and chat template, adapters, sizes."""
