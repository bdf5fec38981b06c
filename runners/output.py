"""Where commands print."""

import os

from rich.console import Console


class Output(Console):
    """Standard output. Work goes on where whoever read it has closed it, as `head` does."""

    def on_broken_pipe(self) -> None:
        """Say nothing more; rich would end the process."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)
