"""`make bench`: Lamppost beside what a person would otherwise run, on the same machine, in the same
minutes. docs/measured.md holds the figures and how to read them."""
