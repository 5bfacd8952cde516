"""A Hopyard pass that folds chains of multiplications by constants."""
