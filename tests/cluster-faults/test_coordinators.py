"""Faults of the coordinator itself, and of nodes while it is away."""
import unittest

from net_cluster import GO_ON_S, LONG, PATIENT_MS, NetTest, clock_s, wait_until
from workload import COLLECTION, point_of

OUTAGE_S = 60 if LONG else 8  # Longer than sessions, leases and grants.
PUT, GET = f"/collections/{COLLECTION}/points", f"/collections/{COLLECTION}/points/"


class TestThreeMembers(NetTest):
    coordinators = 3

    def leader(self):
        return self.cluster.coordinator_leader()

    def back(self, *names):
        for name in names:
            self.cluster.coordinator.restart(name)
        self.cluster.wait_coordinators()

    def same_epochs(self, before):
        after = self.cluster.wait_in_sync()
        self.assertEqual({s: (v["epoch"], v["primary"]) for s, v in after.shards.items()},
                         {s: (v["epoch"], v["primary"]) for s, v in before.shards.items()}, "something changed for nothing")

    def test_leader_killed(self):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        load = self.begin_load()
        leader = wait_until(self.leader, GO_ON_S, "a leader of the coordinator")
        cluster.coordinator.kill(leader)
        wait_until(lambda: self.leader() not in (None, leader), GO_ON_S, "another leader of the coordinator")
        self.goes_on(load, "reads and writes without the coordinator's old leader", each=20)
        cluster.client(deadline_s=20).create_collection(f"after-{leader}", 4)  # Changes go on, too.
        self.back(leader)
        self.checked(load, "the coordinator's leader killed")
        self.assert_none(load.failed)
        self.same_epochs(before)

    def test_quorum_lost(self):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        load = self.begin_load()
        leader = wait_until(self.leader, GO_ON_S, "a leader of the coordinator")
        lost = [leader, next(name for name in cluster.coordinator_names if name != leader)]
        for name in lost:
            cluster.coordinator.kill(name)
        gone = clock_s()
        # Not a wait for something, but how long the outage is to last.
        while clock_s() < gone + OUTAGE_S:
            self.goes_on(load, f"reads and writes {clock_s() - gone:.1f} s after the coordinator lost its quorum", each=1)
        self.back(*lost)
        self.checked(load, f"the coordinator without a quorum for {OUTAGE_S} s")
        self.assert_none(load.failed)
        self.same_epochs(before)


    def test_each_member_cut_off_from_the_others(self):
        """Sidecars and clients reach all three, but one has no quorum and knows nothing: whoever asks it goes to another.
        Changes go on, and no request fails."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load()
        for name in cluster.coordinator_names:
            others = [other for other in cluster.coordinator_names if other != name]
            cluster.net.cut(cluster.at(name), cluster.at(*others))
            wait_until(lambda: not cluster.coordinator_answers(name) and self.leader() in others, GO_ON_S, f"{name} to be alone")
            cluster.client(deadline_s=GO_ON_S).create_collection(f"without-{name}", 4)
            self.goes_on(load, f"reads and writes while {name} is cut off from the others")
            cluster.net.mend()
            self.back()
        self.checked(load, "each member of the coordinator cut off from the others, one after the other")
        self.assert_none(load.failed)

    def test_one_link_between_members_cut(self):
        """The leader and one follower do not hear each other, the third hears both: leaders may follow one another."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load()
        leader = wait_until(self.leader, GO_ON_S, "a leader of the coordinator")
        follower = next(name for name in cluster.coordinator_names if name != leader)
        cluster.net.cut(cluster.at(leader), cluster.at(follower))
        self.goes_on(load, f"reads and writes while {leader} and {follower} do not hear each other", each=60)
        cluster.net.mend()
        self.back()
        self.checked(load, "the coordinator's leader and a follower cut off from each other")
        self.assert_none(load.failed)


