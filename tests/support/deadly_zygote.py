"""A fork server without PyTorch whose children are killed before they send a message."""

import os
import signal

from bsprobe.worker import zygote

if __name__ == "__main__":
    zygote.IMPORTS = ()  # type: ignore[assignment,misc] # in this process only
    zygote._become = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    zygote.main()
