"""The collector's thresholds around a process's imports."""

import gc

from rpg_openrlhf import garbage


def test_collections_are_rare_and_then_usual():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        garbage.rarely()
        assert gc.get_threshold()[0] > usual[0]
        garbage.as_usual()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > frozen
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
