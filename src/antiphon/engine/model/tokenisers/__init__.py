"""The vocabulary of a GGUF file from its metadata alone, without llama.cpp: the same tokens for every text, and the same facts.

``TokenizerFacts`` are what the file says, ``TokenTable`` what each token is. Three modules tokenise plain text: ``byte_level``,
``sentencepiece`` and ``word_piece``. Where Unicode defines a class of characters, llama.cpp's table and ours may be of
different versions: a character that is newer than one of them can be split off elsewhere.
"""
