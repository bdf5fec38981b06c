"""The leaderboard: entries that are checked and replayed before they are listed, and its pages."""
