"""Training of any `torch.nn.Module` by a recipe: knows no architecture."""