class TestDeathMeanwhile(NetTest):
    """The coordinator is wholly down, and a node dies."""

    def in_all_sets(self, nodes):
        """These nodes and no others, and all of them know it: nobody will hear from the coordinator once it is away."""
        wanted = {shard: seen for shard, (seen, _) in self.cluster.descriptors().items()}
        return ({members for _, _, members in wanted.values()} == {frozenset(nodes)} and
                all(self.cluster.view(node) == wanted for node in nodes))

    def test_of_one_not_in_sync(self):
        """Writes go on."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        load = self.begin_load(cluster.others(node))
        cluster.net.cut(cluster.at(node), cluster.at(*cluster.others(node)))
        wait_until(lambda: self.in_all_sets(cluster.others(node)), GO_ON_S, f"the in-sync sets to be those without {node}")
        cluster.coordinator.kill()
        self.goes_on(load, "reads and writes without the coordinator")
        cluster.kill(node, "sidecar", "engine")
        self.goes_on(load, f"reads and writes without the coordinator and {node}", each=20)
        cluster.net.mend()
        cluster.restart(node, "engine", "sidecar")
        cluster.coordinator.restart()
        self.checked(load, "a node that was not in sync died while the coordinator was away")
        self.assert_none(load.failed)

    def test_of_one_in_sync(self):
        """Writes stop with words that say why, and so do linearizable reads; eventual reads go on. All goes on when it is
        back, though the node is not."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load(deadline_s=60)
        node = cluster.pick_primary()
        other = cluster.others(node)[0]
        led, mine = cluster.led_by(node, other), cluster.led_by(other, other)
        stored = {}
        for key in load.any_keys(40):
            answer = cluster.client(other).put(COLLECTION, [point_of(f"stored-{key}", 1)])
            stored[f"stored-{key}"] = answer.positions[0][0]
        cluster.wait_level()
        cluster.coordinator.kill()
        self.goes_on(load, "reads and writes without the coordinator")
        cluster.kill(node, "sidecar", "engine")
        key_of = {shard: key for key, shard in stored.items()}
        self.assertEqual(len(key_of), cluster.shards)
        for shard, key in key_of.items():
            wait_until(lambda: cluster.ask(other, "GET", GET + key)[0] == 503, GO_ON_S, f"reads of shard {shard} to stop")
            status, value = cluster.ask(other, "PUT", PUT, {"points": [point_of(key, 2)]})
            self.assertEqual(status, 503, f"shard {shard}: {value}")
            self.assertIn(value["applied"], (False, "unknown"))
            self.assertGreater(len(value["error"]["message"]), 20, value)
            status, value = cluster.ask(other, "GET", GET + key + "?consistency=eventual", timeout_ms=PATIENT_MS)
            self.assertEqual((status, value["metadata"]["value"]), (200, 1), value)
        cluster.coordinator.restart()
        self.goes_on(load, f"reads and writes with the coordinator again, without {node}", each=20)
        cluster.restart(node, "engine", "sidecar")
        self.checked(load, f"an in-sync node died while the coordinator was away ({len(led)} shards led there, {len(mine)} asked)")


class TestTwoOfThreeLost(NetTest):
    min_in_sync = 2

    def lose_two(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load(deadline_s=60)
        survivor = cluster.node_ids[1]
        for node in cluster.others(survivor):
            cluster.kill(node, "sidecar", "engine")
        return load, survivor

    def serves(self, survivor, load, method, path, wanted, body=None):
        """Each key, until the survivor answers so for it."""
        for key in load.any_keys(20):
            def answers():
                status, value = self.cluster.ask(survivor, method, path(key), body and body(key), 1000)
                return (status, value) if status in wanted else None
            wait_until(answers, GO_ON_S, f"{method} of {key} to be answered with {wanted}")

    def come_back(self, survivor, load, fault):
        for node in self.cluster.others(survivor):
            self.cluster.restart(node, "engine", "sidecar")
        self.checked(load, fault)

    def test_read_only(self):
        load, survivor = self.lose_two()
        self.serves(survivor, load, "GET", lambda key: GET + key, (200, 404))
        self.cluster.wait_refused(survivor, PUT, {"points": [point_of("another", 1)]}, "min_in_sync")
        self.come_back(survivor, load, "two of three replicas lost, min_in_sync 2")


class TestTwoOfThreeLostWithOneInSync(TestTwoOfThreeLost):
    min_in_sync = 1

    def test_read_only(self):
        """It is available instead."""
        load, survivor = self.lose_two()
        self.goes_on(load, f"reads and writes at {survivor} alone", each=20)
        self.come_back(survivor, load, "two of three replicas lost, min_in_sync 1")


if __name__ == "__main__":
    unittest.main()
