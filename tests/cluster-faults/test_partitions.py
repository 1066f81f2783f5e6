"""Partitions between a primary and others, while clients go on: writes and reads go on at whom clients can reach, no read is
stale, nothing acknowledged is lost, and all is in sync again once it is mended. The primary is the node that leads most."""
import unittest

from net_cluster import GO_ON_S, NetTest, wait_until


class TestPartitions(NetTest):
    relayed = ("node-3",)

    def during(self, fault, make, nodes=None, then=None):
        """Load before, while and after make(primary, replicas) has made its fault. nodes: of whom clients know."""
        cluster = self.cluster
        cluster.wait_in_sync()
        primary = cluster.pick_primary()
        load = self.begin_load(nodes)
        make(primary, cluster.others(primary))
        self.goes_on(load, f"reads and writes during: {fault}", each=20)
        if then:
            then(primary, load)
        cluster.net.mend()
        self.checked(load, fault)
        return load

    def test_from_one_replica(self):
        def cut(primary, replicas):
            self.cluster.net.cut(self.cluster.at(primary), self.cluster.at(replicas[0]))

        self.during("a primary cut off from one replica", cut)

    def test_from_all_replicas(self):
        """It can reach the coordinator and clients, and confirms nothing: the replicas go on without it."""
        cluster = self.cluster

        def cut(primary, replicas):
            cluster.net.cut(cluster.at(primary), cluster.at(*replicas))

        self.during("a primary cut off from all replicas", cut, then=lambda primary, load: cluster.wait_leads_nothing(primary))

    def test_clients_side(self):
        """Clients cannot reach it, all others can: it goes on leading, and others forward to it. A machine that stalls for a second
        may depose a primary once, but hardly twice."""
        self.assertTrue(self.leads_on() or self.leads_on(), "deposed because clients could not reach it")

    def leads_on(self):
        cluster = self.cluster
        before, after = {}, {}

        def cut(primary, replicas):
            before.update(wait_until(cluster.descriptors, GO_ON_S, "the descriptors"))
            cluster.net.cut(cluster.at("clients"), cluster.at(primary))

        def asked(primary, load):
            after.update(wait_until(cluster.descriptors, GO_ON_S, "the descriptors"))
            self.assertTrue(any(seen[1] == primary for seen, _ in before.values()))

        self.during("a primary cut off from clients", cut, then=asked)
        return {shard: seen[:2] for shard, (seen, _) in before.items()} == {shard: seen[:2] for shard, (seen, _) in after.items()}

    def test_it_is_not_heard(self):
        """One way: what it sends to the replicas is lost; what they send arrives."""
        self.during("one way, from the primary to the replicas", lambda primary, replicas: self.cluster.net.cut_one_way(
            self.cluster.at(primary), self.cluster.at(*replicas)))

    def test_it_does_not_hear(self):
        self.during("one way, from the replicas to the primary", lambda primary, replicas: self.cluster.net.cut_one_way(
            self.cluster.at(*replicas), self.cluster.at(primary)))

    def test_reset(self):
        self.during("a primary whose packets to the replicas are rejected", lambda primary, replicas: self.cluster.net.reset(
            self.cluster.at(primary), self.cluster.at(*replicas)))

    def test_reset_by_everybody(self):
        """Rejected by replicas and coordinator, while clients reach it: it must not answer out of what it knows (PROTOCOL V3, G2)."""
        cluster = self.cluster
        self.during("a primary rejected by replicas and coordinator", lambda primary, replicas: cluster.net.reset(
            cluster.at(primary), cluster.at(*replicas, *cluster.coordinator_names)))

    def test_loss(self):
        """30 % of all packets between it and everybody else."""
        cluster = self.cluster
        self.during("30 % packet loss around a primary", lambda primary, replicas: cluster.net.lose(
            cluster.at(primary), cluster.at(*replicas, *cluster.coordinator_names, "clients"), 0.3))

    def test_delay(self):
        """Everything from and to node-3 takes 200 ms longer, each way: its answers are too late for grants."""
        cluster = self.cluster
        self.during("200 ms delay around a node", lambda primary, replicas: cluster.net.delay(cluster.places["node-3"], 200))

    def test_reordered(self):
        """Frames from and to node-3 take up to 40 ms, each its own time, and overtake each other: no request fails."""
        cluster = self.cluster
        self.assert_none(self.during("frames around a node reordered",
                                     lambda primary, replicas: cluster.net.delay(cluster.places["node-3"], 0, 40)).failed)

    def test_again_and_again(self):
        """Cut and mended as soon as writes go on, each time another node."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load()
        for turn in range(6):
            node = cluster.node_ids[turn % 3]
            cluster.net.cut(cluster.at(node), cluster.at(*cluster.others(node)))
            self.goes_on(load, f"reads and writes without {node}", each=1)
            cluster.net.mend()
        self.checked(load, "six partitions, one after the other")


if __name__ == "__main__":
    unittest.main()
