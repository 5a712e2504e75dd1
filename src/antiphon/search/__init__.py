"""Search in texts, for the toolkit's index and the server's vector stores alike: chunks, words, vectors, one file.

``index_file`` is the file; ``chunking`` cuts documents; ``converted`` reads what is not plain text; ``fusion`` makes one ranking of
two. Nothing here calls a model: the caller brings the vectors.
"""
