"""The leaderboard: entries that are checked and replayed before they are listed, and the pages of them."""
