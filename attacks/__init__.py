"""Attacks, which craft adversarial examples within a budget, and the attacker's knowledge."""
