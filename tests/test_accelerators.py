"""Reading compiled programs: on small texts here, and on programs compiled for an H100 and a TPU in slow tests."""

# ruff: noqa: E501 - lines of programs are long

import doctest
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import hlo  # noqa: E402
import roofline  # noqa: E402

ATTACK = """HloModule jit_attack, is_scheduled=true

%fused_add (param_0: f32[8,4,4,16], param_1: f32[8,4,4,16]) -> f32[8,4,4,16] {
  %param_0 = f32[8,4,4,16]{3,2,1,0} parameter(0)
  %param_1 = f32[8,4,4,16]{3,2,1,0} parameter(1)
  %rsqrt.1 = f32[8,4,4,16]{3,2,1,0} rsqrt(%param_1)
  ROOT %add.1 = f32[8,4,4,16]{3,2,1,0} add(%param_0, %rsqrt.1)
}

%turned (param_0.1: f32[8,16,4,4]) -> f32[8,4,4,16] {
  %param_0.1 = f32[8,16,4,4]{3,2,1,0} parameter(0)
  ROOT %transpose.1 = f32[8,4,4,16]{3,2,1,0} transpose(%param_0.1), dimensions={0,2,3,1}
}

%body (state: (s32[], f32[8,16,4,4], f32[3,3,16,16])) -> (s32[], f32[8,16,4,4], f32[3,3,16,16]) {
  %state = (s32[], f32[8,16,4,4]{3,2,1,0}, f32[3,3,16,16]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,16,4,4]{3,2,1,0} get-tuple-element(%state), index=1
  %k = f32[3,3,16,16]{3,2,1,0} get-tuple-element(%state), index=2
  %nhwc = f32[8,4,4,16]{3,2,1,0} fusion(%x), kind=kInput, calls=%turned
  %conv.1 = (f32[8,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%nhwc, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward", backend_config={"a":"b"}
  %y = f32[8,4,4,16]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %sum = f32[8,4,4,16]{3,2,1,0} fusion(%y, %nhwc), kind=kLoop, calls=%fused_add
  %back = f32[8,16,4,4]{3,2,1,0} bitcast(%sum)
  %reduced = f32[8,16,4,4]{3,2,1,0} all-reduce(%back), channel_id=1, to_apply=%region
  ROOT %next = (s32[], f32[8,16,4,4]{3,2,1,0}, f32[3,3,16,16]{3,2,1,0}) tuple(%i, %reduced, %k)
}

%condition (state.1: (s32[], f32[8,16,4,4], f32[3,3,16,16])) -> pred[] {
  %state.1 = (s32[], f32[8,16,4,4]{3,2,1,0}, f32[3,3,16,16]{3,2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %steps = s32[] constant(8)
  ROOT %less = pred[] compare(%i.1, %steps), direction=LT
}

ENTRY %main (x.1: f32[8,16,4,4], k.1: f32[3,3,16,16]) -> f32[8,16,4,4] {
  %x.1 = f32[8,16,4,4]{3,2,1,0} parameter(0), metadata={op_name="x (clean)"}
  %k.1 = f32[3,3,16,16]{3,2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,16,4,4]{3,2,1,0}, /*index=2*/f32[3,3,16,16]{3,2,1,0}) tuple(%zero, %x.1, %k.1)
  %while.1 = (s32[], f32[8,16,4,4]{3,2,1,0}, f32[3,3,16,16]{3,2,1,0}) while(%start), condition=%condition, body=%body
  %gathered = (f32[4]{0}, f32[32]{0}) all-gather-start(%zero), dimensions={0}
  %done = f32[32]{0} all-gather-done(%gathered)
  %told = (f32[]) custom-call(%done), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %out = f32[8,16,4,4]{3,2,1,0} get-tuple-element(%while.1), index=1
}
"""
CONV = 2 * 8 * 4 * 4 * 16 * 3 * 3 * 16  # two operations for each output, tap and channel
PEAKS = roofline.Peaks({"f32": 1e12, "highest": 1e11, "bf16": 2e12}, 1e9, 2**30)


@pytest.fixture(scope="module")
def program() -> hlo.Program:
    return hlo.parse(ATTACK)


def entry(*lines: str, before: str = "") -> hlo.Program:
    return hlo.parse(before + "ENTRY %main (p: f32[2]) -> f32[2] {\n  " + "\n  ".join(lines) + "\n}\n")


def test_examples():
    found = doctest.testmod(hlo)
    assert found.attempted
    assert not found.failed


