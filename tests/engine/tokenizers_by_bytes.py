"""Tokenizers whose tokens may be parts of a character, with special tokens for turns of a chat."""

from transformers import PreTrainedTokenizerFast

SPECIAL = ("<eos>", "<mask>", "<|end|>", "<|turn|>")


def byte_level():
    """Every byte is a token, as in GPT-2's alphabet; an incomplete character is U+FFFD until its bytes are there."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", mask_token="<mask>")


def byte_fallback():
    """As Llama 2's and Gemma's: what has no letter becomes bytes <0xNN>, and one bad byte spoils the whole run."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    vocab |= {letter: 257 + index for index, letter in enumerate("\u2581abcdefghijklmnopqrstuvwxyz.")}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", mask_token="<mask>", unk_token="<unk>", pad_token="<eos>"
    )


def encode(tokenizer, text):
    """Return a text's tokens; special tokens written in it are special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


TOKENIZERS = {"byte level": byte_level, "byte fallback": byte_fallback}
