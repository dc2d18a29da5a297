"""The model of a step on GPUs: against numbers worked out by hand, and what must hold of any of its answers."""

import copy
import functools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen3Config

from rpg_openrlhf.cli import flags, gpus, memory, model_shapes, scaling_tables, settle, throughput, train_rpg
from rpg_openrlhf.cli.gpus import CONSTANTS, H100, H200, constant
from rpg_openrlhf.cli.model_shapes import MODELS, shapes_of

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {name: shapes_of(name) for name in MODELS}
QWEN3_4B = SHAPES["Qwen/Qwen3-4B"]


def args_of(*words: str, gpus: int = 8) -> SimpleNamespace:
    return copy.deepcopy(_parsed(words, gpus))


@functools.cache
def _parsed(words: tuple[str, ...], gpus: int) -> SimpleNamespace:
    layers = ",".join(str(ROOT / "configs" / f"{layer}.yaml") for layer in ("base", "algorithm/rpg_reinforce_urkl"))
    size = ["--actor.num_nodes", str(max(1, gpus // 8)), "--actor.num_gpus_per_node", str(min(8, gpus))]
    parsed = flags.parse(["--config", layers, *size, "--vllm.num_engines", str(gpus), *words])
    settle.fill_defaults(parsed)
    return train_rpg.validate(parsed, "cuda")[0]


def work(*words: str, gpus: int = 8, shapes: memory.Shapes = QWEN3_4B, gpu=H100, **known) -> throughput.Work:
    return throughput.work(args_of(*words, gpus=gpus), shapes, gpu, **known)


def seconds(found: throughput.Work, phase: str, what: str = "") -> float:
    return sum(t.seconds for t in throughput.predict(found) if t.phase == phase and t.what.startswith(what))


@pytest.mark.parametrize("name", MODELS)
def test_the_shapes_are_those_of_the_models(name):
    """Counted from transformers' own classes on the meta device."""
    model = MODELS[name]
    sizes = {
        "hidden_size": model.hidden, "intermediate_size": model.inner, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "num_key_value_heads": model.key_heads, "vocab_size": model.vocabulary,
        "tie_word_embeddings": model.tied,
    }  # fmt: skip
    config = Qwen3Config(head_dim=model.head, **sizes) if model.qwen3 else Qwen2Config(**sizes)
    assert memory.count_shapes(config, 0, False) == SHAPES[name]
    assert model_shapes.shapes_of("somebody/else") is None


def test_sizes_are_the_published_ones():
    published = {
        "Qwen/Qwen3-4B": 4.0,
        "Qwen/Qwen2.5-7B-Instruct": 7.61,
        "Qwen/Qwen3-14B": 14.8,
        "Qwen/Qwen3-32B": 32.8,
    }
    for name, billions in published.items():
        assert SHAPES[name].parameters / 1e9 == pytest.approx(billions, rel=6e-3), name


def test_a_forward_pass_is_two_flops_a_weight_and_attention():
    """18.0 million tokens in 8192 sequences through Qwen3-4B: 157 PFLOP by hand, of which attention is little."""
    found = work("--actor.chunked_head", "off", prompt=200, response=2000)
    flops = throughput.sequence_flops(found, 1)
    attention = 8192 * 2 * 2200**2 * 36 * 4096
    # The embedding is tied: as the output layer it is multiplied with too.
    assert flops - attention == pytest.approx(2 * 8192 * 2200 * QWEN3_4B.parameters, rel=1e-3)
    assert flops / 1e15 == pytest.approx(157, rel=0.1)
    seconds_each = flops / (8 * H100.flops * constant("train"))
    assert seconds(found, "experience", "old log-probs") == pytest.approx(seconds_each)
    assert seconds(found, "train", "forward") == pytest.approx(4 * seconds_each, rel=0.06), "the head is not repeated"


def test_the_chunked_head_computes_action_tokens_alone_and_twice():
    whole, chunked = (work("--actor.chunked_head", mode, prompt=2000, response=48) for mode in ("off", "auto"))
    head = 2 * whole.head * whole.samples / (8 * H100.flops * constant("train"))
    saved = seconds(whole, "experience", "old") - seconds(chunked, "experience", "old")
    assert saved == pytest.approx(head * 2000)
    saved = seconds(whole, "train", "forward") - seconds(chunked, "train", "forward")
    assert saved == pytest.approx(head * (3 * 2048 - 4 * 48))


def test_one_sequence_is_decoded_at_the_speed_of_reading_the_weights():
    found = work(prompt=1, response=1, gpu=H100)
    each, bound = throughput.decode_step(found, 1)
    reading = 2 * QWEN3_4B.parameters / (3.35e12 * constant("decode"))
    assert (each - constant("launch"), bound) == (pytest.approx(reading, rel=1e-3), throughput.BANDWIDTH)


@pytest.mark.parametrize(
    ("words", "shapes", "sequences", "bound"),
    [
        ([], QWEN3_4B, 1, throughput.BANDWIDTH),
        ([], QWEN3_4B, 4000, throughput.BANDWIDTH),  # the cache's
        ([], SHAPES["Qwen/Qwen2.5-7B-Instruct"]._replace(key=1), 4000, throughput.COMPUTE),
        ([], QWEN3_4B._replace(layers=1, parameters=10**8), 1, throughput.LAUNCH),
        (["--rpg.old_policy", "rollout"], QWEN3_4B._replace(layers=2, parameters=10**8), 128, throughput.PYTHON),
    ],
)
def test_what_a_decoding_step_is_bound_by(words, shapes, sequences, bound):
    assert throughput.decode_step(work(*words, shapes=shapes), sequences)[1] == bound


def test_every_token_is_decoded_and_the_longest_reply_costs_extra():
    """With replies that fill their budget there is no tail; with shorter ones the step is longer than its tokens."""
    full = work(response=2048, prompt=200)
    at_once = throughput.decoded_at_once(full, 10**9)
    each, _ = throughput.decode_step(full, at_once)
    sequences = math.ceil(512 * constant("drawn") / 8) * 16
    assert seconds(full, "generate") - seconds(full, "generate", "prefill") == pytest.approx(
        sequences / at_once * 2048 * each
    )
    short = work(response=200, prompt=200)
    each, _ = throughput.decode_step(short, throughput.decoded_at_once(short, 10**9))
    tokens = sequences * 200 / throughput.decoded_at_once(short, 10**9) * each
    assert seconds(short, "generate") > 1.2 * tokens


def test_what_an_engine_holds_at_a_time():
    short = work("--rollout.max_new_tokens", "256")  # for which there is room in the cache
    assert throughput.decoded_at_once(short, 10**9) == constant("sequences")
    assert throughput.decoded_at_once(work(), 16) == 16
    shares = ("--vllm.gpu_memory_utilization", "0.15")
    few = throughput.decoded_at_once(work(*shares), 10**9)
    assert 1 <= few < 40
    assert throughput.decoded_at_once(work(*shares, "--vllm.enable_prefix_caching=false"), 10**9) < few


def test_a_prompt_is_read_once_with_the_prefix_cache():
    once, each = (work(f"--vllm.enable_prefix_caching={on}") for on in ("true", "false"))
    assert seconds(each, "generate", "prefill") == pytest.approx(16 * seconds(once, "generate", "prefill"))


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ([], 1),
        (["--rpg.old_policy", "rollout"], 0),
        (["--ref.refresh", "never"], 2),
        (["--ref.refresh", "never", "--rpg.old_policy", "rollout"], 1),
        (["--train.batch_size", "8192"], 0),  # one step: they are the step's own
        (["--algo.objective", "openrlhf", "--algo.kl.init_coef", "0.1"], 2),
        (["--algo.objective", "openrlhf", "--algo.kl.init_coef", "0"], 1),
    ],
)
def test_forward_passes_between_generating_and_training(words, passes):
    one = seconds(work(), "experience", "old")
    found = work(*words)
    computed = seconds(found, "experience", "old") + seconds(found, "experience", "reference")
    assert computed == pytest.approx(passes * one)
    assert (seconds(found, "experience") > 0) == (passes > 0), "nothing is gathered for no pass"


def test_what_the_ranks_exchange():
    """A micro-batch each: ZeRO-3 moves the weights three times, ZeRO-2 twice and once a step, less the rank's own."""
    sizes = ("--train.max_tokens_per_gpu", "100000", "--rpg.old_policy", "rollout")
    for stage, passes in ((3, 3 * 16), (2, 2 * 16), (1, 2 * 16), (0, 2 * 16)):
        found = seconds(work(*sizes, "--ds.zero_stage", str(stage)), "train", "weights and")
        moved = passes * 2 * QWEN3_4B.parameters * 7 / 8
        assert found == pytest.approx(moved / (450e9 * constant("link"))), stage
    assert seconds(work(gpus=1), "train", "weights and") == 0
    assert seconds(work(gpus=1), "experience", "weights") == 0
    small = seconds(work("--train.max_tokens_per_gpu", "5000", *sizes[2:]), "train", "weights and")
    assert small > 5 * seconds(work(*sizes), "train", "weights and"), "small micro-batches gather often"
    between = [t for t in throughput.predict(work(gpus=16)) if t.what == "weights and gradients"]
    assert [term.bound for term in between] == [throughput.NETWORK]


def test_asynchronous_runs_take_the_longer_half():
    base = args_of()
    found = throughput.Work(base, QWEN3_4B, H100, 200, 1000, 2048)
    terms = throughput.predict(found)
    generation = sum(term.seconds for term in terms if term.phase == "generate")
    total = sum(term.seconds for term in terms)
    assert throughput.step_seconds(found, terms) == pytest.approx(total)
    base.train.async_enable = True
    assert throughput.step_seconds(found, terms) == pytest.approx(max(generation, total - generation))


def test_optimizer_and_sleep():
    adam = seconds(work(), "train", "optimizer")
    assert adam == pytest.approx(16 * QWEN3_4B.parameters / 8 * 28 / (3.35e12 * constant("copy")))
    assert seconds(work("--ds.zero_stage", "0"), "train", "optimizer") == pytest.approx(8 * adam)
    assert seconds(work("--ds.adam_offload"), "train", "optimizer") == 0
    states = QWEN3_4B.parameters * 14 / 8
    assert seconds(work(), "sleep and wake", "trainer") == pytest.approx(2 * states / (64e9 * constant("link")))
    apart = work("--train.colocate_all=false", "--vllm.enable_sleep=false", "--ds.enable_sleep=false")
    assert seconds(apart, "sleep and wake") == 0
    assert seconds(apart, "sync") > seconds(work(), "sync"), "by broadcast"


SIZES = st.tuples(st.sampled_from(sorted(MODELS)), st.sampled_from([1, 8, 16, 64]), st.sampled_from([H100, H200]))


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, prompt=st.integers(1, 2000), response=st.integers(1, 2000), stage=st.integers(0, 3))
def test_every_term_is_finite_and_the_phases_are_all_of_it(sizes, prompt, response, stage):
    name, number, gpu = sizes
    words = ("--ds.zero_stage", str(stage))
    found = work(*words, gpus=number, shapes=SHAPES[name], gpu=gpu, prompt=prompt, response=response)
    terms = throughput.predict(found)
    assert all(0 < term.seconds < math.inf and term.phase in throughput.PHASES for term in terms)
    phases = throughput.by_phase(terms)
    assert sum(each for each, _ in phases.values()) == pytest.approx(throughput.step_seconds(found, terms))
    longer = work(*words, gpus=number, shapes=SHAPES[name], gpu=gpu, prompt=prompt, response=response + 40)
    assert throughput.step_seconds(longer, throughput.predict(longer)) > throughput.step_seconds(found, terms)
    if gpu == H100:
        faster = throughput.predict(found._replace(gpu=H200))
        assert throughput.step_seconds(found, faster) <= throughput.step_seconds(found, terms)


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(sorted(MODELS)), response=st.integers(1, 2000))
def test_more_gpus_are_faster_and_not_for_nothing(name, response):
    """A node more shortens the step, and costs GPU-hours."""
    found = [work(gpus=n, shapes=SHAPES[name], gpu=H200, response=response) for n in (8, 16, 64)]
    times = [throughput.step_seconds(each, throughput.predict(each)) for each in found]
    assert times == sorted(times, reverse=True)
    hours = [throughput.gpu_hours(each, 400) for each in found]
    assert hours == sorted(hours)


