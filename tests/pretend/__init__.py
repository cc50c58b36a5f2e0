"""A device in pure Python that answers like a GPU: it shows on the CPU whether a run would work on one.

:func:`tests.pretend.device.register` makes ``torch.device("pretend")`` exist, for the whole process and for good:
register it in a process of its own, see :mod:`tests.pretend.process`. Its tensors compute on the CPU, and beside that

* an operation that mixes them with tensors of the CPU raises, but for a CPU's scalar where CUDA takes one;
* a generator of the other device raises;
* what makes the host wait for a GPU is counted, by kind and by the line that caused it
  (:class:`tests.pretend.synchronisation.Watch`).

Nothing is measured: how long a GPU takes, and whether its kernels are right, only a GPU shows.
"""
