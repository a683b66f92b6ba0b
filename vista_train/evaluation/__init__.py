"""How well a model understands long and high-resolution video: needle heat maps, and multiple-choice benchmarks."""