def test_a_program_is_read(program):
    assert program.entry == "main"
    assert list(program.computations) == ["fused_add", "turned", "body", "condition", "main"]
    call = next(line for line in program.computations["body"] if line.name == "conv.1")
    assert call.operation == "custom-call"
    assert call.target == "__cudnn$convForward"
    assert call.operands == ("nhwc", "k")
    assert call.arrays[0] == hlo.Array("f32", (8, 4, 4, 16))
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule x\n")


def test_what_is_counted(program):
    assert hlo.counts(program) == {
        "convolutions": 1,
        "products": 0,
        "transforms": 0,
        "fusions": 2,
        "loops": 1,
        "transposes": 1,
        "around": 1,
        "roots": 1,
        "transfers": 1,
    }
    assert hlo.collectives(program) == {"all-reduce": [2048], "all-gather": [32]}
    assert hlo.transfers(program) == ["xla_ffi_python_gpu_callback"]


def test_a_transposed_kernel_is_not_a_transpose_around_the_convolution():
    turned = ATTACK.replace("custom-call(%nhwc, %k)", "custom-call(%x, %nhwc)").replace(
        "fusion(%x), kind=kInput", "fusion(%k), kind=kInput"
    )
    assert hlo.counts(hlo.parse(turned))["around"] == 0
    after = turned.replace(
        "%sum = f32[8,4,4,16]{3,2,1,0} fusion(%y, %nhwc), kind=kLoop",
        "%sum = f32[8,4,4,16]{3,2,1,0} fusion(%y), kind=kLoop",
    )
    after = after.replace("calls=%fused_add", "calls=%turned")
    assert hlo.counts(hlo.parse(after))["around"] == 1


def test_loops_run_as_often_as_the_text_says(program):
    assert hlo.runs(program) == ({"main": 1, "body": 8}, 0)
    known = ATTACK.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert hlo.runs(hlo.parse(known))[0]["body"] == 5
    unknown = hlo.parse(ATTACK.replace("constant(8)", "parameter(1)"))
    assert hlo.runs(unknown) == ({"main": 1, "body": 1}, 1)
    down = hlo.parse(ATTACK.replace("constant(8)", "constant(0)").replace("direction=LT", "direction=GT"))
    assert hlo.runs(down) == ({"main": 1, "body": 1}, 1)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["%a = f32[8,64]{1,0} parameter(0)", "%b = f32[64,5]{1,0} parameter(1)", "ROOT %c = f32[8,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"], 2 * 8 * 64 * 5),
        (["%a = c64[3,8,64]{2,1,0} parameter(0)", '%c = (c64[3,8,5]{2,1,0}, s8[4]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["2"]}'], 8 * 3 * 8 * 64 * 5),
        (["%dy = f32[8,4,4,32]{3,2,1,0} parameter(0)", "%k = f32[32,3,3,16]{3,2,1,0} parameter(1)", '%c = (f32[8,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"'], 2 * 8 * 4 * 4 * 32 * 9 * 16),
        (["%x = f32[8,8,8,16]{3,2,1,0} parameter(0)", "%dy = f32[8,4,4,32]{3,2,1,0} parameter(1)", '%c = (f32[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"'], 2 * 8 * 4 * 4 * 32 * 9 * 16),
        (["%dy = f32[8,4,4,32]{3,2,1,0} parameter(0)", "%k = f32[3,3,32,16]{3,2,1,0} parameter(1)", "%c = f32[8,8,8,16]{3,2,1,0} convolution(%dy, %k), window={size=3x3 pad=1_2x1_2 lhs_dilate=2x2}, dim_labels=b01f_01io->b01f"], 2 * 8 * 4 * 4 * 32 * 9 * 16),
        (["%x = f32[8,16,16]{2,1,0} parameter(0)", "%c = c64[8,16,9]{2,1,0} fft(%x), fft_type=RFFT, fft_length={16,16}"], 2.5 * 8 * 256 * 8),
        (["%x = f32[8]{0} parameter(0)", "%c = f32[8]{0} add(%x, %x)"], 0),
    ],
    ids=["dot", "complex product", "input gradient", "kernel gradient", "dilated", "transform", "elementwise"],
)  # fmt: skip
def test_operations(lines, expected):
    assert roofline.cost(entry(*lines), PEAKS).operations == expected


