"""A fork server without PyTorch, for tests of processes only; it starts at once."""

from bsprobe.worker import zygote

if __name__ == "__main__":
    zygote.IMPORTS = ()  # type: ignore[assignment,misc] # in this process only
    zygote.main()
