"""LoRA on its way to the engines: names, merged weights, and what a sync after the first one carries."""

import contextlib
import pickle
from types import SimpleNamespace as Namespace

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.weight_sync import sender as sender_module
from rpg_openrlhf.weight_sync.adapters import engine_weights, keep_packing, quantization, unpacked, write_merged
from rpg_openrlhf.weight_sync.plan import make_plan
from rpg_openrlhf.weight_sync.receiver import WeightReceiver
from rpg_openrlhf.weight_sync.sender import WeightSender
from rpg_openrlhf.weight_sync.transports import SharedMemory

SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip


def base(tied=False) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=tied))


def adapted(tied=False, targets="all-linear"):
    """With adapters that do something: PEFT's B begins at zero."""
    model = get_peft_model(base(tied), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets))
    for name, weight in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_names_are_the_base_models_and_weights_those_of_peft(tied, targets):
    model = adapted(tied, targets)
    weights, adapters = engine_weights(model)
    assert list(weights) == [name for name, _ in base(tied).named_parameters()]
    assert {name.split(".")[-2] for name in adapters} == (
        set(targets) if targets != "all-linear" else {f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down")}
    )
    merged = {name: adapters[name].merged(w.data) if name in adapters else w.data for name, w in weights.items()}
    whole = dict(model.merge_and_unload().named_parameters())
    for name, weight in whole.items():
        torch.testing.assert_close(merged[name], weight.data, msg=name)


def test_a_model_without_adapters_is_as_it_was():
    model = base()
    weights, adapters = engine_weights(model)
    assert (weights, adapters) == (dict(model.named_parameters()), {})


class Engine:
    """A worker that is called at once, without Ray."""

    def __init__(self, model):
        self.worker = WeightReceiver()
        self.worker.model_config = Namespace(dtype=torch.float32, quantization=None)
        self.worker.model_runner = Namespace(model=model)
        self.loaded = []
        for name in ("open_weights", "load_bucket", "commit_weights"):
            setattr(self, name, Namespace(remote=lambda *args, name=name: self.call(name, *args)))

    def call(self, name, *args):
        if name == "load_bucket":
            self.loaded.append(args[1])
        return getattr(self.worker, name)(*args)


class Loads(Qwen3ForCausalLM):
    def load_weights(self, named):
        mine = dict(self.named_parameters())
        names = set()
        for name, weight in named:
            mine[name].data.copy_(weight)
            names.add(name)
        return names


def test_after_the_first_sync_only_adapted_weights_travel(monkeypatch):
    monkeypatch.setattr(
        sender_module,
        "ray",
        Namespace(wait=lambda calls, num_returns=1, timeout=None: (calls[:1], calls[1:]), get=list),
    )
    model = adapted(targets=["q_proj", "v_proj"])
    weights, adapters = engine_weights(model)
    parts = [{n: w for n, w in weights.items() if (n in adapters) == is_adapted} for is_adapted in (True, False)]
    described = [[(name, weight.shape, weight.dtype) for name, weight in part.items()] for part in parts]
    plan = make_plan(described[0], 2048) + make_plan(described[1], 2048)
    engine = Engine(Loads(base().config))
    gathered = []

    @contextlib.contextmanager
    def whole(weights):
        gathered.append(len(weights))
        yield

    memory = SharedMemory(max(bucket.nbytes for bucket in plan))
    made = WeightSender(plan, weights, [engine], memory, whole, True, adapters)
    assert pickle.loads(pickle.dumps(plan)) == plan
    made.push()
    expected = {name: adapters[name].merged(w.data) if name in adapters else w.data for name, w in weights.items()}
    for name, weight in engine.worker.model_runner.model.named_parameters():
        assert torch.equal(weight, expected[name]), name
    assert engine.loaded == list(range(len(plan)))
    engine.loaded.clear()
    for adapter in adapters.values():
        adapter.up.data.add_(0.1)
    made.push()
    changing = len(make_plan(described[0], 2048))
    assert engine.loaded == list(range(changing))
    assert changing < len(plan)
    for name, weight in engine.worker.model_runner.model.named_parameters():
        if name in adapters:
            assert torch.equal(weight, adapters[name].merged(weights[name].data)), name
    assert gathered[0] == 3 * len(plan[0].pieces), "a weight with its two matrices"


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")))


def test_a_model_merged_from_an_adapters_folder_is_what_a_sync_sends(tmp_path):
    """In the base model's own type, bf16 here, to the bit."""
    base().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    model = adapted().to(torch.bfloat16)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    tokenizer().save_pretrained(tmp_path / "adapter")
    write_merged(tmp_path / "adapter", tmp_path / "merged", trust_remote_code=False)
    whole = Qwen3ForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    weights, adapters = engine_weights(model)
    assert adapters
    for name, weight in whole.named_parameters():
        sent = adapters[name].merged(weights[name].data) if name in adapters else weights[name].data
        assert torch.equal(weight, sent), name
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == 2


OTHERS = {
    "DoRA": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", use_dora=True),
    "embeddings": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "embed_tokens"]),
    "tokens": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
    "whole modules": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "IA3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}
UNMERGEABLE = {
    "lora_bias": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], lora_bias=True),
    "PROMPT_TUNING": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
}


def saved_adapter(config, folder):
    """An adapter that changes the model's answers, in PEFT's format."""
    base().save_pretrained(folder / "base")
    model = get_peft_model(Qwen3ForCausalLM.from_pretrained(folder / "base"), config)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) * 0.1)
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    tokenizer().save_pretrained(folder / "adapter")
    return model.eval()


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_adapter_is_merged_too(tmp_path, kind):
    model = saved_adapter(OTHERS[kind], tmp_path)
    write_merged(tmp_path / "adapter", tmp_path / "merged", trust_remote_code=False)
    whole = Qwen3ForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokens = torch.arange(12).reshape(1, 12)
    with torch.inference_mode():
        expected, start = model(input_ids=tokens).logits, base().eval()(input_ids=tokens).logits
        torch.testing.assert_close(whole(input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-4)
    assert (expected - start).abs().max() > 1e-3


@pytest.mark.parametrize("kind", UNMERGEABLE)
def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path, kind):
    saved_adapter(UNMERGEABLE[kind], tmp_path)
    with pytest.raises(OSError, match=kind):
        write_merged(tmp_path / "adapter", tmp_path / "merged", trust_remote_code=False)


def quantized(folder):
    """The base model with its layers in 4 bits, as upstream loads it (models/actor.py), and adapters."""
    base().to(torch.bfloat16).save_pretrained(folder)
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = Qwen3ForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    keep_packing(model)
    return model.to(torch.bfloat16)


def test_engines_hold_what_4_bit_weights_stand_for(tmp_path):
    """Their forward pass of merged weights is the policy's of packed ones and adapters, up to rounding in bf16."""
    model = quantized(tmp_path)
    weights, adapters = engine_weights(model)
    packed = [name for name, weight in weights.items() if quantization(weight) is not None]
    assert len(packed) == len(adapters) == 14
    whole = base().to(torch.bfloat16)
    start = {name: weight.clone() for name, weight in whole.named_parameters()}
    for name, weight in whole.named_parameters():
        values = unpacked(weights[name])
        assert values.shape == weight.shape
        assert values.dtype == torch.bfloat16
        weight.data = adapters[name].merged(values) if name in adapters else values
        if name not in adapters:
            assert torch.equal(weight, start[name]), name
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(whole(tokens).logits, model(tokens).logits, atol=0.02, rtol=0.05)