def test_the_cost_of_a_run(program):
    found = roofline.cost(program, PEAKS)
    assert found.operations == 8 * CONV
    image, kernel = 8 * 4 * 4 * 16 * 4, 3 * 3 * 16 * 16 * 4
    step = (image + image) + (image + kernel + image) + (2 * image + image) + (image + image)  # turn, conv, add, reduce
    outside = 4 + 36 * 4 + 32 * 4  # what the gathering writes (its source is a constant of 4 bytes), and the callback
    assert found.bytes == pytest.approx(8 * step + outside, rel=0.01)
    assert found.seconds == pytest.approx(found.bytes / 1e9, rel=0.01)  # this memory is slow
    assert found.bound == 0
    fast = roofline.cost(program, roofline.Peaks({"f32": 1e6, "highest": 1e5, "bf16": 1e6}, 1e15, 1))
    assert fast.seconds == pytest.approx(8 * CONV / 1e6, rel=1e-3)
    assert fast.bound > 0.99


def test_exact_products_have_a_peak_of_their_own():
    lines = ["%a = f32[64,64]{1,0} parameter(0)", "%b = f32[64,64]{1,0} dot(%a, %a), lhs_contracting_dims={1}"]
    slow = roofline.Peaks({"f32": 1e6, "highest": 1e5, "bf16": 2e6}, 1e15, 1)
    plain = roofline.cost(entry(*lines), slow).seconds
    lines[1] += ", operand_precision={highest,highest}"
    assert roofline.cost(entry(*lines), slow).seconds == pytest.approx(10 * plain)


def test_a_fusion_reads_only_its_slice_and_near_memory_is_free():
    part = "%part (p0: f32[100,8], p1: s32[]) -> f32[1,8] {\n  %p0 = f32[100,8]{1,0} parameter(0)\n"
    part += "  %p1 = s32[] parameter(1)\n  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %p1)\n}\n"
    lines = ["%x = f32[100,8]{1,0} parameter(0)", "%i = s32[] parameter(1)"]
    program = entry(*lines, "ROOT %y = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%part", before=part)
    assert roofline.cost(program, PEAKS).bytes == 32 + 4 + 32
    near = ["%x = f32[9]{0:T(128)S(1)} parameter(0)", "ROOT %y = f32[9]{0:T(128)} negate(%x)"]
    assert roofline.cost(entry(*near), PEAKS).bytes == 36


def compiled(device: str, program: str, folder: Path) -> dict:
    """Compile a program in a process of its own, which traces for this device, and return its row."""
    script = ROOT / "benchmarks" / "accelerators.py"
    command = [sys.executable, script, "--devices", device, "--programs", program, "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads((folder / "accelerators.json").read_text())[device][program]
    assert "error" not in row, row["error"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert f"{device} {program}: stored" in again.stdout
    return row


@pytest.fixture(params=["h100", "v5e"])
def device(request) -> str:
    module, package = {"h100": ("jax_cuda12_plugin", "jax[cuda12]"), "v5e": ("libtpu", "jax[tpu]")}[request.param]
    if find_spec(module) is None:
        pytest.skip(f"the compiler for {request.param} is not installed (pip install '{package}')")
    return request.param


@pytest.mark.slow
@pytest.mark.release
def test_an_attack_is_one_loop_without_the_host(device, tmp_path):
    row = compiled(device, "attack pgd", tmp_path)
    assert row["collectives"] == {}
    assert row["transfers"] == 0
    assert row["loops"] == 1
    assert row["unknown loops"] == 0


@pytest.mark.slow
@pytest.mark.release
def test_a_layer_has_its_transforms_and_nothing_else(device, tmp_path):
    row = compiled(device, "layer materialized", tmp_path)
    assert row["collectives"] == {}
    assert row["transfers"] == row["loops"] == 0
    assert row["around"] == {"h100": 0, "v5e": 1}[device]  # a TPU copies the map for the products below
    assert row["transforms"] == {"h100": 2, "v5e": 0}[device]  # a TPU has no transform: they are products there


@pytest.mark.slow
@pytest.mark.release
def test_a_training_step_gathers_scores_but_no_activations(device, tmp_path):
    row = compiled(device, "train AlexNet, float32, shard_map, 8 devices", tmp_path)
    found = row["collectives"]
    assert found.pop("all-reduce")
    # Scores and labels of 64 images, not their maps, and the gradient of that; of both, a TPU makes all-reduces.
    assert sorted(found) == {"h100": ["all-gather", "reduce-scatter"], "v5e": []}[device]
    assert all(len(sizes) == 1 and sizes[0] <= 4 * 64 for sizes in found.values())
    assert row["transfers"] == 0
