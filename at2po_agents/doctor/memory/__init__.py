"""What memory a training needs, by arithmetic: whether it fits on GPUs, and what makes it fit."""
