"""The hash that every seed is made of."""

from at2po_envs.seeds import stable_hash


def test_the_hash_is_what_recorded_runs_and_worlds_were_made_with():
    assert stable_hash(7, "rollout", 3, "hotpotqa/q17", (0, 2)) == 9267978993396486562
