"""Reading, checking and writing of bsprobe's files and folders."""