def test_every_constant_says_where_it_is_from():
    assert all(one.value > 0 and one.meaning and one.source for one in CONSTANTS.values())
    shares = ("train", "prefill", "decode", "copy", "link", "filled")
    assert all(constant(name) < 1 for name in shares)
    with gpus.assuming(train=0.5):
        assert constant("train") == 0.5
    assert constant("train") == 0.4
    text = "".join((ROOT / "rpg_openrlhf/cli" / f"{file}.py").read_text() for file in ("throughput", "gpus"))
    assert set(re.findall(r'constant\("(\w+)"', text)) >= set(CONSTANTS) - {"front", "front_log_probs"}


def test_gpus_are_known_by_their_drivers_name():
    assert gpus.named("NVIDIA H100 80GB HBM3") == H100
    assert gpus.named("NVIDIA H200") == gpus.named("hardware/8xh200") == H200
    assert gpus.named("NVIDIA A100-SXM4-80GB") is gpus.named(None) is None


def test_the_page_on_scaling_is_not_stale():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    held = page.split("<!-- scaling -->\n")[1].split("\n<!-- /scaling -->")[0]
    assert held == scaling_tables.pages(), "python -m rpg_openrlhf.cli.scaling_tables, between the marks"


def test_the_layout_of_a_table_fits_and_is_the_fastest_that_does():
    chosen = scaling_tables.plan("Qwen/Qwen3-32B", 8, H200)
    assert chosen.fits
    assert not chosen.args.ds.adam_offload
    assert not scaling_tables.plan("Qwen/Qwen3-32B", 1, H100).fits
    assert scaling_tables.plan("Qwen/Qwen2.5-7B-Instruct", 1, H100).args.ds.adam_offload
    times = [
        scaling_tables.seconds(throughput.work(args, SHAPES[chosen.model], H200))
        for args in scaling_tables.layouts(8, H200, offload=False)
        if memory.estimate(args, SHAPES[chosen.model], H200.gib).needed <= H200.gib
    ]
    assert scaling_tables.seconds(throughput.work(chosen.args, SHAPES[chosen.model], H200)) == min(times)
