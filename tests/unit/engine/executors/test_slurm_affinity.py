"""Which jobs wait for the node with their layers."""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.executors.slurm_affinity import HOSTS, LayerHosts, share_nodes


def test_layers_on_one_node_do_not_leave_the_other_idle() -> None:
    names = list("ijklmnop")
    assert share_nodes(names, dict.fromkeys(names, "kvm1"), {"kvm1", "kvm2"}) == dict.fromkeys("ijkl", "kvm1")


def test_layers_that_are_spread_keep_their_nodes() -> None:
    hosts = {"a": "kvm1", "b": "kvm2", "c": "kvm1"}
    assert share_nodes(["a", "b", "c"], hosts, {"kvm1", "kvm2"}) == hosts


def test_a_node_that_takes_no_jobs_is_not_waited_for() -> None:
    assert share_nodes(["a", "b"], {"a": "gone"}, {"kvm1"}) == {}
    assert share_nodes(["a"], {"a": "gone"}, set()) == {}


def test_the_record_of_hosts_survives_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    LayerHosts(tmp_path).remember("a", "kvm1")
    LayerHosts(tmp_path).remember("b", "kvm2")
    assert LayerHosts(tmp_path).read() == {"a": "kvm1", "b": "kvm2"}
    (tmp_path / HOSTS).write_text("{")
    assert LayerHosts(tmp_path).read() == {}
