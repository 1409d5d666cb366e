"""Small tokenizers of the kinds that published models have, each with the same special tokens and a chat template."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|end|>", "<|turn|>", "<|close|>", "<|mask|>"]  # the first is EOS, the last the mask
CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def _finished(backend, template, added=(), normalized=False):
    backend.add_special_tokens([AddedToken(text, special=True, normalized=normalized) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False, normalized=normalized) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", mask_token="<|mask|>", chat_template=template
    )


def byte_level(template=CHATML, added=(), normalizer=None):
    """Every byte is a token, as in GPT-2's, Qwen's and Llama 3's before any merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({text: index for index, text in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    return _finished(backend, template, added, normalized=normalizer is not None)


def word_pieces(template=CHATML, added=(), normalized=False):
    """As BERT's: lower case, punctuation apart, words in pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz|<>/_?!."
    words = ["[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return _finished(backend, template, added, normalized)


def sentence_pieces(template=CHATML, added=()):
    """As Llama 2's and Gemma's: a space becomes a letter, which also begins a text; what is no letter becomes bytes."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for letter in "\u2581abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(backend, template, added)


def _unigram(words, template):
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<unk>", 0.0), *((word, 0.0) for word in words), *((letter, -2.0) for letter in ["\u2581", *letters])]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _finished(backend, template)


def unigram(template=CHATML):
    """As T5's; special tokens are not among the pieces."""
    return _unigram([], template)


def unigram_with_special_pieces(template=CHATML):
    """As XLM-R's: special tokens are pieces too, so their text cannot be told from them."""
    return _unigram(SPECIAL, template)


KINDS = [byte_level, word_pieces, sentence_pieces, unigram]
