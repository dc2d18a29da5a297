"""ChunkedActor against upstream's Actor: what a model gives for action tokens, and when it is upstream's after all."""

import itertools
from types import SimpleNamespace as Namespace

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPTNeoXConfig, GraniteConfig, Qwen3Config

from tests.upstream import make_importable

make_importable()

from openrlhf.models import Actor
from openrlhf.trainer.ray import launcher, ppo_actor

from rpg_openrlhf.training.actors import RPGPolicyActor, RPGReferenceActor
from rpg_openrlhf.training.chunked_head import ChunkedActor, RequiredChunkedActor

SIZES = {
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
DENSE = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
TEMPERATURE = 0.7


@pytest.fixture(autouse=True)
def eager():
    """Upstream compiles its entropy: half a minute of C++ for a tiny model."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def model(config=None, tied: bool = False, seed: int = 0):
    torch.manual_seed(seed)
    config = config or Qwen3Config(**DENSE, tie_word_embeddings=tied, attn_implementation="sdpa")
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()


def actor(kind, hf, packed: bool = False):
    made = kind(hf, temperature=TEMPERATURE)
    made.packing_samples = packed
    return made


def batch() -> dict[str, torch.Tensor]:
    """Three sequences: prompts padded on the left, replies on the right, one with a gap in its actions."""
    generator = torch.Generator().manual_seed(1)
    attention = torch.ones(3, 12, dtype=torch.long)
    attention[0, :2] = attention[1, 9:] = 0
    actions = torch.zeros(3, 11, dtype=torch.long)
    actions[0, 4:] = actions[1, 3:8] = actions[2, 5:9] = 1
    actions[0, 6] = 0
    return {
        "sequences": torch.randint(0, 301, (3, 12), generator=generator),
        "action_mask": actions,
        "attention_mask": attention,
    }


def results(made, given, **options) -> list[torch.Tensor]:
    """Log-probs, masked entropy, and every weight's gradient of a loss of both."""
    log_probs, output = made(**given, return_output=True, return_entropy=True, **options)
    mask = given["action_mask"]
    entropy = output.entropy[:, -mask.shape[1] :] * mask
    generator = torch.Generator().manual_seed(2)
    parts = [(x * torch.randn(x.shape, generator=generator)).sum() for x in (log_probs, entropy)]
    gradients = torch.autograd.grad(sum(parts), list(made.model.parameters()), allow_unused=True)
    return [log_probs, entropy, *(g for g in gradients if g is not None)]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize(("packed", "tied"), list(itertools.product((False, True), repeat=2)))
def test_equals_upstream(packed, tied):
    """Values and gradients, padded and packed, tied and untied."""
    given = batch()
    expected = results(actor(Actor, model(tied=tied), packed), given)
    assert expected[0].abs().sum() > 0
    chunked = actor(RequiredChunkedActor, model(tied=tied), packed)
    assert_equal(results(chunked, given), expected)
    assert chunked.head.question is None
    assert chunked.head.answer is None, "the graph goes with the loss"
    assert chunked.temperature == TEMPERATURE


def test_a_mask_shorter_than_the_sequence():
    given = batch()
    given["action_mask"] = given["action_mask"][:, -7:]
    found = results(actor(RequiredChunkedActor, model()), given)
    assert_equal(found, results(actor(Actor, model()), given))


def test_old_log_probs_as_the_policy_actor_asks_for_them():
    given = batch()
    with torch.no_grad():
        ours = actor(RequiredChunkedActor, model()).eval()(*given.values())
        theirs = actor(Actor, model()).eval()(*given.values())
    assert_equal([ours], [theirs])
    assert not ours.requires_grad


def test_the_output_layer_sees_action_tokens_alone():
    """And no tensor of the size of the logits is made."""
    given, seen = batch(), []
    chunked = actor(RequiredChunkedActor, model())
    chunked.model.lm_head.register_forward_hook(lambda _layer, _given, answer: seen.append(answer.shape))
    _, output = chunked(**given, return_output=True, return_entropy=True)
    _, without = chunked(**given, return_output=True)
    tokens = int(given["action_mask"].sum())
    assert seen == [(tokens, 2), (tokens, 1)]
    assert output["logits"] is None, "whoever wants them must notice"
    assert "entropy" not in vars(without)


def test_a_micro_batch_without_actions():
    """Its gradients are zero, not missing: other ranks wait for them."""
    given = batch()
    given["action_mask"].zero_()
    log_probs, entropy, *gradients = results(actor(RequiredChunkedActor, model()), given)
    assert not log_probs.any()
    assert not entropy.any()
    assert len(gradients) == len(list(model().parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_without_action_mask_it_is_upstreams():
    given = batch()
    mask = given.pop("action_mask")
    chunked = actor(RequiredChunkedActor, model())
    log_probs = chunked(**given, return_logprobs=True)
    assert torch.equal(log_probs, actor(Actor, model())(**given, return_logprobs=True))
    assert chunked(**given, return_output=True)["logits"].shape == (3, 12, 301)
    assert mask.shape == log_probs.shape


OTHERS = {
    "capped": Gemma2Config(**DENSE, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
    "divided": GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=4.0),
    "multiplied": CohereConfig(**SIZES, num_key_value_heads=2, logit_scale=0.25),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_does_more_to_its_logits_falls_back(name, caplog):
    given = batch()
    expected = results(actor(Actor, model(OTHERS[name])), given)
    chunked = actor(ChunkedActor, model(OTHERS[name]))
    for _ in range(2):
        assert_equal(results(chunked, given), expected)
    (record,) = caplog.records
    assert "does more to its logits than its output layer" in record.getMessage()
    assert chunked.temperature == TEMPERATURE
    with pytest.raises(RuntimeError, match=r"--actor\.chunked_head on: .*ForCausalLM does more to its logits"):
        results(actor(RequiredChunkedActor, model(OTHERS[name])), given)


class InPlace(torch.nn.Module):
    """A model that scales what its layer gave in place."""

    def __init__(self):
        super().__init__()
        self.inner = model()

    def get_output_embeddings(self):
        return self.inner.lm_head

    def forward(self, *args, **kwargs):
        output = self.inner(*args, **kwargs)
        output["logits"].mul_(0.5)
        return output


def test_logits_changed_in_place_are_noticed():
    given = batch()
    with torch.no_grad():
        assert_equal([actor(ChunkedActor, InPlace())(**given)], [actor(Actor, InPlace())(**given)])


def test_an_output_layer_of_another_name():
    """GPT-NeoX calls it embed_out."""
    config = GPTNeoXConfig(**SIZES)
    chunked = actor(RequiredChunkedActor, model(config))
    assert_equal(results(chunked, batch()), results(actor(Actor, model(config)), batch()))


def test_an_output_layer_with_a_bias():
    def biased():
        made = model()
        made.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 301))
        return made

    assert_equal(results(actor(RequiredChunkedActor, biased()), batch()), results(actor(Actor, biased()), batch()))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_lora(targets, caplog):
    """Beside the output layer: as ever, its weight frozen. On it: upstream's path."""
    from peft import LoraConfig, get_peft_model

    def adapted(kind):
        lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        torch.manual_seed(3)
        made = get_peft_model(model(), lora)
        made.train()
        return actor(kind, made)

    def trained(made):
        log_probs, output = made(**batch(), return_output=True, return_entropy=True)
        (log_probs.sum() + (output.entropy[:, -11:] * batch()["action_mask"]).sum()).backward()
        return [log_probs, *(p.grad for p in made.parameters() if p.requires_grad)]

    chunked = adapted(ChunkedActor)
    assert_equal(trained(chunked), trained(adapted(Actor)))
    assert (chunked.head is None) == ("lm_head" in targets) == bool(caplog.records)


@pytest.mark.parametrize(("wish", "kind"), [("auto", ChunkedActor), ("on", RequiredChunkedActor), ("off", Actor)])
def test_models_are_built_of_the_class_asked_for(wish, kind, monkeypatch):
    """Policy and upstream's reference: each rebinds the name by which upstream builds its model."""
    actor = Namespace(chunked_head=wish, gradient_checkpointing_layers=None)
    train, ds = Namespace(enable_ema=False), Namespace(load_in_4bit=False)
    strategy = Namespace(args=Namespace(actor=actor, algo=Namespace(objective="openrlhf"), train=train, ds=ds))
    for ours, module in ((RPGPolicyActor, ppo_actor), (RPGReferenceActor, launcher)):
        built = []
        monkeypatch.setattr(module, "Actor", None)
        upstreams = next(base for base in ours.__mro__[1:] if "init_model_from_pretrained" in vars(base))
        monkeypatch.setattr(
            upstreams, "init_model_from_pretrained", lambda self, *_, m=module, b=built, **__: b.append(m.Actor)
        )
        object.__new__(ours).init_model_from_pretrained(strategy, "model")
        assert built == [kind]
