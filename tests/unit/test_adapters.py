"""LoRA on its way to the engines: names, merged weights, and what a sync after the first one carries."""

import contextlib
import pickle
from types import SimpleNamespace as Namespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.weight_sync import sender as sender_module
from rpg_openrlhf.weight_sync.adapters import engine_weights
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
