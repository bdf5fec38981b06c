"""Attacks: adversarial examples within a budget, and what the attacker knows."""
