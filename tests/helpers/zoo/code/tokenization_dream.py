"""A stand-in for the tokenizer that a checkpoint brings along: in Python, with a vocabulary in two files."""

import json
import os

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizer

PIECES = Regex(r"\nAnswer:|\n#### |<<|>>|\d| ?\p{L}+|[^\s\p{L}\d]|\s")


FILES = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}


class DreamTokenizer(PreTrainedTokenizer):
    vocab_files_names = FILES

    def __init__(self, vocab_file, merges_file, **kwargs):
        with open(vocab_file, encoding="utf-8") as file:
            self.encoder = json.load(file)
        self.decoder = {i: text for text, i in self.encoder.items()}
        self.pieces = Tokenizer(models.BPE.from_file(vocab_file, merges_file))
        self.pieces.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(PIECES, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self.characters = {character: byte for byte, character in _characters().items()}
        with open(merges_file, encoding="utf-8") as file:
            self.merges = file.read()
        super().__init__(**kwargs)

    @property
    def vocab_size(self):
        return len(self.encoder)

    def get_vocab(self):
        return self.encoder | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        return self.pieces.encode(text).tokens

    def _convert_token_to_id(self, token):
        return self.encoder.get(token)

    def _convert_id_to_token(self, index):
        return self.decoder.get(index)

    def convert_tokens_to_string(self, tokens):
        return bytearray(self.characters[c] for c in "".join(tokens)).decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        paths = [os.path.join(save_directory, name) for name in FILES.values()]
        for path, text in zip(paths, (json.dumps(self.encoder), self.merges), strict=True):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return tuple(paths)


def _characters():
    """The printable character of each byte, as byte-level BPE has it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(others)}
