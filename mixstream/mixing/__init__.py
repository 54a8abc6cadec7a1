"""The way of the control: weights -> alias table -> domain draw -> row address."""
