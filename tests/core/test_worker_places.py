"""Ray's workers: where they are, and what happens to units whose worker dies or fails."""

import os
import sys

import pytest
import units

from jaxiqa.cli.workers import Pool, computing
from jaxiqa.core.workers import TRIES, Place, alone, cores_of, places


def node(name, **resources):
    return {"NodeID": name, "Resources": {"CPU": 4.0, **resources}}


def test_each_gpu_of_a_cluster_has_one_worker():
    nodes = [node("a", GPU=2.0), node("b"), node("c", GPU=1.0)]
    assert [place.node for place in places(nodes, None)] == ["a", "a", "c"]
    assert {place.device for place in places(nodes, 2)} == {"GPU"}
    with pytest.raises(ValueError, match="--workers 4: there are 3 GPUs or TPUs"):
        places(nodes, 4)
    assert places([node("a", TPU=4.0)], None) == [Place("a", "TPU", (0, 1))] * 4


def test_without_gpus_each_machine_has_one_worker_or_they_share_its_cores():
    nodes = [node("a", GPU=2.0), node("b")]
    assert places(nodes, None, accelerators=False) == [Place("a", None, (0, 1)), Place("b", None, (0, 1))]
    assert [place.share for place in places(nodes, 3, accelerators=False)] == [(0, 2), (0, 1), (1, 2)]
    with pytest.raises(ValueError, match="no machine"):
        places([], None)


@pytest.mark.parametrize(("workers", "cores"), [(1, 5), (2, 5), (4, 4), (5, 2)])
def test_cores_are_shared_fairly(workers, cores):
    found = [cores_of((index, workers), range(10, 10 + cores)) for index in range(workers)]
    assert {len(one) for one in found} == {max(1, cores // workers)}
    if workers <= cores:
        assert len({core for one in found for core in one}) == sum(map(len, found))


def test_alone_computes_a_unit_when_its_result_is_asked_for():
    asked = []
    results = alone(units.square, {"scale": 2}, (asked.append(unit) or unit for unit in (1, 2, 3)))
    assert next(results) == 2
    assert asked == [1]
    assert list(results) == [8, 18]


def test_a_process_without_workers_does_not_import_ray():
    before = sys.modules.get("ray")
    with computing(None) as compute:
        assert compute is alone
    assert sys.modules.get("ray") is before


def test_ray_is_named_if_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxiqa\[ray\]'"), computing(Pool(2)):
        pass


def test_an_address_that_does_not_answer_is_an_error():
    pytest.importorskip("ray")
    said = r"--ray 127.0.0.1:1: no Ray cluster answers .* start it by `ray start`"
    with pytest.raises(ValueError, match=said), computing(Pool(None, "127.0.0.1:1")):
        pass


@pytest.fixture(scope="module")
def compute():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(units.__file__), *sys.path]))
        patch.setenv("JAXIQA_TESTED", "yes")
        with computing(Pool(2)) as found:
            yield found


@pytest.mark.slow
def test_every_unit_has_one_result(compute):
    assert sorted(compute(units.square, {"scale": 2}, range(100))) == [2 * n**2 for n in range(100)]
    assert list(compute(units.square, {"scale": 2}, [])) == []


@pytest.mark.slow
def test_workers_have_their_own_cores_and_the_programs_folder(compute):
    found = set(compute(units.place, None, range(8)))
    assert len(found) == 2
    (one, first, *rest), (other, second, *others) = found
    assert one != other
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(first) & set(second)
    assert rest == others == [1, "cpu", os.getcwd(), "yes"]


@pytest.mark.slow
def test_a_dead_worker_is_replaced_until_a_unit_has_ended_too_many(compute, tmp_path, capfd):
    assert sorted(compute(units.killed, tmp_path, [0, 1, 0, TRIES - 1, 0])) == [0, 0, 0, 1, TRIES - 1]
    with pytest.raises(ValueError, match=rf"{TRIES} workers died .*same unit; .*memory.* The unit: {TRIES}$"):
        list(compute(units.killed, tmp_path, [TRIES]))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("a worker died and is replaced") == TRIES + TRIES - 1
    assert sorted(compute(units.square, {"scale": 1}, range(4))) == [0, 1, 4, 9]


@pytest.mark.slow
def test_errors_and_warnings_of_a_unit_are_those_of_the_program(compute, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"^model m: attack a: not finite$"):
        list(compute(units.wrong, None, ["value"]))
    with pytest.raises(FileNotFoundError, match=r"missing.* \(on node .*all nodes need the same files"):
        list(compute(units.wrong, None, [str(tmp_path / "missing")]))
    assert sorted(compute(units.warned, None, range(3))) == [0, 1, 2]
    assert sorted(record.getMessage() for record in caplog.records) == [f"unit {n} is damaged" for n in range(3)]
