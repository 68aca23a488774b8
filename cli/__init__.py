"""The command line `cellseg`: one file per command, each of which only connects the package's parts."""
