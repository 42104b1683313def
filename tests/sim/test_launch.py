"""What a simulated microscope is started with."""

from __future__ import annotations

from pathlib import Path

from bluesky_edgestem.sim.launch import MicroscopeProcess


def test_no_port_is_one_that_a_client_may_be_given():
    """caproto's clients share ports: one in some 28,000 sockets was given that of the IOC, and asked itself for PVs."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = []
    for _ in range(20):
        env = MicroscopeProcess(separate_detector=True).client_env
        ports += [int(address.rpartition(":")[2]) for address in env["EPICS_CA_ADDR_LIST"].split()]
        ports.append(int(env["EPICS_CA_REPEATER_PORT"]))
    assert len(ports) == 60
    assert max(ports) < given
