"""Bad input by the thousand: mutated files of every kind, through the command line.

``mutation`` changes documents, texts, bytes and files; ``kinds`` says which files there are, what a
good one looks like and which commands read it; ``worker`` runs cases in a process of its own and
measures their time and memory. What it cannot prove: what files of other kinds would do.
"""
