"""What the model actors bind that needs no Ray to be seen."""

import socket

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.trainer.actor import LastingPort, RPGPolicyActor, RPGReferenceActor  # noqa: E402


def test_rendezvous_port_is_free_and_not_ephemeral():
    port = RPGPolicyActor._get_free_port()
    assert 20_000 <= port < 32_768
    with socket.create_server(("127.0.0.1", port)):
        assert all(LastingPort._get_free_port() != port for _ in range(50))


def test_both_models_take_their_port_from_it():
    assert RPGReferenceActor._get_free_port is RPGPolicyActor._get_free_port is LastingPort._get_free_port
