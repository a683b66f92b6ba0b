"""What a language model writes for training: questions about clips, from their captions."""
