"""The way of feedback: one number a domain -> weights; numpy and scipy only."""
