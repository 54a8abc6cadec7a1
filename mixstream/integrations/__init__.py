"""One small file for each trainer; each imports its trainer, so nothing is imported from here.

huggingface, accelerator, lightning_trainer: a Loader under a trainer, in its own checkpoints.
mixture_log, tensorboard: the mixture as numbers by name, for W&B, MLflow and TensorBoard.
"""
