"""Canonical Huffman codes, streams of code words, and what all codecs do with arrays and their parts."""
