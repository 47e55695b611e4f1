"""Several gateway processes, or machines, as one control plane.

:mod:`gateway.leases.membership` is a process's part: it reports, and puts grants into force. How the two travel is a
*link*: :mod:`gateway.leases.local` to the parent of the processes of one machine, which leads, or
:mod:`gateway.leases.store` through Redis, where one of the members leads. What is granted, and why that is safe, is
:mod:`controller.leases`.
"""
