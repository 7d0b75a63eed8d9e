"""Where the memory of a step goes: of a predicted step, and of one that a GPU recorded."""
