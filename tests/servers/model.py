"""A llama model of random weights, small enough to be made for each run of the tests: its answers mean nothing.

What it says is drawn mostly from syllables, with some bytes between that are no whole character: servers that stream
must hold those back. Needs the packages `gguf` and `numpy`, which come with the extra `servers`.
"""

from itertools import product
from pathlib import Path
from typing import Any

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
_LAYERS, _WIDTH, _INNER, _HEADS = 2, 64, 128, 4
_CONTEXT = 4096
_SYLLABLES = tuple(f"{a}{b}{c}" for a, b, c in product(("▁", ""), "bdfghklmnprst", "aeiou"))
_SIGNS = tuple(" ▁abcdefghijklmnopqrstuvwxyz0123456789.,?'$%-"[1:])
_ANCHOR = 4.0
"""What every token holds in the first place of its vector, where nothing else is written: the last matrix's first
column is thus a bias."""
_SYLLABLE, _SIGN, _ASCII, _HALF, _END, _NEVER = 1.0, 0.0, -1.2, 0.2, -0.6, -20.0


def write_model(path: Path, *, more_words: int = 0, seed: int = 7) -> Path:
    """Write the model; with many more words (that it may say, too) a server takes longer to load it."""
    import gguf  # noqa: PLC0415 - only where the extra is installed

    vocabulary = _vocabulary(more_words)
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("random")
    out.add_context_length(_CONTEXT)
    out.add_embedding_length(_WIDTH)
    out.add_block_count(_LAYERS)
    out.add_feed_forward_length(_INNER)
    out.add_head_count(_HEADS)
    out.add_head_count_kv(_HEADS)
    out.add_rope_dimension_count(_WIDTH // _HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(vocabulary))
    _add_tokenizer(out, vocabulary)
    for name, weights in _weights([bias for _, _, bias in vocabulary], seed=seed).items():
        out.add_tensor(name, weights)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _vocabulary(more_words: int) -> list[tuple[str, int, float]]:
    """Each token with its type (as GGUF numbers them) and how readily it is said."""
    unknown, control, plain, byte = 2, 3, 1, 6
    return [
        ("<unk>", unknown, _NEVER),
        ("<s>", control, _NEVER),
        ("</s>", control, _END),
        *((f"<0x{value:02X}>", byte, _ASCII if value < 0x80 else _HALF) for value in range(256)),
        *((sign, plain, _SIGN) for sign in _SIGNS),
        *((syllable, plain, _SYLLABLE) for syllable in _SYLLABLES),
        *((f"▁w{number}", plain, _SIGN) for number in range(more_words)),
    ]


def _add_tokenizer(out: Any, vocabulary: list[tuple[str, int, float]]) -> None:
    out.add_tokenizer_model("llama")
    out.add_token_list([text for text, _, _ in vocabulary])
    out.add_token_scores([0.0] * len(vocabulary))
    out.add_token_types([kind for _, kind, _ in vocabulary])
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_add_bos_token(True)  # noqa: FBT003 - the library's signature
    out.add_chat_template(TEMPLATE)


def _weights(bias: list[float], *, seed: int) -> dict[str, Any]:
    """Every tensor by its name in GGUF, float32, as (rows, columns)."""
    import numpy as np  # noqa: PLC0415 - comes with gguf

    random_source = np.random.default_rng(seed)

    def drawn(rows: int, columns: int) -> Any:
        return (random_source.standard_normal((rows, columns)) * 0.2).astype(np.float32)

    def writing(columns: int) -> Any:
        weights = drawn(_WIDTH, columns)
        weights[0] = 0.0  # the anchor stays as it is
        return weights

    ones: Any = np.ones(_WIDTH, np.float32)
    tensors = {"token_embd.weight": drawn(len(bias), _WIDTH), "output.weight": drawn(len(bias), _WIDTH)}
    tensors["token_embd.weight"][:, 0] = _ANCHOR
    tensors["output.weight"][:, 0] = bias
    tensors["output_norm.weight"] = ones
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        tensors |= {
            block + "attn_norm.weight": ones,
            **{block + f"attn_{name}.weight": drawn(_WIDTH, _WIDTH) for name in "qkv"},
            block + "attn_output.weight": writing(_WIDTH),
            block + "ffn_norm.weight": ones,
            block + "ffn_gate.weight": drawn(_INNER, _WIDTH),
            block + "ffn_up.weight": drawn(_INNER, _WIDTH),
            block + "ffn_down.weight": writing(_INNER),
        }
    return tensors
