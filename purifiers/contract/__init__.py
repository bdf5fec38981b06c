"""What every purifier must hold, and the checks of it."""
