"""Evaluation: decode examples, check the answers, and write, draw or tabulate the results."""
