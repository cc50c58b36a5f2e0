"""netsim beside a build of htsim: the same matrices on the same topologies."""
