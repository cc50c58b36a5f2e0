"""The windowed engine: the event engine's semantics, in windows of time within which links and hosts are independent.

A packet that leaves a node arrives at the next one after the delay of a link at the earliest. In a window no longer
than the shortest delay, what happens at one link or switch therefore depends on nothing that happens elsewhere: each
deals with its arrivals of the window, in their order, on its own. Hosts do too, between the instants in which tasks
begin.

After Chandy and Misra: Distributed Simulation, IEEE Transactions on Software Engineering 1979 (lookahead), and Brown:
Calendar Queues, Communications of the ACM 1988 (buckets).
"""
