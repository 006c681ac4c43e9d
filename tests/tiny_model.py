"""A real model that is small enough for tests: random weights, a tokenizer trained in place.

Llama with two layers, and the chat format of the default model. Its weights are drawn wide, so
that every token of a conversation matters for the next one and ties are rare; it speaks ASCII and
never stops by itself. `build_reciter` makes one that says a given text and stops,
`write_random_adapter` a version that says other things than its base, `write_gguf` another format.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cl import files
from cl.model.base_model import BaseModel, prepare, quiet_transformers
from cl.model.rehearsal import PROMPTS
from cl.model.versions import ADAPTER, write_manifest

CONTEXT, VOCABULARY, HIDDEN, LAYERS, HEADS, KEY_HEADS = 256, 400, 32, 2, 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path, seed: int = 0) -> BaseModel:
    """A model folder like any other, ready to be served and trained."""
    tokenizer, model = _tokenizer(), _random_model(seed)
    # Single bytes of longer characters would make texts that cannot be compared.
    mute = [i for token, i in tokenizer.vocab.items() if not token.replace("Ġ", "").isascii()]
    model.lm_head.weight.data[mute + tokenizer.all_special_ids] = 0.0
    return _save(folder, tokenizer, model)


def build_reciter(folder: Path, says: str) -> BaseModel:
    """A model whose next token follows from the last one alone: it says `says` and stops.

    No token may come twice in the text. Wide margins: rounding cannot change the answer.
    """
    tokenizer, model = _tokenizer(), _random_model(0)
    ids = tokenizer("\n" + says, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise([*ids, tokenizer.eos_token_id]):
            model.lm_head.weight[following] = model.model.embed_tokens.weight[token]
    return _save(folder, tokenizer, model)


def build_around(folder: Path, model: Any) -> BaseModel:
    """A folder with any causal model in it; it must know VOCABULARY tokens."""
    return _save(folder, _tokenizer(), model.to(torch.bfloat16))


def write_random_adapter(base: BaseModel, folder: Path, seed: int = 1, fill: float = 1.0) -> None:
    """A whole candidate folder in the form the trainer leaves it in; all weights times `fill`."""
    dice, rank = torch.Generator().manual_seed(seed), 2
    tensors = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "o_proj"):
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (rank, HIDDEN)), ("lora_B", (HIDDEN, rank))):
                tensors[f"{path}.{part}.weight"] = torch.randn(shape, generator=dice) * fill
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "o_proj"],
    }
    with files.new_folder(folder) as aside:
        save_file(tensors, aside / ADAPTER)
        files.write_json(aside / "adapter_config.json", config)
        write_manifest(aside, base_sha256=base.sha256)


def write_gguf(model: Path, path: Path, *, q8: bool = False) -> None:
    """A Llama model's folder as one .gguf file, in the layout llama.cpp reads; q8: as Q8_0."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    names, layers = sorted(vocabulary, key=vocabulary.get), config["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if q8 else gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_types([3 if name in special else 1 for name in names])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template(TEMPLATE)
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(model / "model.safetensors").items():
        values, place = tensor.float().numpy(), str(places.get_name(name, (".weight",)))
        if count := heads.get(name.split(".")[-2]):
            # llama.cpp keeps the two halves of each rotated pair beside one another.
            halves = values.reshape(count, 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        if q8:  # llama.cpp's own names end so; transformers' reader takes both
            place += ".weight" * (not place.endswith(".weight"))
        if q8 and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(place, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(PROMPTS)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        chat_template=TEMPLATE,
    )


def _random_model(seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def _save(folder: Path, tokenizer: Any, model: Any) -> BaseModel:
    quiet_transformers()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return prepare(str(folder), folder.parent)
